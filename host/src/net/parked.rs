//! Connections that outlive a crash: while one rests, the memory that survives it says how it can be gone on with.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::{
    net::{
        connection::Connection, connections::Connections, entry::Entry, lot::NO_SPACE,
        stream::Stream, succession::ConnectionRecord,
    },
    sys::crash::{self, Keeps, Kept},
};

impl Connection {
    /// Says how it could be gone on with once it [`rests`](Connection::rests), after a crash: whose it is then, by the number of a
    /// generation, and with what. False if the record is too long to be kept.
    pub fn keep(&self, owner: u64, keeps: Keeps, record: &[u8]) -> bool {
        let entry = &self.entry;
        let Some(descriptor) = entry.descriptor() else { return true };
        let kept = Kept {
            descriptor,
            owner,
            id: entry.id,
            opened_ms: entry.opened_ms,
            listener: entry.listener.get(),
            record: None,
        };
        crash::keep(&kept, keeps, record)
    }

    /// It rests as it was kept, until it is unparked.
    pub fn rests(&self) {
        if let Some(descriptor) = self.entry.descriptor() {
            crash::rest(descriptor);
        }
    }
}

impl Entry {
    fn descriptor(&self) -> Option<RawFd> {
        match &*self.stream() {
            Stream::Nowhere => None,
            stream => Some(stream.as_fd().as_raw_fd()),
        }
    }

    /// It does not rest any more, if it has ever.
    pub(super) fn rise(&self) {
        if self.space.get() != NO_SPACE
            && let Some(descriptor) = self.descriptor()
        {
            crash::rise(descriptor);
        }
    }
}

impl ConnectionRecord {
    /// Of a connection that has rested when the process crashed. What went over it is not known any more.
    #[must_use]
    pub fn kept(kept: &Kept, connections: &Connections) -> ConnectionRecord {
        let age_ms = connections.age_ms().saturating_sub(kept.opened_ms);
        ConnectionRecord::resting(kept.descriptor, kept.id, kept.listener, age_ms)
    }
}
