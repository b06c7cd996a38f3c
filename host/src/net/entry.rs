//! What the host holds of one connection: its socket, and what the monitor shows of it.

use std::{
    cell::{Cell, OnceCell, Ref, RefCell},
    io,
    net::{Shutdown, SocketAddr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use rustix::io::Errno;
use socket2::SockRef;

use crate::{
    net::{
        address::Address,
        connections::{Owner, Place, State},
        hangup::Watch,
        lot::NO_SPACE,
        stream::Stream,
        unread::Unread,
        writers::Writers,
    },
    sys::{blocking::Ticket, idle},
};

/// There may be very many that rest: what is rare is in a box of its own, and what many have in common is shared.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    /// Dropped before the socket is closed, for the kernel forgets what is watched when it is.
    pub(super) watch: RefCell<Option<Box<Watch>>>,
    pub(super) stream: RefCell<Stream>,
    pub(super) writers: Writers,
    remote: Remote,
    local: OnceCell<Rc<Address>>,
    /// Since the table was made.
    pub(super) opened_ms: u64,
    pub(super) bytes_in: Cell<u64>,
    pub(super) bytes_out: Cell<u64>,
    pub(super) owner: RefCell<Rc<Owner>>,
    /// What has to come into memory before it is sent, and from where in the file it is.
    pub(super) warming: RefCell<Option<Box<Warming>>>,
    /// What was read by whoever served it before.
    pub(super) unread: Unread,
    pub(super) listener: Cell<u32>,
    pub(super) state: Cell<State>,
    /// Whether the system may still hold back what was written, for more was to follow.
    pub(super) is_held_back: Cell<bool>,
    pub(super) is_without_delay: Cell<bool>,
    /// Why nothing can be done with the connection any more.
    pub(super) end: Cell<Option<End>>,
    /// What was done since the socket left the reactor, or came, without entering it.
    done_at_rest: Cell<u8>,
    /// In the parking lot; [`NO_SPACE`] if it was never to be parked.
    pub(super) space: Cell<u32>,
    pub(super) place: Place,
}

/// Bytes of a file, from an offset, that are being brought into memory.
#[derive(Debug)]
pub(super) struct Warming {
    pub(super) offset: u64,
    pub(super) ticket: Ticket<()>,
}

/// The peer's address, small where it is most often.
#[derive(Debug)]
enum Remote {
    V4(SocketAddrV4),
    Other(Box<Address>),
}

impl From<Address> for Remote {
    fn from(address: Address) -> Remote {
        match address {
            Address::Tcp(SocketAddr::V4(address)) => Remote::V4(address),
            other => Remote::Other(Box::new(other)),
        }
    }
}

/// How a connection came to its end before it was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// An operator had it.
    Killed,
    /// Whoever serves it dropped it with a reset.
    Aborted,
}

impl Entry {
    pub(super) fn new(
        stream: Stream,
        remote: Address,
        local: Option<Rc<Address>>,
        listener: u32,
        state: State,
        owner: Rc<Owner>,
        place: Place,
    ) -> Rc<Entry> {
        let (id, opened_ms) = (place.table().next_id(), place.table().age_ms());
        Entry::known(id, opened_ms, stream, remote, local, listener, state, owner, place)
    }

    /// One that was there before, under this number.
    #[expect(clippy::too_many_arguments, reason = "each is one field")]
    pub(super) fn known(
        id: u64,
        opened_ms: u64,
        stream: Stream,
        remote: Address,
        local: Option<Rc<Address>>,
        listener: u32,
        state: State,
        owner: Rc<Owner>,
        place: Place,
    ) -> Rc<Entry> {
        let entry = Rc::new(Entry {
            id,
            watch: RefCell::default(),
            stream: RefCell::new(stream),
            writers: Writers::default(),
            remote: remote.into(),
            local: local.map_or_else(OnceCell::new, OnceCell::from),
            opened_ms,
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            owner: RefCell::new(owner),
            warming: RefCell::default(),
            unread: Unread::default(),
            listener: Cell::new(listener),
            state: Cell::new(state),
            is_held_back: Cell::new(false),
            is_without_delay: Cell::new(true),
            end: Cell::new(None),
            done_at_rest: Cell::new(0),
            space: Cell::new(NO_SPACE),
            place,
        });
        entry.place.enter(&entry);
        entry
    }

