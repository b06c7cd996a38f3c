//! Connections in memory: two pipes between two ends.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
};

use super::wake::{Kept, wake_slot};

/// How many unread bytes a pipe holds before writing waits.
const CAPACITY_BYTES: usize = 64 * 1024;

/// One direction.
#[derive(Default)]
pub(super) struct Pipe {
    bytes: RefCell<VecDeque<u8>>,
    /// The writer has ended its half.
    pub(super) ended: Cell<bool>,
    /// The writer has gone altogether.
    pub(super) writer_gone: Cell<bool>,
    pub(super) reader_gone: Cell<bool>,
    pub(super) reset: Cell<bool>,
    /// Whoever waits for bytes, for room, and for the end of it all.
    pub(super) reader: RefCell<Option<Kept>>,
    pub(super) writer: RefCell<Option<Kept>>,
    pub(super) hangup: RefCell<Option<Kept>>,
}

impl Pipe {
    pub(super) fn room(&self) -> usize {
        CAPACITY_BYTES.saturating_sub(self.bytes.borrow().len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }

    pub(super) fn write(&self, bytes: &[u8]) {
        self.bytes.borrow_mut().extend(bytes);
        wake_slot(&self.reader);
    }

    pub(super) fn read(&self, bytes_max: usize) -> Vec<u8> {
        let mut bytes = self.bytes.borrow_mut();
        let count = bytes_max.min(bytes.len());
        let read = bytes.drain(..count).collect();
        drop(bytes);
        wake_slot(&self.writer);
        read
    }

    pub(super) fn end(&self) {
        self.ended.set(true);
        wake_slot(&self.reader);
    }
}

/// One end of a connection.
pub(super) struct End {
    pub(super) input: Rc<Pipe>,
    pub(super) output: Rc<Pipe>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

impl End {
    /// A pair of ends: the one at `near`, and the one at `far`.
    pub(super) fn pair(near: SocketAddr, far: SocketAddr) -> (End, End) {
        let (a, b) = (Rc::new(Pipe::default()), Rc::new(Pipe::default()));
        (
            End { input: a.clone(), output: b.clone(), local: near, remote: far },
            End { input: b, output: a, local: far, remote: near },
        )
    }

    /// Whether the peer has gone altogether.
    pub(super) fn hung_up(&self) -> bool {
        self.input.writer_gone.get() && self.output.reader_gone.get()
    }

    /// Whether a read would answer at once.
    pub(super) fn readable(&self) -> bool {
        !self.input.is_empty() || self.input.ended.get() || self.input.reset.get()
    }

    /// Leaves: what was written can still be read, unless `reset`.
    pub(super) fn leave(&self, reset: bool) {
        self.output.reset.set(reset);
        self.output.writer_gone.set(true);
        self.input.reader_gone.set(true);
        self.output.end();
        wake_slot(&self.input.writer);
        wake_slot(&self.output.hangup);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.output.writer_gone.get() {
            self.leave(false);
        }
    }
}
