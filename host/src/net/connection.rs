//! A connection: one handle for whatever carries the bytes, polled by whoever serves it.
//!
//! Every call is one of the loop's thread. Reading, writing and hanging up are waited for apart. All who wait to write are woken; of
//! those who wait to read, and for the hang-up, the newest.

use std::{
    cell::{Cell, Ref},
    future::Future,
    io::{self, IoSlice},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, ready},
    time::Instant,
};

use medusa_abi::net::{ConnectionInfo, OPTION_KEEPALIVE, OPTION_NODELAY};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags},
};
use socket2::SockRef;
use tokio::{io::ReadBuf, task::coop};

use crate::{
    net::{
        address::{Address, to_abi},
        closing,
        connections::{Owner, Seat, State},
        entry::{End, Entry, Warming},
        listener::is_shortage,
        lot::{Attendant, Lot},
        stream::{Short, Stream},
    },
    sys::{blocking::Ticket, transfer},
};

/// A connection. Dropping it closes it in good order: what was written still goes out.
#[derive(Debug)]
pub struct Connection {
    pub(super) entry: Rc<Entry>,
}

/// Most pieces of one vectored write (UIO_MAXIOV).
pub const PIECES_MAX: usize = 1024;
/// [`ConnectionInfo::listener`] of connections that came in by no configured address.
pub const NO_LISTENER: u32 = u32::MAX;

/// How many sent bytes count as one step of work, for tasks to take turns: sending a file is one cheap call for much work.
const SEND_FILE_BYTES_PER_STEP: usize = 64 * 1024;

impl Connection {
    pub(super) fn new(entry: Rc<Entry>) -> Connection {
        Connection { entry }
    }

    /// Its number in the log and in the monitor; never used twice.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// The peer.
    #[must_use]
    pub fn remote(&self) -> Address {
        self.entry.remote()
    }

    /// This side.
    #[must_use]
    pub fn local(&self) -> &Address {
        self.entry.local()
    }

