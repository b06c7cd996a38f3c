//! A directory's entries, read on the pool in batches.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd},
};

use medusa_abi::file::FileInfo;
use rustix::{
    fs::{AtFlags, Dir},
    io::Errno,
};

use crate::file::info;

/// How many entries are read, and kept in memory, at a time.
const BATCH_ENTRIES_MAX: usize = 256;

/// A name in a directory with what `lstat` says of it.
pub(super) type Entry = (Vec<u8>, FileInfo);

/// Where the reading of a directory is.
#[derive(Debug)]
pub(super) struct Listing {
    directory: Dir,
    pub(super) entries: VecDeque<Entry>,
    pub(super) is_done: bool,
}

impl Listing {
    /// Begins at the first entry; the descriptor's own position is left alone. May block.
    pub(super) fn begin(directory: BorrowedFd<'_>) -> io::Result<Listing> {
        let directory = Dir::read_from(directory)?;
        Ok(Listing { directory, entries: VecDeque::new(), is_done: false })
    }

    /// Reads the next entries, unless all were read. Blocks.
    pub(super) fn read_batch(&mut self) -> io::Result<()> {
        while !self.is_done && self.entries.len() < BATCH_ENTRIES_MAX {
            let Some(entry) = self.directory.read() else {
                self.is_done = true;
                break;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(self.directory.fd()?.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
            {
                Ok(stat) => {
                    self.entries.push_back((name.to_bytes().to_vec(), info::from_stat(&stat)));
                }
                // Removed since it was listed.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
