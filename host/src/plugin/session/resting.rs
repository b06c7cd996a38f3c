//! Sessions that are as good as new while they rest, on their way to another image of the host: there may be very many, and they are
//! written one after the other into one piece of memory.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::net::succession::{ConnectionRecord, WORDS};

/// Bytes of what comes before a state.
const HEAD_BYTES: usize = WORDS * size_of::<u64>();

/// The records of sessions that rest, and have no state that matters.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RestingRecords {
    count: usize,
    /// For each the words of its connection, with the length of its state beside them, and the state.
    bytes: ByteBuf,
}

impl RestingRecords {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds one. Answers where it begins.
    pub(super) fn push(&mut self, connection: &ConnectionRecord, state: &[u8]) -> usize {
        let from = self.bytes.len();
        let words = connection.words(state.len() as u64);
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.bytes.extend_from_slice(state);
        self.count += 1;
        from
    }

    /// Adds the one of others that begins there. False if none does.
    pub(super) fn push_of(&mut self, others: &RestingRecords, from: usize) -> bool {
        let Some((_, _, next)) = others.at(from) else { return false };
        self.bytes.extend_from_slice(&others.bytes[from..next]);
        self.count += 1;
        true
    }

    /// The record that begins at this byte, and where the next begins; none behind the last one.
    #[must_use]
    pub fn at(&self, from: usize) -> Option<(ConnectionRecord, &[u8], usize)> {
        let (head, rest) = self.bytes.get(from..)?.split_at_checked(HEAD_BYTES)?;
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(head.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let (connection, length) = ConnectionRecord::of_words(words);
        let state = rest.get(..usize::try_from(length).ok()?)?;
        Some((connection, state, from + HEAD_BYTES + state.len()))
    }

    /// The connections.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionRecord> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let (connection, _, next) = self.at(from)?;
            from = next;
            Some(connection)
        })
    }
}
