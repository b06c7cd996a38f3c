//! Listeners of the plugin's own, outgoing connections, and names.

// Calls the callbacks of sockets.
#![allow(unsafe_code)]

use std::{future::poll_fn, io, net::SocketAddr, task::Poll};

use medusa_abi::{
    code,
    data::{Handle, Slice},
    net::{SocketAddress, SocketSpec},
};

use crate::{
    address,
    connection::{Connection, poll_count},
    error::io_error,
    handle::Owned,
    host::host,
    waker,
};

/// A port that the plugin opened itself, besides those of the configuration. Dropping it closes it.
///
/// Needs the capability `listen`.
#[derive(Debug)]
pub struct Listener(Owned);

impl Listener {
    /// Listens on `address`; port 0 is any that is free.
    ///
    /// # Errors
    /// The socket's; `PermissionDenied` without the capability.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        Ok(Listener(open(host().net.listen, address, None)?))
    }

    /// The next connection.
    ///
    /// # Errors
    /// The listener's; one connection's failure is not among them.
    pub async fn accept(&mut self) -> io::Result<Connection> {
        let handle = poll_fn(|context| {
            let host = host();
            let waker = waker::for_call(context);
            // SAFETY: The waker is borrowed for the call.
            poll_count(unsafe { (host.net.accept_poll)(host.instance, self.0.get(), waker) })
        })
        .await?;
        Ok(Connection::from_handle(handle as Handle))
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// When the host has closed it.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let mut address = SocketAddress::NONE;
        let host = host();
        // SAFETY: The host writes into `address` during the call.
        let code =
            unsafe { (host.net.listener_address)(host.instance, self.0.get(), &mut address) };
        if code < 0 {
            return Err(io_error(code));
        }
        address::from_abi(&address).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// Connects to `address`. Needs the capability `connect`.
///
/// # Errors
/// The socket's; `PermissionDenied` without the capability.
pub async fn connect(address: SocketAddr) -> io::Result<Connection> {
    connect_spec(address, None).await
}

/// Connects to `address`, coming from `from` (port 0: any).
///
/// # Errors
/// As [`connect`].
pub async fn connect_from(address: SocketAddr, from: SocketAddr) -> io::Result<Connection> {
    connect_spec(address, Some(from)).await
}

/// The addresses of a host, by the system's resolver. Needs the capability `resolve`.
///
/// # Errors
/// `NotFound` for a name that has none; `PermissionDenied` without the capability.
pub async fn resolve(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    /// More than a name has in practice.
    const ADDRESSES_MAX: usize = 64;
    let host = host();
    // SAFETY: The slice is borrowed for the call.
    let code = unsafe { (host.net.resolve)(host.instance, Slice::new(name.as_bytes()), port) };
    let lookup = Owned::new(handle(code)?);
    let mut found = [SocketAddress::NONE; ADDRESSES_MAX];
    let count = poll_fn(|context| {
        let waker = waker::for_call(context);
        let out = found.as_mut_ptr();
        // SAFETY: The host writes at most `ADDRESSES_MAX` addresses into `found`, during the call.
        poll_count(unsafe {
            (host.net.resolve_poll)(host.instance, lookup.get(), out, ADDRESSES_MAX, waker)
        })
    })
    .await?;
    Ok(found.iter().take(count).filter_map(address::from_abi).collect())
}

async fn connect_spec(address: SocketAddr, from: Option<SocketAddr>) -> io::Result<Connection> {
    let connection = open(host().net.connect, address, from)?;
    poll_fn(|context| {
        let host = host();
        let waker = waker::for_call(context);
        // SAFETY: The waker is borrowed for the call.
        match unsafe { (host.net.connect_poll)(host.instance, connection.get(), waker) } {
            code::PENDING => Poll::Pending,
            code => Poll::Ready(if code < 0 { Err(io_error(code)) } else { Ok(()) }),
        }
    })
    .await?;
    Ok(Connection::from_handle(connection.into_raw()))
}

type Open = unsafe extern "C" fn(u64, *const SocketSpec) -> code::Code;

fn open(callback: Open, address: SocketAddr, from: Option<SocketAddr>) -> io::Result<Owned> {
    let spec = SocketSpec {
        address: address::to_abi(address),
        from: from.map_or(SocketAddress::NONE, address::to_abi),
        backlog: 0,
        flags: 0,
        spare: [0; 2],
    };
    // SAFETY: The spec is borrowed for the call.
    Ok(Owned::new(handle(unsafe { callback(host().instance, &spec) })?))
}

/// The handle that a callback made.
pub(crate) fn handle(code: code::Code) -> io::Result<Handle> {
    if code > 0 { Ok(code as Handle) } else { Err(io_error(code)) }
}
