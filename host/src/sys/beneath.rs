//! Files beneath a root, opened so that no name leads out of it, and read without waiting for a disk.

use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, ReadWriteFlags, preadv2},
};

/// Which symbolic links are followed on the way to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Those that stay beneath the root.
    Beneath,
    /// None.
    Refused,
}

/// Whether an operation may wait for a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It may; call it on the pool.
    Allowed,
    /// It may not: what is not in memory fails with [`io::ErrorKind::WouldBlock`].
    Never,
}

/// How often an open that raced with a rename is tried again (openat2(2), EAGAIN) before it fails.
const RACES_MAX: usize = 8;

/// Opens a directory as a root for [`open`].
///
/// # Errors
/// What the kernel says: it is not there, not a directory, or not readable.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Opens `path` beneath `root` with `flags` (close-on-exec and non-blocking are added, so that a named pipe cannot hold the caller up;
/// for regular files non-blocking means nothing); `mode` is for files that are made.
///
/// # Errors
/// `EXDEV` where the path leads out of the root, `ELOOP` at a link that is not followed, [`io::ErrorKind::WouldBlock`] where the
/// answer is not in memory and `wait` is [`Wait::Never`] (or where a link is in the way that only a waiting open may follow), and
/// whatever else openat2(2) says.
pub fn open(
    root: impl AsFd,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    links: Links,
    wait: Wait,
) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = resolve_flags(links, wait);
    for _ in 0..RACES_MAX {
        match openat2(&root, path, flags, mode, resolve) {
            Err(Errno::AGAIN) if wait == Wait::Allowed => {}
            other => return Ok(other?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Reads at `offset` into `buffer`; 0 at the end of the file.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] where the first byte is not in memory and `wait` is [`Wait::Never`] (also where the file system does
/// not know how to say so), and whatever else preadv2(2) says.
pub fn read_at(file: impl AsFd, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<usize> {
    // Such an offset is a negative one to the system, and -1 would mean the descriptor's own position.
    if i64::try_from(offset).is_err() {
        return Err(Errno::INVAL.into());
    }
    let flags = match wait {
        Wait::Allowed => ReadWriteFlags::empty(),
        Wait::Never => ReadWriteFlags::NOWAIT,
    };
    match preadv2(file, &mut [IoSliceMut::new(buffer)], offset, flags) {
        Err(Errno::OPNOTSUPP) if wait == Wait::Never => Err(Errno::AGAIN.into()),
        other => Ok(other?),
    }
}

fn resolve_flags(links: Links, wait: Wait) -> ResolveFlags {
    let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refused {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    if wait == Wait::Never {
        resolve |= ResolveFlags::CACHED;
    }
    resolve
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn open_for_reading(
        root: &OwnedFd,
        path: &str,
        links: Links,
        wait: Wait,
    ) -> io::Result<OwnedFd> {
        open(root, Path::new(path), OFlags::RDONLY, Mode::empty(), links, wait)
    }

    #[test]
    fn nothing_leads_out_of_the_root() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("root")).unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        fs::write(folder.path().join("root/file"), "hello").unwrap();
        symlink("file", folder.path().join("root/inside")).unwrap();
        symlink("../secret", folder.path().join("root/outside")).unwrap();
        symlink("/proc/self/root", folder.path().join("root/magic")).unwrap();
        let root = open_root(&folder.path().join("root")).unwrap();

        let error = |path, links| {
            open_for_reading(&root, path, links, Wait::Allowed).unwrap_err().raw_os_error().unwrap()
        };
        for path in ["../secret", "outside", "/etc/passwd", "magic/etc/passwd"] {
            assert_eq!(error(path, Links::Beneath), libc::EXDEV, "{path}");
        }
        assert_eq!(error("inside", Links::Refused), libc::ELOOP);
        assert_eq!(error("nothing", Links::Beneath), libc::ENOENT);

        let file = open_for_reading(&root, "inside", Links::Beneath, Wait::Allowed).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read_at(&file, &mut buffer, 1, Wait::Allowed).unwrap(), 4);
        assert_eq!(&buffer[..4], b"ello");
        assert_eq!(read_at(&file, &mut buffer, 5, Wait::Allowed).unwrap(), 0);
    }

    #[test]
    fn what_is_in_memory_is_answered_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "hello").unwrap();
        let root = open_root(folder.path()).unwrap();
        drop(open_for_reading(&root, "file", Links::Refused, Wait::Allowed).unwrap());
        let file = match open_for_reading(&root, "file", Links::Refused, Wait::Never) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return, // Not every file system can say.
            other => other.unwrap(),
        };
        let mut buffer = [0; 8];
        match read_at(&file, &mut buffer, 0, Wait::Never) {
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            Ok(read) => assert_eq!(&buffer[..read], b"hello"),
        }
    }

    #[test]
    fn a_named_pipe_does_not_hold_the_caller_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let root = open_root(folder.path()).unwrap();
        assert!(open_for_reading(&root, "pipe", Links::Refused, Wait::Allowed).is_ok());
    }
}