    /// What a plugin is told of it.
    #[must_use]
    pub fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            remote: to_abi(&self.remote()),
            local: to_abi(self.local()),
            id: self.id(),
            listener: self.entry.listener.get(),
            flags: 0,
            spare: [0; 4],
        }
    }

    /// Bytes read so far, since it was passed on if it was.
    #[must_use]
    pub fn bytes_in(&self) -> u64 {
        self.entry.bytes_in.get()
    }

    /// Bytes written so far, since it was passed on if it was.
    #[must_use]
    pub fn bytes_out(&self) -> u64 {
        self.entry.bytes_out.get()
    }

    /// What it is at.
    #[must_use]
    pub fn state(&self) -> State {
        self.entry.state.get()
    }

    /// Has `attendant`, who knows it by `number`, be told of it when it is parked and then something happens.
    pub fn attend(&self, attendant: Weak<dyn Attendant>, number: u64) {
        // One that rests goes on resting.
        if !self.lot().reassign(self.entry.space.get(), &attendant, number) {
            self.entry.space.set(self.lot().enter(attendant, number));
        }
    }

    /// Parks it until something happens to it, or until `deadline`.
    ///
    /// # Errors
    /// As [`Connection::poll_read`]; nobody attends to it; the kernel has no memory for another descriptor to watch.
    pub fn park(&self, deadline: Option<Instant>) -> io::Result<()> {
        self.lot().park(self.entry.space.get(), self, deadline)
    }

    /// It is not parked any more: somebody else has something for it.
    pub fn unpark(&self) {
        self.entry.rise();
        self.lot().unpark(self.entry.space.get());
    }

    /// Says that it is parked, or served again. A connection that does not stand yet stays what it is.
    pub fn set_parked(&self, is_parked: bool) {
        if self.state() != State::Connecting {
            self.entry.state.set(if is_parked { State::Parked } else { State::Open });
        }
    }

    /// Says who serves it from now on: another generation of the same instance.
    pub fn set_owner(&self, owner: Rc<Owner>) {
        self.entry.owner.replace(owner);
    }

    /// Passes it to another instance, as one that came in by none of its addresses: it takes `seat` there, and gives up the one that it
    /// has. Nobody who waits on it is woken any more. Who reads it next gets `unread` first.
    pub fn pass_on(&self, owner: Rc<Owner>, seat: Seat, unread: &[u8]) {
        self.entry.forget_wakers();
        self.entry.place.move_to(seat);
        self.entry.listener.set(NO_LISTENER);
        self.entry.unread.put_back(unread);
        // What went over it so far stays the other instance's.
        self.entry.settle_traffic();
        self.set_owner(owner);
    }

    /// Whether there are bytes to be read that are not the system's any more, so that it tells nobody of them.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.entry.unread.is_empty()
    }

    /// Whether an operator ended it.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.entry.end.get() == Some(End::Killed)
    }

    /// How many bytes were read into `buffer`; 0 at the end of the input, or if the buffer is full.
    ///
    /// # Errors
    /// ECANCELED after a kill, ECONNABORTED after [`Connection::abort`], ENOTCONN before it stands, and what the system says.
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        self.entry.check()?;
        // They were counted when they came.
        let count = self.entry.unread.read(buffer);
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        let length = buffer.remaining();
        let mut read = |socket: BorrowedFd<'_>| transfer::receive_into(socket, buffer);
        let count = match self.entry.at_rest(&mut read) {
            Some(result) => result?,
            None => ready!(self.entry.stream().poll_read(cx, length, read))?,
        };
        add(&self.entry.bytes_in, count);
        Poll::Ready(Ok(count))
    }

    /// Ready when there is something to read, or the end of the input, or an error. Exact: it looks.
    ///
    /// # Errors
    /// As [`Connection::poll_read`].
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.entry.check()?;
        if self.has_unread() {
            return Poll::Ready(Ok(()));
        }
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        self.entry.enter_reactor()?;
        let stream = self.entry.stream();
        stream.poll_input(cx, |socket| Ok(rustix::net::recv(socket, &mut [0_u8], flags).map(drop)?))
    }

    /// How many bytes of the pieces were taken. With `more`, the system may wait for the next write to fill a packet; see
    /// [`Connection::poll_flush`]. Pieces above [`PIECES_MAX`] are left for the next call.
    ///
    /// # Errors
    /// As [`Connection::poll_read`]; EPIPE where the writing half has ended; EFAULT where a piece's memory cannot be read.
    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        self.entry.check()?;
        let pieces = &pieces[..pieces.len().min(PIECES_MAX)];
        let length = pieces.iter().map(|piece| piece.len()).fold(0, usize::saturating_add);
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        flags.set(SendFlags::MORE, more);
        let write = |socket: BorrowedFd<'_>| {
            Ok(match pieces {
                [piece] => rustix::net::send(socket, piece, flags)?,
                _ => {
                    let mut no_control = SendAncillaryBuffer::default();
                    rustix::net::sendmsg(socket, pieces, &mut no_control, flags)?
                }
            })
        };
        let count = match self.entry.at_rest(write) {
            Some(result) => result?,
            None => {
                let (stream, writers) = (self.entry.stream(), &self.entry.writers);
                ready!(stream.poll_output(cx, writers, length, Short::IsAll, write))?
            }
        };
        self.entry.is_held_back.set(more);
        add(&self.entry.bytes_out, count);
        Poll::Ready(Ok(count))
    }

    /// How many bytes of `file` were sent from `offset`: at most `length`, at most [`transfer::SEND_FILE_BYTES_MAX`]; 0 if the file
    /// ends there. When the socket can take bytes, `warm` is asked with the length of the step whether they have to be brought into
    /// memory first; after a `Pending` this is to be asked again with the same offset.
    ///
    /// # Errors
    /// As [`Connection::poll_write_vectored`]; those of `warm`; EINVAL where the file is none that can be sent from.
    pub fn poll_send_file(
        &self,
        cx: &mut Context<'_>,
        file: BorrowedFd<'_>,
        offset: u64,
        length: u64,
        warm: impl FnOnce(usize) -> io::Result<Option<Ticket<()>>>,
    ) -> Poll<io::Result<usize>> {
        self.entry.check()?;
        let length = length.min(transfer::SEND_FILE_BYTES_MAX as u64) as usize;
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        self.entry.enter_reactor()?;
        let (stream, writers) = (self.entry.stream(), &self.entry.writers);
        ready!(writers.poll(cx, |cx| stream.poll_write_ready(cx)))?;
        ready!(self.poll_warm(cx, offset, || warm(length)))?;
        // The file may just end there, so a short answer says nothing about the socket.
        let send = |socket: BorrowedFd<'_>| {
            let mut offset = offset;
            transfer::send_file(socket, file, &mut offset, length)
        };
        let count = ready!(stream.poll_output(cx, writers, length, Short::IsNothing, send))?;
        self.entry.is_held_back.set(false);
        add(&self.entry.bytes_out, count);
        take_steps(cx, count / SEND_FILE_BYTES_PER_STEP);
        Poll::Ready(Ok(count))
    }

    /// Ready when the system holds nothing back any more that was written with `more`.
    ///
    /// # Errors
    /// As [`Connection::poll_read`].
    pub fn poll_flush(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.entry.check()?;
        Poll::Ready(self.let_go())
    }

    /// Ends the writing half: when the peer has read what was written, it reads the end of the input.
    ///
    /// # Errors
    /// As [`Connection::poll_read`].
    pub fn poll_shutdown(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.entry.check()?;
        self.entry.is_held_back.set(false);
        Poll::Ready(self.entry.shutdown(Shutdown::Write))
    }

    /// Ready when the peer has gone altogether: it has reset the connection, or both halves have ended. A peer that has only ended
    /// its own half has not gone.
    ///
    /// # Errors
    /// ECANCELED after a kill, ECONNABORTED after [`Connection::abort`], and what the system says at the first call.
    pub fn poll_hangup(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.entry.check()?;
        let mut watch = self.entry.watch.borrow_mut();
        let watch = match &mut *watch {
            Some(watch) => watch,
            none => {
                let table = self.entry.place.table();
                match table.hangups.watch(self.id(), self.entry.stream().as_fd()) {
                    Ok(watch) => none.insert(Box::new(watch)),
                    // That it is not known is no hang-up: who is being served stays.
                    Err(error) if is_shortage(&error) => return Poll::Pending,
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        };
        watch.poll(cx).map(Ok)
    }

    /// Has the socket leave the reactor until somebody has to wait for it; the descriptor, to be watched by other means. Nobody may be
    /// waiting to read now; those who wait to write are woken to ask again.
    ///
    /// # Errors
    /// As [`Connection::poll_read`], and what the system says.
    pub(super) fn rest(&self) -> io::Result<Ref<'_, Stream>> {
        self.entry.check()?;
        let rested = self.entry.rest();
        self.entry.writers.wake();
        rested?;
        Ok(self.entry.stream())
    }

    /// Drops the connection with a reset, where there is such a thing: what was written and not sent is lost.
    pub fn abort(&self) {
        self.entry.abort();
    }

    /// Ends it for whoever serves it, as an operator's `kill` does.
    pub fn kill(&self) {
        self.entry.kill();
    }

    /// Sets one of the ABI's `OPTION_*`.
    ///
    /// # Errors
    /// EINVAL for an option or a value that is none; EOPNOTSUPP where the socket has no such thing; what the system says.
    pub fn set_option(&self, option: u32, value: u64) -> io::Result<()> {
        self.entry.check()?;
        let is_on = match value {
            0 => false,
            1 => true,
            _ => return Err(Errno::INVAL.into()),
        };
        let stream = self.entry.stream();
        match (option, stream.is_tcp()) {
            (OPTION_NODELAY, true) => {
                SockRef::from(&*stream).set_tcp_nodelay(is_on)?;
                self.entry.is_without_delay.set(is_on);
                Ok(())
            }
            (OPTION_KEEPALIVE, true) => SockRef::from(&*stream).set_keepalive(is_on),
            (OPTION_NODELAY | OPTION_KEEPALIVE, false) => Err(Errno::OPNOTSUPP.into()),
            _ => Err(Errno::INVAL.into()),
        }
    }

    fn lot(&self) -> &Lot {
        &self.entry.place.table().lot
    }

    fn poll_warm(
        &self,
        cx: &mut Context<'_>,
        offset: u64,
        warm: impl FnOnce() -> io::Result<Option<Ticket<()>>>,
    ) -> Poll<io::Result<()>> {
        let mut slot = self.entry.warming.borrow_mut();
        if slot.as_ref().is_none_or(|warming| warming.offset != offset) {
            *slot = warm()?.map(|ticket| Box::new(Warming { offset, ticket }));
        }
        if let Some(warming) = &mut *slot {
            ready!(Pin::new(&mut warming.ticket).poll(cx))?;
            *slot = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Has the system send what it holds back for more to come: setting TCP_NODELAY does it (tcp(7)), whatever it was.
    fn let_go(&self) -> io::Result<()> {
        if !self.entry.is_held_back.replace(false) {
            return Ok(());
        }
        let stream = self.entry.stream();
        if !stream.is_tcp() {
            return Ok(());
        }
        let socket = SockRef::from(&*stream);
        socket.set_tcp_nodelay(true)?;
        if !self.entry.is_without_delay.get() {
            socket.set_tcp_nodelay(false)?;
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What is held back goes out with the end.
        closing::close(self.entry.clone(), &self.entry.place.table().closing);
    }
}

fn add(counter: &Cell<u64>, count: usize) {
    counter.set(counter.get() + count as u64);
}

/// Counts `steps` of work against the running task's share of this turn.
fn take_steps(cx: &mut Context<'_>, steps: usize) {
    for _ in 0..steps {
        match coop::poll_proceed(cx) {
            Poll::Ready(step) => step.made_progress(),
            Poll::Pending => return,
        }
    }
}
