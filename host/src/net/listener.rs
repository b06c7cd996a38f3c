//! A listener: an address that connections come in by. It outlives whoever serves them.

use std::{
    cell::{Cell, RefCell},
    ffi::OsStr,
    fmt, fs,
    future::{Future, poll_fn},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{socket_acceptconn, socket_type},
    },
};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::{io::unix::AsyncFd, time::Sleep};

use crate::{
    net::{
        address::Address,
        connection::Connection,
        connections::{Connections, Owner, Place, Quota, State, Waiting},
        entry::{self, Entry},
        kept::Held,
        stream::{Resting, Stream},
    },
    sys::{defer, exec, reactor},
};

/// A listener. Dropping it stops listening; the file of a Unix socket that was bound here is removed.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
    address: Address,
    /// That of all its connections, if there is but one.
    local: Option<Rc<Address>>,
    /// Of a Unix socket, if it is this listener's to remove.
    file: Option<SocketFile>,
    /// Where the socket is kept beside here.
    _held: Option<Held>,
    /// For room for another connection.
    waiting: Rc<Waiting>,
    /// While it lasts, nothing is accepted.
    pause: RefCell<Option<Pin<Box<Sleep>>>>,
    /// When something last stood in the way, of which the log has been told.
    hindered: Cell<Option<Instant>>,
}

/// For whom a connection is accepted.
#[derive(Clone, Copy, Debug)]
pub struct Accepting<'a> {
    /// The table that it will be in.
    pub connections: &'a Connections,
    /// How many connections its owner may have.
    pub quota: &'a Rc<Quota>,
    /// Who serves it.
    pub owner: &'a Rc<Owner>,
    /// Which of the instance's `listen` addresses this is, from 0; [`crate::net::connection::NO_LISTENER`] for others.
    pub index: u32,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The address.
    pub address: Address,
    /// What the system said.
    pub error: io::Error,
}

/// How many connections may wait where nobody says otherwise.
pub const BACKLOG_DEFAULT: u32 = 1024;

/// How much the kernel takes ahead of what a peer has room for. Without a bound that is some megabytes, which cost a millisecond and the
/// kernel's memory for each peer that reads slowly, or not at all; this is enough to keep a fast one busy between two turns. Below the
/// 65,483 bytes of a packet on loopback, for the bound is looked at before each: above it, two are taken, and leave the processor's cache.
const UNSENT_BYTES_MAX: u32 = 48 * 1024;

/// How long nothing is accepted after the system had no descriptor or memory for another connection.
const PAUSE: Duration = Duration::from_millis(100);
/// After so long with nothing in the way, what stood there is over; what comes then is another thing to be told.
const OVER_AFTER: Duration = Duration::from_secs(1);

