//! `NetCallbacks`: listeners, connections and names. What is about services is in `serve`.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::AsFd,
    rc::Rc,
    task::{Context, Poll},
};

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, InstanceId, Slice},
    host::NetCallbacks,
    net::{self as abi, ConnectionInfo, SocketAddress, SocketSpec, TlsSpec, WRITE_MORE},
    task::Waker,
};
use tokio::io::ReadBuf;

use crate::{
    file::File,
    net::{
        Accepting, Address, Connection, Listener, Lookup, address, connection::NO_LISTENER,
        resolve::LookupError,
    },
    plugin::{
        callbacks::{answer, count, failure, handle, poll, serve, text, with},
        frame::{current, current_for_others},
        manifest::Capability,
    },
};

pub(super) static CALLBACKS: NetCallbacks = NetCallbacks {
    size: size_of::<NetCallbacks>(),
    service_add: serve::service_add,
    session_add: serve::session_add,
    listen,
    listener_address,
    accept_poll,
    connect,
    connect_poll,
    resolve,
    resolve_poll,
    conn_read,
    conn_write,
    conn_flush,
    conn_send_file,
    conn_shutdown,
    conn_abort,
    conn_hangup_poll,
    conn_info,
    conn_option,
    conn_park: serve::conn_park,
    conn_post: serve::conn_post,
    conn_start_tls,
    conn_tls_fact,
};

/// Pieces of one vectored write; the kernel's own limit.
const PIECES_MAX: usize = 1024;

unsafe extern "C" fn listen(id: InstanceId, spec: *const SocketSpec) -> Code {
    current(id, |generation| {
        if !generation.may(Capability::Listen) {
            return code::DENIED;
        }
        // SAFETY: The spec is valid for the call, says the ABI.
        let Some(spec) = (unsafe { spec.as_ref() }) else { return code::INVALID };
        let Some(tcp) = address::from_abi(&spec.address) else { return code::INVALID };
        // 0 is whatever the host thinks right.
        let backlog_max = generation.limits.listen_backlog();
        let backlog = if spec.backlog == 0 { backlog_max } else { spec.backlog.min(backlog_max) };
        match Listener::bind(&Address::Tcp(tcp), backlog) {
            Ok(listener) => match generation
                .handles
                .insert(Rc::new(listener), generation.limits.listeners_per_instance_max)
            {
                Err(code::LIMIT) => generation.limited("listeners_per_instance_max"),
                made => handle(made),
            },
            Err(failed) => failure(&failed.error),
        }
    })
}

unsafe extern "C" fn listener_address(
    id: InstanceId,
    listener: Handle,
    out: *mut SocketAddress,
) -> Code {
    with::<Listener, _>(id, listener, |_, listener| {
        // SAFETY: `out` is valid for the call, says the ABI.
        let Some(out) = (unsafe { out.as_mut() }) else { return code::INVALID };
        *out = address::to_abi(listener.address());
        code::READY
    })
}

unsafe extern "C" fn accept_poll(id: InstanceId, listener: Handle, waker: Waker) -> Code {
    with::<Listener, _>(id, listener, |generation, listener| {
        poll(generation, waker, |context| {
            let accepting = Accepting {
                connections: &generation.instance.registry.connections,
                quota: &generation.instance.quota,
                owner: generation.owner(),
                index: NO_LISTENER,
            };
            let accepted = std::task::ready!(listener.poll_accept(context, accepting));
            Poll::Ready(
                accepted.map(|connection| {
                    handle(generation.handles.insert(Rc::new(connection), u64::MAX))
                }),
            )
        })
    })
}

