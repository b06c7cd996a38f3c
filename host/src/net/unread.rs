//! Bytes that were read from a connection and not used: whoever reads next gets them first.

use std::{cell::Cell, fmt};

use tokio::io::ReadBuf;

/// The bytes of one connection. Most never have any, so that these are one word.
#[derive(Default)]
#[expect(
    clippy::box_collection,
    reason = "a vector is three words, and there may be very many connections that rest"
)]
pub(super) struct Unread(Cell<Option<Box<Vec<u8>>>>);

impl Unread {
    /// Has `bytes` be read before those that are here.
    pub(super) fn put_back(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut all = bytes.to_vec();
        all.extend(self.0.take().into_iter().flat_map(|behind| *behind));
        self.0.set(Some(Box::new(all)));
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        let unread = self.0.take();
        let is_empty = unread.is_none();
        self.0.set(unread);
        is_empty
    }

    /// What there is.
    pub(super) fn copy(&self) -> Vec<u8> {
        let unread = self.0.take();
        let copy = unread.as_deref().cloned().unwrap_or_default();
        self.0.set(unread);
        copy
    }

    /// Moves what there is, as far as there is room for it. Answers how much that was.
    pub(super) fn read(&self, buffer: &mut ReadBuf<'_>) -> usize {
        let Some(mut unread) = self.0.take() else { return 0 };
        let count = unread.len().min(buffer.remaining());
        buffer.put_slice(&unread[..count]);
        unread.drain(..count);
        self.0.set(Some(unread).filter(|unread| !unread.is_empty()));
        count
    }
}

impl fmt::Debug for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unread({})", if self.is_empty() { "none" } else { "some" })
    }
}
