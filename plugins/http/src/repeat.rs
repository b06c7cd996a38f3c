//! A client that asks the same again: the last request of its connection, byte by byte, and the answer that it was given again.
//!
//! All that an answer of the [`crate::cache`] depends on is in the bytes of the request's head and in the giver's leave. So of a head
//! that is the same to the last byte nothing has to be read, and only the leave is asked for.

use std::{
    rc::{Rc, Weak},
    time::Duration,
};

use medusa_plugin_api::Instant;

use crate::cache::Answer;

/// Longer heads are read each time.
const HEAD_BYTES_MAX: usize = 2048;

/// After so long the cache is asked again: it has to know what is used.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The last request of a connection, if its answer was given again. It keeps no answer that the cache has dropped.
#[derive(Default)]
pub(crate) struct Repeat {
    answer: Weak<Answer>,
    /// Its head as it came; empty if it was not kept.
    head: Vec<u8>,
    /// Until when it counts.
    until: Option<Instant>,
}

impl Repeat {
    /// The answer to what `bytes` begin with, and of how many bytes that request is, if it is the last one again.
    pub(crate) fn find(&self, bytes: &[u8], now: Instant) -> Option<(Rc<Answer>, usize)> {
        let is_same = self.until.is_some_and(|until| now < until) && bytes.starts_with(&self.head);
        if !is_same {
            return None;
        }
        Some((self.answer.upgrade()?, self.head.len()))
    }

    /// A request is about to be read, which may change its bytes. They are noted if the one before was given an answer again: of a
    /// client that is given none nothing is copied.
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        self.until = None;
        self.head.clear();
        if self.answer.strong_count() > 0 {
            self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_BYTES_MAX)]);
        }
    }

    /// The request that was noted has a head of `length` bytes, and was given `answer` again.
    pub(crate) fn keep(&mut self, length: usize, answer: &Rc<Answer>, now: Instant) {
        if length <= self.head.len() {
            self.head.truncate(length);
            self.until = Some(now + GOOD_FOR);
        }
        self.answer = Rc::downgrade(answer);
    }

    /// Whatever was asked last was not given an answer again.
    pub(crate) fn forget(&mut self) {
        *self = Repeat::default();
    }
}
