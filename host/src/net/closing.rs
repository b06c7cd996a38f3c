//! Closes a connection so that the peer gets what was sent to it.
//!
//! A TCP socket that is closed with unread input answers with a reset, which can overtake what was written before
//! (RFC 9112 section 9.6). So the writing half is ended, and for a short time what comes in is thrown away.

use std::{
    cell::Cell, future::poll_fn, io, net::Shutdown, os::fd::AsFd, rc::Rc, task::Poll,
    time::Duration,
};

use rustix::net::RecvFlags;

use crate::net::{connections::State, entry::Entry};

/// How many connections are closed in this way now.
#[derive(Debug, Default)]
pub(super) struct Closing(Rc<Cell<usize>>);

/// How long input is thrown away after a close.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// How many bytes of it, at most.
const LINGER_BYTES_MAX: usize = 1 << 20;
/// How many connections may do so at a time; the others are closed at once.
const LINGERING_MAX: usize = 1024;
/// How much is read in one call.
const PIECE_BYTES: usize = 16 * 1024;

/// Closes `entry`, whose connection was dropped, in good order. Has to be called on a local runtime to do more than to close it.
pub(super) fn close(entry: Rc<Entry>, closing: &Closing) {
    if entry.end.get().is_some() || entry.state.get() == State::Connecting || !has_input(&entry) {
        return;
    }
    let count = closing.0.clone();
    if count.get() >= LINGERING_MAX || tokio::runtime::Handle::try_current().is_err() {
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
        let _ = tokio::time::timeout(LINGER_MAX, throw_input_away(&entry)).await;
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

async fn throw_input_away(entry: &Entry) -> io::Result<()> {
    entry.enter_reactor()?;
    let mut piece = [0; PIECE_BYTES];
    let mut left = LINGER_BYTES_MAX;
    while left > 0 && entry.end.get().is_none() {
        let read = poll_fn(|cx| -> Poll<io::Result<usize>> {
            entry.stream().poll_input(cx, |socket| {
                Ok(rustix::net::recv(socket, &mut piece, RecvFlags::DONTWAIT)?.0)
            })
        });
        match read.await? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}
