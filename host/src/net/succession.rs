//! Connections and listeners that go over to another image of the host in the same process: their descriptors stay where they are, and
//! what else is known of them is written down.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::{
    net::{
        connection::Connection,
        connections::{Connections, Owner, Place, State},
        entry::{self, End, Entry},
        stream::{Resting, Stream},
    },
    sys::{
        clock,
        crash::{self, Keeps, Kept},
    },
};

/// What is written down of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRecord {
    /// Its descriptor.
    pub descriptor: RawFd,
    /// Its number.
    pub id: u64,
    listener: u32,
    age_ms: u64,
    bytes_in: u64,
    bytes_out: u64,
    is_without_delay: bool,
    /// Read, and not used.
    unread: Vec<u8>,
}

impl ConnectionRecord {
    /// Of one that rests, and of which no more is known.
    pub(super) fn resting(
        descriptor: RawFd,
        id: u64,
        listener: u32,
        age_ms: u64,
    ) -> ConnectionRecord {
        ConnectionRecord {
            descriptor,
            id,
            listener,
            age_ms,
            bytes_in: 0,
            bytes_out: 0,
            is_without_delay: true,
            unread: Vec::new(),
        }
    }

    /// The same as numbers, with another number of up to 63 bits beside it, for where there are very many. Only of one that has nothing
    /// unread.
    #[must_use]
    pub fn words(&self, beside: u64) -> [u64; WORDS] {
        debug_assert!(self.unread.is_empty());
        // The clock is the system's, and goes on in another image.
        let opened_ms = (clock::monotonic_ns() / 1_000_000).saturating_sub(self.age_ms);
        [
            u64::from(self.descriptor.cast_unsigned()) | u64::from(self.listener) << 32,
            self.id,
            opened_ms,
            self.bytes_in,
            self.bytes_out,
            u64::from(self.is_without_delay) | beside << 1,
        ]
    }

    /// What [`ConnectionRecord::words`] says, and the number beside it.
    #[must_use]
    pub fn of_words(words: [u64; WORDS]) -> (ConnectionRecord, u64) {
        let [descriptor, id, opened_ms, bytes_in, bytes_out, more] = words;
        let record = ConnectionRecord {
            descriptor: (descriptor as u32).cast_signed(),
            id,
            listener: (descriptor >> 32) as u32,
            age_ms: (clock::monotonic_ns() / 1_000_000).saturating_sub(opened_ms),
            bytes_in,
            bytes_out,
            is_without_delay: more & 1 != 0,
            unread: Vec::new(),
        };
        (record, more >> 1)
    }

    /// That it rests, for a crash before anybody has gone on with it: whose it is then, by the number of a generation.
    pub fn keep_resting(&self, owner: u64, connections: &Connections) {
        let kept = Kept {
            descriptor: self.descriptor,
            owner,
            id: self.id,
            opened_ms: connections.age_ms().saturating_sub(self.age_ms),
            listener: self.listener,
            record: None,
        };
        if crash::keep(&kept, Keeps::NoState, &[]) {
            crash::rest(self.descriptor);
        }
    }
}

/// How many numbers a record is.
pub const WORDS: usize = 6;

impl Connection {
    /// Writes down what another image needs to go on with it. Nothing has changed for this one.
    #[must_use]
    pub fn record(&self) -> ConnectionRecord {
        let entry = &self.entry;
        ConnectionRecord {
            descriptor: entry.stream().as_fd().as_raw_fd(),
            id: entry.id,
            listener: entry.listener.get(),
            age_ms: u64::try_from(entry.age().as_millis()).unwrap_or(u64::MAX),
            bytes_in: entry.bytes_in.get(),
            bytes_out: entry.bytes_out.get(),
            is_without_delay: entry.is_without_delay.get(),
            unread: entry.unread.copy(),
        }
    }

    /// It is another process's now: whatever is dropped here, nothing of it is read, sent or ended.
    pub fn leave(&self) {
        // Else a drop would end the output where input has come, which is for the other process.
        self.entry.end.set(Some(End::Killed));
    }

    /// Goes on with a connection of another image, whose descriptor is `socket`. It is at rest.
    ///
    /// # Errors
    /// The descriptor, if it is no connected stream socket, and why.
    pub fn inherit(
        record: &ConnectionRecord,
        socket: OwnedFd,
        owner: Rc<Owner>,
        place: Place,
    ) -> Result<Connection, (OwnedFd, io::Error)> {
        let peer = match SockRef::from(&socket).peer_addr() {
            Ok(peer) => peer,
            Err(error) => return Err((socket, error)),
        };
        let remote = entry::from_system(&peer);
        let stream = match peer.is_unix() {
            true => Stream::Resting(Resting::Unix(socket.into())),
            false => Stream::Resting(Resting::Tcp(socket.into())),
        };
        let opened_ms = place.table().age_ms().saturating_sub(record.age_ms);
        let entry = Entry::known(
            record.id,
            opened_ms,
            stream,
            remote,
            None,
            record.listener,
            State::Open,
            owner,
            place,
        );
        entry.bytes_in.set(record.bytes_in);
        entry.bytes_out.set(record.bytes_out);
        entry.is_without_delay.set(record.is_without_delay);
        entry.unread.put_back(&record.unread);
        Ok(Connection::new(entry))
    }
}
