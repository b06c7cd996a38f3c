//! The connection as hyper reads and writes it, with the [`crate::framing`] between the two.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use medusa_plugin_api::Instant;

use crate::watch::Watch;

/// Input and output of one connection.
pub(crate) struct Io(pub(crate) Rc<Watch>);

impl Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let watch = &*self.0;
        match watch.refused.get() {
            Some(refused) if refused.in_body => return Poll::Ready(Err(broken_body())),
            // The driver ends the connection once what came before is answered.
            Some(_) => return Poll::Pending,
            None => {}
        }
        if is_gated(watch) || watch.is_held.get() {
            watch.read_blocked.set(false);
            return Poll::Pending;
        }
        if watch.framing.borrow().is_between() && !watch.server.is_draining() {
            // It has the request that it was made for. What comes next is not hyper's, but the front's, or brings the connection's
            // next turn. While the server drains, hyper stays, for the last request.
            watch.read_blocked.set(true);
            return Poll::Pending;
        }
        let mut scratch = watch.server.scratch.borrow_mut();
        let wanted = scratch.len().min(buffer.remaining());
        let read = poll_read(watch, context, &mut scratch[..wanted]);
        watch.read_blocked.set(read.is_pending());
        let count = ready!(read)?;
        if count == 0 && !watch.framing.borrow().in_body() {
            // hyper would let go of what it has to send. The driver ends the connection once all is answered.
            note_end(watch);
            return Poll::Pending;
        }
        let bytes = &mut scratch[..count];
        let good = judge(watch, bytes);
        buffer.put_slice(&bytes[..good]);
        match watch.refused.get() {
            // Nothing read would mean the end of input to hyper.
            Some(refused) if good == 0 && refused.in_body => Poll::Ready(Err(broken_body())),
            Some(_) if good == 0 => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let watch = &*self.0;
        if !watch.due.get() && is_refusal(pieces) {
            // The driver has a page to send instead, as soon as hyper ends.
            return Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()));
        }
        // Until it is flushed there may be bytes that the client has not got.
        watch.dirty.set(true);
        let written = watch.poll_write_vectored(context, pieces);
        note_stall(watch, written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let watch = &*self.0;
        if watch.dirty.get() {
            let flushed = watch.poll_flush(context);
            note_stall(watch, flushed.is_pending());
            ready!(flushed)?;
            watch.dirty.set(false);
        }
        watch.due.set(false);
        Poll::Ready(Ok(()))
    }

    /// Does nothing: how a connection ends is decided in [`crate::connection`].
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}

/// Reads what was read ahead, or else from the connection.
pub(crate) fn poll_read(
    watch: &Watch,
    context: &mut Context<'_>,
    bytes: &mut [u8],
) -> Poll<io::Result<usize>> {
    let count = watch.ahead.borrow_mut().take(bytes);
    if count > 0 {
        return Poll::Ready(Ok(count));
    }
    match watch.ended_at.get() {
        Some(_) => Poll::Ready(Ok(0)),
        None => watch.poll_read(context, bytes),
    }
}

/// Whether hyper answers for itself. It was given nothing to send, and the only other thing that it sends then is a 100.
fn is_refusal(pieces: &[IoSlice<'_>]) -> bool {
    pieces.first().is_some_and(|piece| piece.starts_with(b"HTTP/1.1 4"))
}

/// Notes when the client has ended its half.
fn note_end(watch: &Watch) {
    if watch.ended_at.get().is_none() {
        watch.ended_at.set(Some(Instant::now()));
    }
}

/// Notes when output begins to wait, so that the usual write looks at no clock.
pub(crate) fn note_stall(watch: &Watch, is_stalled: bool) {
    if is_stalled && !watch.is_stalled.get() {
        watch.moved_at.set(Instant::now());
    }
    watch.is_stalled.set(is_stalled);
}

/// While the instance drains or hands its connections over, nothing more is read beside a request in flight, so that a client which always sends the
/// next one in time cannot hold the connection for ever.
fn is_gated(watch: &Watch) -> bool {
    (watch.server.is_draining() || watch.server.is_moving())
        && (watch.in_service.get() || watch.reply_open.get())
        && !watch.upload_open.get()
        && !watch.framing.borrow().in_head()
}

/// How many of the bytes may go on to hyper. The others are put back if they come after its request.
fn judge(watch: &Watch, bytes: &mut [u8]) -> usize {
    let mut framing = watch.framing.borrow_mut();
    let was_in_head = framing.in_head();
    let begun = watch.head_begun.take();
    let judged = framing.judge_message(bytes);
    framing.newer_versions().iter().for_each(|at| bytes[*at] = b'1');
    // Times matter only for what is not whole; the usual request comes and goes in one piece.
    if framing.in_head() || framing.in_body() {
        let now = Instant::now();
        watch.moved_at.set(now);
        if framing.in_head() && !was_in_head {
            watch.head_since.set(begun.unwrap_or(now));
        }
    }
    match judged {
        Ok(used) => {
            watch.is_held.set(framing.held().is_some());
            watch.put_back(&bytes[used..]);
            used
        }
        Err(refused) => {
            watch.refused.set(Some(refused));
            refused.at
        }
    }
}

fn broken_body() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the body of the request was refused")
}
