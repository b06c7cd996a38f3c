//! Outgoing connections.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::{
    address::Address,
    connection::{Connection, NO_LISTENER},
    connections::{Owner, Place, State},
    entry::Entry,
    stream::Stream,
};

impl Connection {
    /// Begins to connect to `address`, and for TCP comes from the address `from` where there is one. Nothing can be read or written
    /// before [`Connection::poll_connected`] is ready. Must be called on the loop.
    ///
    /// # Errors
    /// EINVAL where `from` is of another family or given for a Unix socket; what the system knows at once (EADDRNOTAVAIL,
    /// ENETUNREACH; for a Unix socket also ENOENT, ECONNREFUSED, and EAGAIN when its queue is full).
    pub fn connect(
        place: Place,
        address: &Address,
        from: Option<SocketAddr>,
        owner: Rc<Owner>,
    ) -> io::Result<Connection> {
        let stream = match address {
            Address::Tcp(address) => tcp(*address, from)?,
            Address::Unix(_) if from.is_some() => return Err(Errno::INVAL.into()),
            Address::Unix(path) => {
                let socket = begin(Domain::UNIX, None, &SockAddr::unix(path)?)?;
                Stream::unix(socket.into())?
            }
        };
        let entry =
            Entry::new(stream, address.clone(), None, NO_LISTENER, State::Connecting, owner, place);
        Ok(Connection::new(entry))
    }

    /// Ready once the connection stands, or will never stand. Ready at once for one that came in.
    ///
    /// # Errors
    /// Why it does not stand: ECONNREFUSED, ETIMEDOUT and the like. Asked again, ENOTCONN.
    pub fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.entry.check() {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                return Poll::Ready(Err(error));
            }
            _ if self.state() != State::Connecting => return Poll::Ready(Ok(())),
            _ => {}
        }
        let stream = self.entry.stream();
        ready!(stream.poll_write_ready(cx))?;
        // A kill may be what woke us.
        if self.is_killed() {
            return Poll::Ready(self.entry.check());
        }
        if let Some(error) = stream.take_error()? {
            return Poll::Ready(Err(error));
        }
        if let Stream::Tcp(tcp) = &*stream {
            // Without an error and without a peer: it failed before, and was asked.
            tcp.peer_addr()?;
        }
        self.entry.state.set(State::Open);
        Poll::Ready(Ok(()))
    }
}

fn tcp(address: SocketAddr, from: Option<SocketAddr>) -> io::Result<Stream> {
    if from.is_some_and(|from| from.is_ipv4() != address.is_ipv4()) {
        return Err(Errno::INVAL.into());
    }
    let socket = begin(Domain::for_address(address), from, &address.into())?;
    socket.set_tcp_nodelay(true)?;
    Stream::tcp(socket.into())
}

fn begin(domain: Domain, from: Option<SocketAddr>, address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    if let Some(from) = from {
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
    }
    match socket.connect(address) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => Ok(socket),
        other => other.map(|()| socket),
    }
}