unsafe extern "C" fn connect(id: InstanceId, spec: *const SocketSpec) -> Code {
    current(id, |generation| {
        if !generation.may(Capability::Connect) {
            return code::DENIED;
        }
        // SAFETY: The spec is valid for the call, says the ABI.
        let Some(spec) = (unsafe { spec.as_ref() }) else { return code::INVALID };
        let Some(to) = address::from_abi(&spec.address) else { return code::INVALID };
        let from = match spec.from {
            SocketAddress::NONE => None,
            ref from => match address::from_abi(from) {
                None => return code::INVALID,
                from => from,
            },
        };
        let instance = &generation.instance;
        let place = match instance.registry.connections.place(&instance.quota) {
            Ok(place) => place,
            Err(full) => return generation.limited(full.name),
        };
        match Connection::connect(place, &Address::Tcp(to), from, generation.owner().clone()) {
            Ok(connection) => handle(generation.handles.insert(Rc::new(connection), u64::MAX)),
            Err(error) => failure(&error),
        }
    })
}

unsafe extern "C" fn connect_poll(id: InstanceId, connection: Handle, waker: Waker) -> Code {
    done(id, connection, waker, Connection::poll_connected)
}

unsafe extern "C" fn resolve(id: InstanceId, host: Slice, port: u16) -> Code {
    current_for_others(id, "resolve", |generation| {
        if !generation.may(Capability::Resolve) {
            return code::DENIED;
        }
        // SAFETY: The slice is valid for the call, says the ABI.
        let Ok(host) = (unsafe { text(host) }) else { return code::INVALID };
        match generation.instance.registry.resolver.lookup(&host, port) {
            Ok(lookup) => {
                handle(generation.handles.insert(Rc::new(RefCell::new(lookup)), u64::MAX))
            }
            Err(LookupError::Name) => code::INVALID,
            Err(_) => code::BUSY,
        }
    })
}

unsafe extern "C" fn resolve_poll(
    id: InstanceId,
    lookup: Handle,
    out: *mut SocketAddress,
    capacity: usize,
    waker: Waker,
) -> Code {
    with::<RefCell<Lookup>, _>(id, lookup, |generation, lookup| {
        if out.is_null() && capacity > 0 {
            return code::INVALID;
        }
        poll(generation, waker, |context| {
            let lookup = lookup.borrow();
            let addresses = match std::task::ready!(lookup.poll(context)) {
                Ok(addresses) => addresses,
                Err(error) => return Poll::Ready(Err(error)),
            };
            for (index, address) in addresses.iter().take(capacity).enumerate() {
                // SAFETY: `out` has room for `capacity` addresses, says the ABI.
                unsafe { out.add(index).write(address::tcp_to_abi(*address)) };
            }
            Poll::Ready(Ok(count(addresses.len())))
        })
    })
}

unsafe extern "C" fn conn_read(
    id: InstanceId,
    connection: Handle,
    buffer: *mut u8,
    length: usize,
    waker: Waker,
) -> Code {
    with::<Connection, _>(id, connection, |generation, connection| {
        if length > isize::MAX as usize || (buffer.is_null() && length > 0) {
            return code::INVALID;
        }
        if length == 0 {
            return 0;
        }
        // SAFETY: The buffer is the plugin's for `length` bytes, says the ABI; only the kernel writes to it, and it
        // answers EFAULT for what is not mapped.
        let memory =
            unsafe { std::slice::from_raw_parts_mut(buffer.cast::<MaybeUninit<u8>>(), length) };
        poll(generation, waker, |context| {
            connection.poll_read(context, &mut ReadBuf::uninit(memory)).map_ok(count)
        })
    })
}