    /// An error unless bytes can pass.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.end.get() {
            Some(End::Killed) => Err(Errno::CANCELED.into()),
            Some(End::Aborted) => Err(Errno::CONNABORTED.into()),
            None if self.state.get() == State::Connecting => Err(Errno::NOTCONN.into()),
            None => Ok(()),
        }
    }

    pub(super) fn stream(&self) -> Ref<'_, Stream> {
        self.stream.borrow()
    }

    /// Tries something on a socket that is not in the reactor; if it would have to wait, or has been spared that for long, the socket
    /// enters the reactor. `None` if it is there.
    pub(super) fn at_rest<T>(
        &self,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        loop {
            let result = match &*self.stream() {
                Stream::Resting(_) if self.done_at_rest.get() < AT_REST_MAX => {
                    attempt(self.stream().as_fd())
                }
                Stream::Resting(_) => Err(io::ErrorKind::WouldBlock.into()),
                _ => return None,
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.enter_reactor().err().map(Err);
                }
                Ok(done) => {
                    self.done_at_rest.set(self.done_at_rest.get() + 1);
                    return Some(Ok(done));
                }
                result => return Some(result),
            }
        }
    }

    /// Has the socket leave the reactor, unless nobody had it enter.
    pub(super) fn rest(&self) -> io::Result<()> {
        self.done_at_rest.set(0);
        self.moved(Stream::rest)
    }

    /// Has the socket enter the reactor, unless it is there.
    pub(super) fn enter_reactor(&self) -> io::Result<()> {
        match &*self.stream() {
            Stream::Resting(_) => {}
            _ => return Ok(()),
        }
        self.moved(Stream::enter_reactor)
    }

    /// Moves the socket into the reactor or out of it. Where the kernel refuses that, the socket is closed, and the connection over.
    fn moved(&self, by: fn(&mut Stream) -> io::Result<()>) -> io::Result<()> {
        let moved = by(&mut self.stream.borrow_mut());
        if moved.is_err() && self.end.get().is_none() {
            self.end.set(Some(End::Aborted));
        }
        moved
    }

    /// Whoever served it does so no longer, and is not to be kept by a waker.
    pub(super) fn forget_wakers(&self) {
        self.writers.forget();
        self.stream().forget_wakers();
        let watch = self.watch.take();
        drop(watch);
    }

    /// Counts what went over it as its owner's, for good.
    pub(super) fn settle_traffic(&self) {
        self.owner.borrow().traffic.add(self.bytes_in.take(), self.bytes_out.take());
    }

    /// The peer.
    pub(super) fn remote(&self) -> Address {
        match &self.remote {
            Remote::V4(address) => Address::Tcp(SocketAddr::V4(*address)),
            Remote::Other(address) => (**address).clone(),
        }
    }

    /// Where it came in by more than one address, or goes out, the system is asked once, and only if somebody wants to know.
    pub(super) fn local(&self) -> &Address {
        self.local.get_or_init(|| {
            let stream = self.stream();
            let address = match &*stream {
                Stream::Nowhere => None,
                stream => SockRef::from(&stream.as_fd()).local_addr().ok(),
            };
            let address = address.map_or(NO_ADDRESS, |address| from_system(&address));
            self.place.table().shared(address)
        })
    }

    /// How long no data has come or gone; asked of the system, which keeps that of TCP.
    pub(super) fn idle(&self) -> Option<Duration> {
        let stream = self.stream();
        let idle = stream.is_tcp().then(|| idle::idle(stream.as_fd()).ok()).flatten()?;
        // Of a connection that does not stand yet, the system counts from no beginning.
        Some(idle.min(self.age()))
    }

    /// How long it has been there.
    pub(super) fn age(&self) -> Duration {
        Duration::from_millis(self.place.table().age_ms().saturating_sub(self.opened_ms))
    }

    pub(super) fn shutdown(&self, half: Shutdown) -> io::Result<()> {
        match SockRef::from(&self.stream().as_fd()).shutdown(half) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }

    /// Ends the connection for whoever serves it; all who wait on it are woken by the system.
    pub(super) fn kill(&self) {
        if self.end.get().is_some() {
            return;
        }
        self.end.set(Some(End::Killed));
        if let Err(error) = self.shutdown(Shutdown::Both) {
            tracing::debug!("cannot shut down connection {}: {error}", self.id);
        }
    }

    pub(super) fn abort(&self) {
        if self.end.replace(Some(End::Aborted)).is_some() {
            return;
        }
        let stream = self.stream();
        // Dissolving the association sends the reset at once, and wakes who waits; the lingering time of nothing does it at the
        // close where that is refused.
        if stream.is_tcp() && rustix::net::connect_unspec(&*stream).is_ok() {
            return;
        }
        let socket = stream.as_fd();
        let socket = SockRef::from(&socket);
        let ended = socket.set_linger(Some(std::time::Duration::ZERO));
        if let Err(error) = ended.and_then(|()| socket.shutdown(Shutdown::Both)) {
            tracing::debug!("cannot reset connection {}: {error}", self.id);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.rise();
        self.place.leave();
        self.settle_traffic();
        if self.space.get() != NO_SPACE {
            self.place.table().lot.leave(self.space.get());
        }
    }
}

/// How many reads and writes one turn may have before the socket has to enter the reactor, which has tasks take turns: a peer that never
/// lets anybody wait would have the loop to itself.
const AT_REST_MAX: u8 = 64;

/// For sockets that have no name, and for what is no socket any more.
const NO_ADDRESS: Address = Address::Unix(PathBuf::new());

pub(super) fn from_system(address: &socket2::SockAddr) -> Address {
    match (address.as_socket(), address.as_pathname()) {
        (Some(address), _) => Address::Tcp(address),
        (None, Some(path)) => Address::Unix(path.to_owned()),
        (None, None) => NO_ADDRESS,
    }
}
