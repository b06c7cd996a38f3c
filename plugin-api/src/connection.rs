//! A connection: a byte stream to a peer, whatever stands behind it.

// Calls the callbacks of a connection.
#![allow(unsafe_code)]

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, NO_HANDLE, Slice},
    net::{
        CONNECTION_TLS, ConnectionInfo as AbiInfo, IoSlice as AbiIoSlice, OPTION_KEEPALIVE,
        OPTION_NODELAY, SocketAddress, TLS_ALPN, TLS_PEER_CERTIFICATE, TLS_SERVER_NAME, TlsSpec,
        WRITE_MORE,
    },
    task::Waker as AbiWaker,
};

use crate::{
    address,
    error::{Error, Result, io_error},
    file::File,
    handle::Owned,
    host::{host, vec_sink},
    waker,
};

/// A connection. Dropping it closes it in good order: what was written is still sent.
///
/// It implements `futures_io`'s `AsyncRead` and `AsyncWrite`, and with the feature `hyper` also hyper's `rt::Read` and
/// `rt::Write`. It may be sent to another thread, and is then of no use there: the host refuses what it is asked for.
#[derive(Debug)]
pub struct Connection {
    handle: Owned,
}

/// A fact of a connection's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFact {
    /// The server name that the client asked for (RFC 6066 section 3).
    ServerName,
    /// The protocol agreed on (RFC 7301).
    Alpn,
    /// The peer's certificate, in DER.
    PeerCertificate,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The peer; `None` for a Unix socket.
    pub remote: Option<SocketAddr>,
    /// This side; `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// The connection's number in the log and in the monitor; never used twice.
    pub id: u64,
    /// Which of the instance's `listen` addresses it came in by, from 0; `None` for others.
    pub listener: Option<u32>,
    /// What is read and written goes through TLS.
    pub is_tls: bool,
}

impl Connection {
    /// Begins TLS, as its server, with the configuration's `[tls.NAME]`. What the peer sent before the handshake must have been read,
    /// and what was written must have gone out: else it could be taken for something that was protected.
    ///
    /// # Errors
    /// `Unsupported` from a host that has no TLS, as medusa has none yet; `InvalidInput` where plain text stands on either side.
    pub async fn start_tls(&mut self, name: &str) -> io::Result<()> {
        let spec = TlsSpec {
            name: Slice::new(name.as_bytes()),
            session_of: NO_HANDLE,
            flags: 0,
            spare: [0; 4],
        };
        poll_fn(|context| {
            let (host, waker) = (host(), waker::for_call(context));
            // SAFETY: The spec is valid for the call.
            poll_count(unsafe {
                (host.net.conn_start_tls)(host.instance, self.handle.get(), &spec, waker)
            })
        })
        .await
        .map(drop)
    }

    /// A fact of the connection's TLS; `None` on one without TLS, and where there is no such fact.
    #[must_use]
    pub fn tls_fact(&self, fact: TlsFact) -> Option<Vec<u8>> {
        let fact = match fact {
            TlsFact::ServerName => TLS_SERVER_NAME,
            TlsFact::Alpn => TLS_ALPN,
            TlsFact::PeerCertificate => TLS_PEER_CERTIFICATE,
        };
        let host = host();
        let mut bytes = Vec::new();
        let sink = vec_sink(&mut bytes);
        // SAFETY: The sink's data outlives the call and is what its function expects.
        let code =
            unsafe { (host.net.conn_tls_fact)(host.instance, self.handle.get(), fact, sink) };
        (code >= 0).then_some(bytes)
    }

