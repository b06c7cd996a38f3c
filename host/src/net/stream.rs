//! A stream socket of either kind in tokio's reactor, polled through a shared reference where tokio allows it.

use std::{
    io, mem, net,
    os::{
        fd::{AsFd, BorrowedFd},
        unix,
    },
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
    task::coop,
};

use crate::net::writers::Writers;

#[derive(Debug)]
pub(super) enum Stream {
    Tcp(Box<TcpStream>),
    Unix(Box<UnixStream>),
    /// Not in the reactor: what can be done at once is done, and the rest has it enter the reactor first.
    Resting(Resting),
    /// For a moment between the two; for good, where the kernel refuses the move.
    Nowhere,
}

/// A socket that the reactor does not know.
#[derive(Debug)]
pub(super) enum Resting {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

/// What it says about the socket that fewer bytes were moved than were to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// The next try would be in vain: all that was there is read, or there is no more room.
    IsAll,
    /// Nothing.
    IsNothing,
}

impl Stream {
    /// Of TCP, in the reactor.
    pub(super) fn tcp(stream: net::TcpStream) -> io::Result<Stream> {
        Ok(Stream::Tcp(Box::new(TcpStream::from_std(stream)?)))
    }

    /// Of the Unix kind, in the reactor.
    pub(super) fn unix(stream: unix::net::UnixStream) -> io::Result<Stream> {
        Ok(Stream::Unix(Box::new(UnixStream::from_std(stream)?)))
    }

    /// Has it leave the reactor. Nobody waits for it any more.
    pub(super) fn rest(&mut self) -> io::Result<()> {
        *self = match mem::replace(self, Stream::Nowhere) {
            Stream::Tcp(stream) => Stream::Resting(Resting::Tcp(stream.into_std()?)),
            Stream::Unix(stream) => Stream::Resting(Resting::Unix(stream.into_std()?)),
            resting => resting,
        };
        Ok(())
    }

    /// Has it enter the reactor.
    pub(super) fn enter_reactor(&mut self) -> io::Result<()> {
        *self = match mem::replace(self, Stream::Nowhere) {
            Stream::Resting(Resting::Tcp(stream)) => Stream::tcp(stream)?,
            Stream::Resting(Resting::Unix(stream)) => Stream::unix(stream)?,
            entered => entered,
        };
        Ok(())
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self, Stream::Tcp(_) | Stream::Resting(Resting::Tcp(_)))
    }

    /// Calls `read` when the socket may have something to read, until it answers other than that it has not. It is to read at most
    /// `length` bytes; fewer mean that nothing is left, which saves the call that would say so.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        mut read: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            let tried =
                self.try_step(Interest::READABLE, length, Short::IsAll, || read(self.as_fd()));
            if let Some(result) = tried {
                return Poll::Ready(result);
            }
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
            let tried = self.try_step(Interest::WRITABLE, length, short, || write(self.as_fd()));
            if let Some(result) = tried {
                return Poll::Ready(result);
            }
        }
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_write_ready(cx),
            Stream::Unix(stream) => stream.poll_write_ready(cx),
            Stream::Resting(_) | Stream::Nowhere => Poll::Ready(Err(not_in_reactor())),
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
            Stream::Resting(Resting::Tcp(stream)) => stream.take_error(),
            Stream::Resting(Resting::Unix(stream)) => stream.take_error(),
            Stream::Nowhere => Err(not_in_reactor()),
        }
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => stream.poll_read_ready(cx),
            Stream::Unix(stream) => stream.poll_read_ready(cx),
            Stream::Resting(_) | Stream::Nowhere => Poll::Ready(Err(not_in_reactor())),
        }
    }

    /// Moves at most `length` bytes by `step`. `None` if it is to be tried again once the socket is ready.
    fn try_step(
        &self,
        interest: Interest,
        length: usize,
        short: Short,
        step: impl FnOnce() -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let mut moved = None;
        let result = self.try_io(interest, || match step() {
            Ok(count) if short == Short::IsAll && 0 < count && count < length => {
                moved = Some(count);
                // This is how tokio is told that the next try would be in vain.
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other,
        });
        match (moved, result) {
            (Some(count), _) => Some(Ok(count)),
            (None, Err(error)) if is_to_be_tried_again(&error) => None,
            (None, result) => Some(result),
        }
    }

    fn try_io<T>(&self, interest: Interest, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Stream::Tcp(stream) => stream.try_io(interest, work),
            Stream::Unix(stream) => stream.try_io(interest, work),
            Stream::Resting(_) | Stream::Nowhere => work(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Resting(Resting::Tcp(stream)) => stream.as_fd(),
            Stream::Resting(Resting::Unix(stream)) => stream.as_fd(),
            Stream::Nowhere => unreachable!("it is there but for a moment in which nobody looks"),
        }
    }
}

fn not_in_reactor() -> io::Error {
    io::Error::other("a socket was waited for that is not in the reactor")
}

fn is_to_be_tried_again(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
