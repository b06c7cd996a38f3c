//! Closes a connection so that the peer gets what was sent to it.
//!
//! A TCP socket that is closed with unread input answers with a reset, which can overtake what was written before
//! (RFC 9112 section 9.6). So the writing half is ended, and for a short time what comes in is thrown away.

use std::{
    cell::Cell, future::poll_fn, io, net::Shutdown, os::fd::AsFd, rc::Rc, task::Poll,
    time::Duration,
};

use rustix::net::RecvFlags;

use crate::{
    config::Limits,
    net::{connections::State, entry::Entry},
};

/// The connections that are closed in this way.
#[derive(Debug)]
pub(super) struct Closing {
    /// How many there are now.
    count: Rc<Cell<u64>>,
    limits: Linger,
}

/// How far this goes for the sake of a peer: the limits of these names.
#[derive(Clone, Copy, Debug)]
struct Linger {
    connections_max: u64,
    time_max: Duration,
    bytes_max: u64,
}

/// How much is read in one call.
const PIECE_BYTES: usize = 16 * 1024;

impl Closing {
    /// None yet.
    pub(super) fn new(limits: &Limits) -> Closing {
        let limits = Linger {
            connections_max: limits.lingering_connections_max,
            time_max: Duration::from_millis(limits.linger_ms_max),
            bytes_max: limits.linger_bytes_max,
        };
        Closing { count: Rc::default(), limits }
    }
}

/// Closes `entry`, whose connection was dropped, in good order. Has to be called on a local runtime to do more than to close it.
pub(super) fn close(entry: Rc<Entry>, closing: &Closing) {
    if entry.end.get().is_some() || entry.state.get() == State::Connecting || !has_input(&entry) {
        return;
    }
    let (count, limits) = (closing.count.clone(), closing.limits);
    if count.get() >= limits.connections_max || tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    count.set(count.get() + 1);
    entry.state.set(State::Closing);
    entry.forget_wakers();
    tokio::task::spawn_local(async move {
        if let Err(error) = entry.shutdown(Shutdown::Write) {
            tracing::debug!("cannot end the output of connection {}: {error}", entry.id);
        }
        // Whether the time is up or the peer is done makes no difference: the socket is closed.
        let _ =
            tokio::time::timeout(limits.time_max, throw_input_away(&entry, limits.bytes_max)).await;
        count.set(count.get() - 1);
    });
}

fn has_input(entry: &Entry) -> bool {
    match &*entry.stream() {
        stream if stream.is_tcp() => {
            rustix::io::ioctl_fionread(stream.as_fd()).is_ok_and(|bytes| bytes > 0)
        }
        _ => false,
    }
}

async fn throw_input_away(entry: &Entry, bytes_max: u64) -> io::Result<()> {
    entry.enter_reactor()?;
    let mut piece = [0; PIECE_BYTES];
    let mut left = bytes_max;
    while left > 0 && entry.end.get().is_none() {
        let read = poll_fn(|cx| -> Poll<io::Result<usize>> {
            entry.stream().poll_input(cx, |socket| {
                Ok(rustix::net::recv(socket, &mut piece, RecvFlags::DONTWAIT)?.0)
            })
        });
        match read.await? {
            0 => break,
            count => left = left.saturating_sub(count as u64),
        }
    }
    Ok(())
}
