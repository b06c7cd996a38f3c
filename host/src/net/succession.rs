//! Connections and listeners that go over to another image of the host in the same process: their descriptors stay where they are, and
//! what else is known of them is written down.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    rc::Rc,
};

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use crate::net::{
    connection::Connection,
    connections::{Owner, Place, State},
    entry::{self, End, Entry},
    stream::{Resting, Stream},
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
}

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
        let reference = SockRef::from(&socket);
        let known = reference.peer_addr().and_then(|peer| Ok((peer, reference.domain()?)));
        let (remote, domain) = match known {
            Ok((peer, domain)) => (entry::from_system(&peer), domain),
            Err(error) => return Err((socket, error)),
        };
        let is_unix = domain == socket2::Domain::UNIX;
        let stream = match is_unix {
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