/// The file of a Unix socket, removed with the listener unless somebody has put another one in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    /// Binds and listens. An IPv6 address is for IPv6 alone, so that both families can be given. `backlog` connections may wait in
    /// the kernel, which has a limit of its own (`net.core.somaxconn`); 0 is [`BACKLOG_DEFAULT`]. Must be called on the loop.
    ///
    /// # Errors
    /// The address is taken, not this machine's, or not ours to use; a Unix socket's path is too long, or something else is there.
    pub fn bind(address: &Address, backlog: u32) -> Result<Listener, ListenError> {
        let backlog = backlog_of(backlog);
        let failed = |error| ListenError { address: address.clone(), error };
        let (socket, address, file) = bind(address, backlog).map_err(failed)?;
        Listener::new(socket, address, file).map_err(failed)
    }

    /// A listener of a socket that listens already: one that was passed to this process, or handed on by the one before. What waits in
    /// its queue is kept. Its options become those of [`Listener::bind`], as does `backlog`; whether an IPv6 socket takes IPv4 too was
    /// decided when it was bound. The file of a Unix socket stays when the listener goes, unless [`Listener::own_file`] says otherwise.
    /// Must be called on the loop.
    ///
    /// # Errors
    /// It is no stream socket that listens, of TCP or Unix with a path.
    pub fn adopt(socket: OwnedFd, backlog: u32) -> io::Result<Listener> {
        let address = listens_on(socket.as_fd())?;
        let socket = Socket::from(socket);
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        if let Address::Tcp(_) = address {
            set_options(&socket)?;
        }
        socket.listen(backlog_of(backlog))?;
        Listener::new(socket, address, None)
    }

    fn new(socket: Socket, address: Address, file: Option<SocketFile>) -> io::Result<Listener> {
        Ok(Listener {
            socket: reactor::readable(socket.into())?,
            local: is_one(&address).then(|| Rc::new(address.clone())),
            address,
            file,
            _held: None,
            waiting: Rc::default(),
            pause: RefCell::default(),
            hindered: Cell::new(None),
        })
    }

    /// Has the file of a Unix socket removed with this listener; of others there is none.
    ///
    /// # Errors
    /// It is not there.
    pub fn own_file(&mut self) -> io::Result<()> {
        if let Address::Unix(path) = &self.address {
            self.file = Some(SocketFile::of(path)?);
        }
        Ok(())
    }

    /// Somebody else keeps the socket too; that ends, or does not, with this listener.
    pub(super) fn hold(&mut self, held: impl FnOnce(Option<SocketFile>) -> Held) {
        self._held = Some(held(self.file.take()));
    }

    /// Whether the socket is the service manager's own.
    #[must_use]
    pub fn is_managers(&self) -> bool {
        matches!(self._held, Some(Held::Managers { .. }))
    }

    /// Where it listens; the port is the real one.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// So many connections may wait in the kernel from now on, as for [`Listener::bind`].
    pub fn set_backlog(&self, backlog: u32) {
        let backlog = if backlog == 0 { BACKLOG_DEFAULT } else { backlog };
        // Of a socket that listens already, it changes that and nothing else.
        let changed = rustix::net::listen(&self.socket, i32::try_from(backlog).unwrap_or(i32::MAX));
        if let Err(error) = changed {
            tracing::warn!("{} goes on with the backlog it has: {error}", self.address);
        }
    }

    /// Has it tell of a connection only once its client has said something, or has been silent for about a second; or at once, as it does
    /// from the start. For protocols in which the client speaks first that saves waiting for each connection anew; where the server
    /// does, the client would wait for the second. Of a Unix socket it has no meaning.
    pub fn set_deferred(&self, is_deferred: bool) {
        if let Address::Tcp(_) = self.address
            && let Err(error) = defer::set_deferred(self.socket.as_fd(), is_deferred)
        {
            tracing::debug!("connections to {} are accepted as they come: {error}", self.address);
        }
    }

    /// The next connection. It is not in the reactor before somebody has to wait for it: one whose request is there already, and whose
    /// answer the kernel takes at once, never is. Waits, and leaves the others in the kernel's queue, while there are as many as there may be, or while the
    /// system has no descriptor or memory for another.
    ///
    /// # Errors
    /// The listener is broken for good; nothing that one peer or a shortage does is an error.
    pub fn poll_accept(
        &self,
        cx: &mut Context<'_>,
        accepting: Accepting<'_>,
    ) -> Poll<io::Result<Connection>> {
        loop {
            ready!(self.poll_pause(cx));
            let place = ready!(self.poll_place(cx, accepting));
            match ready!(self.poll_stream(cx)) {
                Ok((stream, remote)) => {
                    self.note_accepted();
                    let Accepting { owner, index, .. } = accepting;
                    let entry = Entry::new(
                        stream,
                        remote,
                        self.local.clone(),
                        index,
                        State::Open,
                        owner.clone(),
                        place,
                    );
                    return Poll::Ready(Ok(Connection::new(entry)));
                }
                Err(error) if is_shortage(&error) => self.pause(&error),
                Err(error) if is_the_peers(&error) => {
                    tracing::debug!("a connection to {} was not accepted: {error}", self.address);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As [`Listener::poll_accept`].
    ///
    /// # Errors
    /// As [`Listener::poll_accept`].
    pub async fn accept(&self, accepting: Accepting<'_>) -> io::Result<Connection> {
        poll_fn(|cx| self.poll_accept(cx, accepting)).await
    }

    fn poll_place(&self, cx: &mut Context<'_>, accepting: Accepting<'_>) -> Poll<Place> {
        let Accepting { connections, quota, .. } = accepting;
        let place = connections.poll_place(cx, quota, &self.waiting);
        if place.is_pending()
            && let Err(full) = connections.place(quota)
        {
            self.say(&full);
        }
        place
    }

    fn poll_stream(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Stream, Address)>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            // Nothing waits any more: to be woken for the next one.
            let Ok(accepted) = ready.try_io(|_| self.take()) else { continue };
            return Poll::Ready(accepted);
        }
    }

    fn take(&self) -> io::Result<(Stream, Address)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, remote) = rustix::net::acceptfrom_with(&self.socket, flags)?;
        if let Address::Unix(_) = self.address {
            let name = remote.and_then(|remote| SocketAddrUnix::try_from(remote).ok());
            let path = name.as_ref().and_then(SocketAddrUnix::path_bytes).unwrap_or_default();
            let remote = Address::Unix(OsStr::from_bytes(path).into());
            return Ok((Stream::Resting(Resting::Unix(socket.into())), remote));
        }
        let remote = remote.ok_or(Errno::AFNOSUPPORT)?;
        let remote = Address::Tcp(remote.try_into()?);
        Ok((Stream::Resting(Resting::Tcp(socket.into())), remote))
    }

    fn poll_pause(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut pause = self.pause.borrow_mut();
        if let Some(sleep) = &mut *pause {
            ready!(sleep.as_mut().poll(cx));
            *pause = None;
        }
        Poll::Ready(())
    }

    fn pause(&self, error: &io::Error) {
        self.say(&Shortage(error));
        self.pause.replace(Some(Box::pin(tokio::time::sleep(PAUSE))));
    }

    /// Once from its beginning to its end, for a flood of connections must not become a flood of lines.
    fn say(&self, reason: &dyn fmt::Display) {
        let now = Instant::now();
        let before = self.hindered.replace(Some(now));
        if before.is_none_or(|before| now - before >= OVER_AFTER) {
            tracing::warn!("connections to {} wait to be accepted: {reason}", self.address);
        }
    }

    fn note_accepted(&self) {
        if self.hindered.get().is_some_and(|at| at.elapsed() >= OVER_AFTER) {
            self.hindered.set(None);
            tracing::info!("connections to {} are accepted again", self.address);
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether every connection that comes in by an address has it for its own.
fn is_one(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => !address.ip().is_unspecified(),
        Address::Unix(_) => true,
    }
}

fn backlog_of(backlog: u32) -> i32 {
    let backlog = if backlog == 0 { BACKLOG_DEFAULT } else { backlog };
    i32::try_from(backlog).unwrap_or(i32::MAX)
}

/// Where a socket listens.
///
/// # Errors
/// It is no stream socket that listens, of TCP or Unix with a path.
pub fn listens_on(socket: BorrowedFd<'_>) -> io::Result<Address> {
    let other = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    let kind = socket_type(socket).map_err(|_| other("it is no socket"))?;
    if kind != SocketType::STREAM || !socket_acceptconn(socket)? {
        return Err(other("it is no stream socket that listens"));
    }
    let address = SockRef::from(&socket).local_addr()?;
    match (address.as_socket(), address.as_pathname()) {
        (None, None) => Err(other("it has neither an IP address nor a path")),
        _ => Ok(entry::from_system(&address)),
    }
}

/// What is accepted inherits both.
fn set_options(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
}

fn bind(address: &Address, backlog: i32) -> io::Result<(Socket, Address, Option<SocketFile>)> {
    match address {
        Address::Tcp(tcp) => {
            let socket = socket(Domain::for_address(*tcp))?;
            // Connections of the last run that linger in the kernel must not keep this one from its port.
            socket.set_reuse_address(true)?;
            if tcp.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            set_options(&socket)?;
            socket.bind(&(*tcp).into())?;
            socket.listen(backlog)?;
            let address = entry::from_system(&socket.local_addr()?);
            Ok((socket, address, None))
        }
        Address::Unix(path) => {
            let (socket, file) = bind_unix(path)?;
            socket.listen(backlog)?;
            Ok((socket, address.clone(), Some(file)))
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<(Socket, SocketFile)> {
    let name = SockAddr::unix(path)?;
    let socket = socket(Domain::UNIX)?;
    match socket.bind(&name) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path, &name) => {
            fs::remove_file(path)?;
            socket.bind(&name)?;
        }
        other => other?,
    }
    let file = SocketFile::of(path)?;
    Ok((socket, file))
}

/// Whether what is at `path` is a socket that nobody listens on: left behind by a process that was killed.
fn is_stale(path: &Path, name: &SockAddr) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let answer = socket(Domain::UNIX).and_then(|probe| probe.connect(name));
    is_socket && answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn socket(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)
}

pub(super) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| shortages.contains(&errno))
}

