//! Sessions that are as good as new while they rest, on their way to another image of the host: there may be very many, and they are
//! written one after the other into a memory file of their own, most of them before the pause.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::fs::FileExt as _,
    },
};

use medusa_abi::data::Handle;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    net::succession::{ConnectionRecord, WORDS},
    sys::{exec, memfd},
};

/// Bytes of what comes before a state.
const HEAD_BYTES: usize = WORDS * size_of::<u64>();

/// Where a record begins in the file, and the descriptor of its connection.
type Entry = [u8; 8];

/// The records of sessions that rest, and have no state that matters: those in the file that are true still.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RestingRecords {
    /// If there are any.
    file: Option<RawFd>,
    /// An [`Entry`] for each.
    entries: ByteBuf,
}

/// The file as it is being written.
#[derive(Debug, Default)]
pub(super) struct Notes {
    file: Option<File>,
    written: usize,
    /// What comes into the file next: for each session the words of its connection, with the length of its state beside them, and the
    /// state.
    next: Vec<u8>,
    entries: Vec<Entry>,
    /// Where those sessions are that have not risen since. Not in the sessions: there may be very many, and mostly none is noted.
    places: HashMap<Handle, u32>,
}

/// The file as it was read.
#[derive(Debug)]
pub struct Read(Vec<u8>);

impl Notes {
    /// Adds a session.
    pub(super) fn push(
        &mut self,
        session: Handle,
        connection: &ConnectionRecord,
        state: &[u8],
    ) -> io::Result<()> {
        let from = u32::try_from(self.written + self.next.len()).map_err(io::Error::other)?;
        let words = connection.words(state.len() as u64);
        self.next.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.next.extend_from_slice(state);
        let [from, descriptor] = [from.to_le_bytes(), connection.descriptor.to_le_bytes()];
        self.entries
            .push(std::array::from_fn(|at| if at < 4 { from[at] } else { descriptor[at - 4] }));
        let place = u32::try_from(self.entries.len() - 1).map_err(io::Error::other)?;
        self.places.insert(session, place);
        Ok(())
    }

    /// A session is not as it was written down.
    pub(super) fn forget(&mut self, session: Handle) {
        // Mostly there are none.
        if !self.places.is_empty() {
            self.places.remove(&session);
        }
    }

    /// Writes what was added.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.next.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(memfd::create("medusa:resting")?.into()),
        };
        file.write_all_at(&self.next, self.written as u64)?;
        self.written += self.next.len();
        self.next.clear();
        Ok(())
    }

    /// Adds a session to those that are true, if it was written down. False if not.
    pub(super) fn confirm(&self, session: Handle, records: &mut RestingRecords) -> bool {
        let place = self.places.get(&session);
        let entry = place.and_then(|place| self.entries.get(*place as usize));
        records.entries.extend(entry.into_iter().flatten());
        entry.is_some()
    }

    /// What was written is to be found here.
    pub(super) fn show(&self, records: &mut RestingRecords) {
        records.file = self.file.as_ref().map(|file| file.as_raw_fd());
    }
}

impl RestingRecords {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.as_chunks::<8>().0.len()
    }

    /// All descriptors: that of the file too.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.file.into_iter().chain((0..self.count()).filter_map(|number| self.descriptor(number)))
    }

    /// That of the connection with this number; they count from 0.
    #[must_use]
    pub fn descriptor(&self, number: usize) -> Option<RawFd> {
        let [.., a, b, c, d] = *self.entries.as_chunks::<8>().0.get(number)?;
        Some(RawFd::from_le_bytes([a, b, c, d]))
    }

    /// Reads the file, and closes it: once.
    ///
    /// # Errors
    /// It is not there.
    pub fn read(&mut self) -> io::Result<Read> {
        let mut bytes = Vec::new();
        if let Some(descriptor) = self.file.take() {
            let mut file = File::from(exec::take(descriptor)?);
            file.rewind()?;
            file.read_to_end(&mut bytes)?;
        }
        Ok(Read(bytes))
    }

    /// The record with this number, and its state.
    #[must_use]
    pub fn record<'a>(
        &self,
        number: usize,
        read: &'a Read,
    ) -> Option<(ConnectionRecord, &'a [u8])> {
        let [a, b, c, d, ..] = *self.entries.as_chunks::<8>().0.get(number)?;
        let from = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
        let (head, rest) = read.0.get(from..)?.split_at_checked(HEAD_BYTES)?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(head.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let (connection, length) = ConnectionRecord::of_words(words);
        Some((connection, rest.get(..usize::try_from(length).ok()?)?))
    }
}
