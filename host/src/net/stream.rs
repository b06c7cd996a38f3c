//! A stream socket of either kind in tokio's reactor, polled through a shared reference where tokio allows it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, Interest, ReadBuf},
    net::{TcpStream, UnixStream},
    task::coop,
};

use crate::net::writers::Writers;

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What a write that was cut short says about the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// Its buffer is full, so that the next try would be in vain.
    IsFull,
    /// Nothing.
    IsNothing,
}

impl Stream {
    /// Reads into `buffer`. Through tokio's own `poll_read`, which after a short read knows that nothing is left, and saves the
    /// call that would say so.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    /// Calls `read` when the socket may have something to read, until it answers other than that it has not.
    pub(super) fn poll_input<T>(
        &self,
        cx: &mut Context<'_>,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            match self.try_io(Interest::READABLE, || read(self.as_fd())) {
                Err(error) if is_to_be_tried_again(&error) => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Calls `write` when the socket can take something, until it answers other than that it cannot. It is to take `length` bytes;
    /// `short` says what it means if it takes fewer.
    pub(super) fn poll_output(
        &self,
        cx: &mut Context<'_>,
        writers: &Writers,
        length: usize,
        short: Short,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(writers.poll(cx, |cx| self.poll_write_ready(cx)))?;
            let mut taken = None;
            let result = self.try_io(Interest::WRITABLE, || match write(self.as_fd()) {
                Ok(count) if short == Short::IsFull && 0 < count && count < length => {
                    taken = Some(count);
                    // This is how tokio is told that the socket is full.
                    Err(io::ErrorKind::WouldBlock.into())
                }
                other => other,
            });
            match (taken, result) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if is_to_be_tried_again(&error) => {}
                (None, result) => return Poll::Ready(result),
            }
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Unix(stream) => stream.poll_write_ready(cx),
        }
    }

    /// Has the reactor keep nobody's waker.
    pub(super) fn forget_wakers(&self) {
        let nobody = std::pin::pin!(coop::unconstrained(std::future::poll_fn(|cx| {
            let _ = self.poll_read_ready(cx);
            let _ = self.poll_write_ready(cx);
            Poll::Ready(())
        })));
        let _ = nobody.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// The error that the socket has met since it was last asked: how an outgoing connection failed, say.
    pub(super) fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Stream::Tcp(stream) => stream.take_error(),
            Stream::Unix(stream) => stream.take_error(),
        }
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
        }
    }

    fn try_io<T>(&self, interest: Interest, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Stream::Tcp(stream) => stream.try_io(interest, work),
            Stream::Unix(stream) => stream.try_io(interest, work),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

fn is_to_be_tried_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