    /// Reads what is there, at least one byte, into `buffer`; 0 at the end of input.
    ///
    /// # Errors
    /// The connection's; also when the host closes it.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    /// Fills `buffer`.
    ///
    /// # Errors
    /// As [`read`](Connection::read), and `UnexpectedEof` if the input ends before.
    pub async fn read_exact(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read(buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    /// Writes some of `bytes`, and says how many.
    ///
    /// # Errors
    /// The connection's; `BrokenPipe` when the peer is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_write(context, bytes)).await
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As [`write`](Connection::write).
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }

    /// Writes all of `pieces`, in one call of the system where that is possible. At most 1,024 of them.
    ///
    /// # Errors
    /// As [`write`](Connection::write).
    pub async fn write_vectored_all(&mut self, pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut pieces = pieces;
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            match poll_fn(|context| self.poll_write_vectored(context, pieces, false)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => IoSlice::advance_slices(&mut pieces, count),
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`, of which more follow at once: the host may hold them back to fill a packet.
    ///
    /// # Errors
    /// As [`write`](Connection::write).
    pub async fn write_all_more(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let pieces = [IoSlice::new(bytes)];
            match poll_fn(|context| self.poll_write_vectored(context, &pieces, true)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }

    /// Waits until all that was written is with the kernel.
    ///
    /// # Errors
    /// As [`write`](Connection::write).
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush(context)).await
    }

    /// Sends `length` bytes of a file from `offset`, without a copy where the kernel can.
    ///
    /// # Errors
    /// As [`write`](Connection::write), and `UnexpectedEof` if the file ends before.
    pub async fn send_file(&mut self, file: &File, mut offset: u64, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            match poll_fn(|context| self.poll_send_file(context, file, offset, left)).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => {
                    offset += count;
                    left -= count;
                }
            }
        }
        Ok(())
    }

    /// Ends the writing half: the peer reads the end of input. Reading goes on.
    ///
    /// # Errors
    /// The connection's.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_shutdown(context)).await
    }

    /// Closes the connection in good order, as dropping it does.
    pub fn close(self) {}

    /// Drops the connection with a reset: what was not sent yet is lost, and the peer is told so.
    pub fn abort(self) {
        let host = host();
        // SAFETY: Numbers only. The host drops the handle with the connection.
        unsafe { (host.net.conn_abort)(host.instance, self.into_raw()) };
    }

    /// Waits until the peer has gone altogether, not only ended its half.
    pub async fn hangup(&self) {
        poll_fn(|context| {
            let host = host();
            let waker = waker::for_call(context);
            // SAFETY: The waker is borrowed for the call.
            match unsafe { (host.net.conn_hangup_poll)(host.instance, self.handle.get(), waker) } {
                code::PENDING => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// What is known of the connection.
    ///
    /// # Errors
    /// When the host has closed it.
    pub fn info(&self) -> Result<ConnectionInfo> {
        info(self.handle.get())
    }

    /// The peer's address; `None` for a Unix socket.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.info().ok()?.remote
    }

    /// This side's address; `None` for a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.info().ok()?.local
    }

    /// Whether small writes go out at once (TCP_NODELAY). On by default.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.set_option(OPTION_NODELAY, on.into())
    }

    /// Whether the kernel asks now and then if the peer is still there (SO_KEEPALIVE). Off by default.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_keepalive(&self, on: bool) -> io::Result<()> {
        self.set_option(OPTION_KEEPALIVE, on.into())
    }

    /// A way to the connection for other parts of the plugin, while it is parked too.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer(self.handle.get())
    }

    /// Reads as [`read`](Connection::read) does.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // SAFETY: The buffer is valid for its length.
        unsafe { self.poll_read_raw(context, buffer.as_mut_ptr(), buffer.len()) }
    }

    /// Writes as [`write`](Connection::write) does.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)], false)
    }

    /// Writes some of `pieces`; `more` if others follow at once.
    pub fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
        more: bool,
    ) -> Poll<io::Result<usize>> {
        write_vectored(self.handle.get(), context, pieces, more)
    }

    /// As [`flush`](Connection::flush).
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_done(context, host().net.conn_flush)
    }

    /// As [`shutdown`](Connection::shutdown).
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_done(context, host().net.conn_shutdown)
    }

    pub(crate) fn from_handle(handle: Handle) -> Connection {
        Connection { handle: Owned::new(handle) }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.handle.get()
    }

    /// Gives up the connection without closing it: it is parked.
    pub(crate) fn into_raw(self) -> Handle {
        self.handle.into_raw()
    }

    /// Reads into memory that need not be initialized.
    ///
    /// # Safety
    /// `buffer` must be valid for writes of `length` bytes.
    pub(crate) unsafe fn poll_read_raw(
        &mut self,
        context: &mut Context<'_>,
        buffer: *mut u8,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        let host = host();
        let waker = waker::for_call(context);
        // SAFETY: The caller's promise; the host writes before it returns, or not at all.
        let code = unsafe {
            (host.net.conn_read)(host.instance, self.handle.get(), buffer, length, waker)
        };
        // More than there is room for is a host gone wrong; no slice may be cut by it.
        poll_count(code).map_ok(|count| count.min(length))
    }

    /// Sends some of a file as [`send_file`](Connection::send_file) does, and says how many bytes; 0 if the file ends at `offset`.
    pub fn poll_send_file(
        &mut self,
        context: &mut Context<'_>,
        file: &File,
        offset: u64,
        length: u64,
    ) -> Poll<io::Result<u64>> {
        let host = host();
        let waker = waker::for_call(context);
        let connection = self.handle.get();
        // SAFETY: Numbers, and a waker that is borrowed for the call.
        let code = unsafe {
            (host.net.conn_send_file)(
                host.instance,
                connection,
                file.handle(),
                offset,
                length,
                waker,
            )
        };
        poll_count(code).map_ok(|count| (count as u64).min(length))
    }

    fn poll_done(
        &mut self,
        context: &mut Context<'_>,
        callback: unsafe extern "C" fn(u64, Handle, AbiWaker) -> Code,
    ) -> Poll<io::Result<()>> {
        // SAFETY: The waker is borrowed for the call.
        let code =
            unsafe { callback(host().instance, self.handle.get(), waker::for_call(context)) };
        poll_count(code).map_ok(drop)
    }

    fn set_option(&self, option: u32, value: u64) -> io::Result<()> {
        let host = host();
        // SAFETY: Numbers only.
        let code =
            unsafe { (host.net.conn_option)(host.instance, self.handle.get(), option, value) };
        if code < 0 { Err(io_error(code)) } else { Ok(()) }
    }
}

/// Another part's way to a connection: it writes and posts, and does not keep it open. Once the connection is gone, every
/// use is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer(Handle);

impl Peer {
    /// Writes all of `bytes`. Two writes at a time may mix their bytes.
    ///
    /// # Errors
    /// The connection's; `NotConnected` once it is gone.
    pub async fn write_all(self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let pieces = [IoSlice::new(bytes)];
            match poll_fn(|context| write_vectored(self.0, context, &pieces, false)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }

    /// Wakes the parked session with [`Wake::Posted`](crate::Wake::Posted).
    ///
    /// # Errors
    /// `NotConnected` once the connection is gone.
    pub fn post(self, bytes: &[u8]) -> io::Result<()> {
        let host = host();
        // SAFETY: The slice is borrowed for the call.
        let code = unsafe { (host.net.conn_post)(host.instance, self.0, Slice::new(bytes)) };
        if code < 0 { Err(io_error(code)) } else { Ok(()) }
    }

    /// What is known of the connection.
    ///
    /// # Errors
    /// Once it is gone.
    pub fn info(self) -> Result<ConnectionInfo> {
        info(self.0)
    }
}

impl futures_io::AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Connection::poll_read(self.get_mut(), context, buffer)
    }
}

impl futures_io::AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Connection::poll_write(self.get_mut(), context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Connection::poll_write_vectored(self.get_mut(), context, pieces, false)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Connection::poll_flush(self.get_mut(), context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Connection::poll_shutdown(self.get_mut(), context)
    }
}

#[cfg(feature = "hyper")]
impl hyper::rt::Read for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // SAFETY: Only whole initialized bytes are written into it, by the host.
        let free = unsafe { buffer.as_mut() };
        let (pointer, length) = (free.as_mut_ptr().cast::<u8>(), free.len());
        // SAFETY: The memory is the cursor's, valid for its length.
        let count =
            unsafe { std::task::ready!(self.get_mut().poll_read_raw(context, pointer, length)?) };
        // SAFETY: The host has written `count` bytes, which are no more than `length`.
        unsafe { buffer.advance(count) };
        Poll::Ready(Ok(()))
    }
}

#[cfg(feature = "hyper")]
impl hyper::rt::Write for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Connection::poll_write(self.get_mut(), context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Connection::poll_flush(self.get_mut(), context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Connection::poll_shutdown(self.get_mut(), context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Connection::poll_write_vectored(self.get_mut(), context, pieces, false)
    }
}

fn write_vectored(
    connection: Handle,
    context: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
    more: bool,
) -> Poll<io::Result<usize>> {
    /// What one call takes (IOV_MAX).
    const PIECES_MAX: usize = 1024;
    let flags = if more { WRITE_MORE } else { 0 };
    let count = pieces.len().min(PIECES_MAX);
    // `std::io::IoSlice` is documented to have the layout of `struct iovec`, as the ABI's has.
    let pieces = pieces.as_ptr().cast::<AbiIoSlice>();
    let host = host();
    let waker = waker::for_call(context);
    // SAFETY: The pieces are valid for the call.
    poll_count(unsafe {
        (host.net.conn_write)(host.instance, connection, pieces, count, flags, waker)
    })
}

fn info(connection: Handle) -> Result<ConnectionInfo> {
    let mut info = AbiInfo {
        remote: SocketAddress::NONE,
        local: SocketAddress::NONE,
        id: 0,
        listener: u32::MAX,
        flags: 0,
        spare: [0; 4],
    };
    let host = host();
    // SAFETY: The host writes into `info` during the call.
    let code = unsafe { (host.net.conn_info)(host.instance, connection, &mut info) };
    Error::check(code, "cannot ask about the connection")?;
    Ok(ConnectionInfo {
        remote: address::from_abi(&info.remote),
        local: address::from_abi(&info.local),
        id: info.id,
        listener: Some(info.listener).filter(|listener| *listener != u32::MAX),
        is_tls: info.flags & CONNECTION_TLS != 0,
    })
}

/// A code of a callback that polls and answers with a number.
pub(crate) fn poll_count(code: Code) -> Poll<io::Result<usize>> {
    match code {
        code::PENDING => Poll::Pending,
        0.. => Poll::Ready(Ok(code as usize)),
        code => Poll::Ready(Err(io_error(code))),
    }
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Connection>();
};