unsafe extern "C" fn conn_write(
    id: InstanceId,
    connection: Handle,
    pieces: *const abi::IoSlice,
    piece_count: usize,
    flags: u32,
    waker: Waker,
) -> Code {
    with::<Connection, _>(id, connection, |generation, connection| {
        if piece_count > PIECES_MAX || (pieces.is_null() && piece_count > 0) {
            return code::INVALID;
        }
        if piece_count == 0 {
            return 0;
        }
        // SAFETY: There are `piece_count` pieces, says the ABI.
        let given = unsafe { std::slice::from_raw_parts(pieces, piece_count) };
        let is_wrong = |piece: &abi::IoSlice| {
            piece.len > isize::MAX as usize || (piece.ptr.is_null() && piece.len > 0)
        };
        if given.iter().any(is_wrong) {
            return code::INVALID;
        }
        // An empty piece may be null for the plugin, but not for Rust.
        let without_null: Vec<abi::IoSlice>;
        let given = if given.iter().any(|piece| piece.ptr.is_null()) {
            without_null = given.iter().filter(|piece| !piece.ptr.is_null()).copied().collect();
            &without_null
        } else {
            given
        };
        // SAFETY: They have the layout of `iovec`, which `IoSlice` guarantees to have too. Their memory is read by the kernel
        // alone, which answers EFAULT for what is not mapped.
        let pieces = unsafe {
            std::slice::from_raw_parts(given.as_ptr().cast::<IoSlice<'_>>(), given.len())
        };
        poll(generation, waker, |context| {
            connection.poll_write_vectored(context, pieces, flags & WRITE_MORE != 0).map_ok(count)
        })
    })
}

unsafe extern "C" fn conn_flush(id: InstanceId, connection: Handle, waker: Waker) -> Code {
    done(id, connection, waker, Connection::poll_flush)
}

unsafe extern "C" fn conn_send_file(
    id: InstanceId,
    connection: Handle,
    file: Handle,
    offset: u64,
    length: u64,
    waker: Waker,
) -> Code {
    with::<Connection, _>(id, connection, |generation, connection| {
        let file = match generation.handles.get::<File>(file) {
            Ok(file) => file,
            Err(code) => return code,
        };
        poll(generation, waker, |context| {
            let descriptor = file.descriptor()?;
            let warm = |length| file.warm(offset, length);
            connection
                .poll_send_file(context, descriptor.as_fd(), offset, length, warm)
                .map_ok(count)
        })
    })
}

unsafe extern "C" fn conn_shutdown(id: InstanceId, connection: Handle, waker: Waker) -> Code {
    done(id, connection, waker, Connection::poll_shutdown)
}

unsafe extern "C" fn conn_abort(id: InstanceId, connection: Handle) -> Code {
    current(id, |generation| {
        answer(generation.handles.get::<Connection>(connection).map(|aborted| {
            aborted.abort();
            drop(generation.handles.remove(connection));
            code::READY
        }))
    })
}

unsafe extern "C" fn conn_hangup_poll(id: InstanceId, connection: Handle, waker: Waker) -> Code {
    done(id, connection, waker, Connection::poll_hangup)
}

unsafe extern "C" fn conn_info(
    id: InstanceId,
    connection: Handle,
    out: *mut ConnectionInfo,
) -> Code {
    with::<Connection, _>(id, connection, |_, connection| {
        // SAFETY: `out` is valid for the call, says the ABI.
        let Some(out) = (unsafe { out.as_mut() }) else { return code::INVALID };
        *out = connection.info();
        code::READY
    })
}

unsafe extern "C" fn conn_option(
    id: InstanceId,
    connection: Handle,
    option: u32,
    value: u64,
) -> Code {
    with::<Connection, _>(id, connection, |_, connection| {
        match connection.set_option(option, value) {
            Ok(()) => code::READY,
            Err(error) => failure(&error),
        }
    })
}

/// This host has no TLS yet; the place is kept for it.
unsafe extern "C" fn conn_start_tls(
    id: InstanceId,
    connection: Handle,
    _spec: *const TlsSpec,
    _waker: Waker,
) -> Code {
    with::<Connection, _>(id, connection, |_, _| code::UNSUPPORTED)
}

unsafe extern "C" fn conn_tls_fact(
    id: InstanceId,
    connection: Handle,
    _fact: u32,
    _sink: ByteSink,
) -> Code {
    with::<Connection, _>(id, connection, |_, _| code::NOT_FOUND)
}

/// Polls a step of a connection that has nothing to say but that it is done.
fn done(
    id: InstanceId,
    connection: Handle,
    waker: Waker,
    step: fn(&Connection, &mut Context<'_>) -> Poll<io::Result<()>>,
) -> Code {
    with::<Connection, _>(id, connection, |generation, connection| {
        poll(generation, waker, |context| step(connection, context).map_ok(|()| code::READY))
    })
}