/// What accept(2) passes on of a connection that failed while it waited.
fn is_the_peers(error: &io::Error) -> bool {
    let of_peers = [
        Errno::CONNABORTED,
        Errno::INTR,
        Errno::PROTO,
        Errno::PERM,
        Errno::NETDOWN,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
    ];
    Errno::from_io_error(error).is_some_and(|errno| of_peers.contains(&errno))
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let file = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: file.dev(), inode: file.ino() })
    }

    /// Leaves it there: the socket is somebody else's from now on.
    pub(super) fn leave(self) {
        // There is nothing to it but the removal, and its path.
        std::mem::forget(self);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if exec::is_left_behind() {
            return;
        }
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the socket {}: {error}", self.path.display());
        }
    }
}

/// What ran out, and how there can be more of it.
struct Shortage<'a>(&'a io::Error);

impl fmt::Display for Shortage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Errno::from_io_error(self.0) {
            Some(Errno::MFILE) => {
                let max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
                let max = max.map_or("unlimited".to_owned(), |max| max.to_string());
                write!(
                    f,
                    "this process has as many descriptors open as it may ({max}); raise RLIMIT_NOFILE (`ulimit -n`, or \
                     LimitNOFILE= of a systemd unit), or lower connections_max"
                )
            }
            Some(Errno::NFILE) => f.write_str(
                "the system has as many files open as it may; raise the sysctl fs.file-max",
            ),
            _ => write!(f, "the kernel has no memory for another socket ({})", self.0),
        }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: ", self.address)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                f.write_str("something listens there already; stop that, or choose another address")
            }
            io::ErrorKind::AddrNotAvailable => {
                f.write_str("this machine has no such address; see `ip address`")
            }
            io::ErrorKind::PermissionDenied => write!(
                f,
                "permission denied; ports below 1024 need the capability CAP_NET_BIND_SERVICE, and a socket's folder must be \
                 writable"
            ),
            io::ErrorKind::NotFound => f.write_str("the socket's folder is not there; make it"),
            _ => write!(f, "{}", self.error),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
