//! The test host's sockets: pipes in memory, services and sessions over them.

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, InstanceId, Slice},
    host::NetCallbacks,
    net::{
        ConnectionInfo, IoSlice, PARK_RESUME, ParkSpec, Service, Session, SocketAddress,
        SocketSpec, TlsSpec, WAKE_DEADLINE, WAKE_DRAIN, WAKE_HANGUP, WAKE_POSTED, WAKE_READABLE,
        WAKE_RESUMED,
    },
    task::{Task, Waker},
};

use super::{
    callbacks::{on_loop, text},
    files,
    pipe::End,
    wake::{Kept, wake_slot},
    world::{Connection, Entry, Listener, ServiceEntry, World},
};
use crate::{address, host::bytes_of};

pub(super) static NET: NetCallbacks = NetCallbacks {
    size: size_of::<NetCallbacks>(),
    service_add,
    session_add,
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
    conn_park,
    conn_post,
    conn_start_tls,
    conn_tls_fact,
};

/// Makes a connection of the plugin's out of its end.
pub(super) fn adopt(world: &World, end: End, listener: u32, session: bool) -> Handle {
    let id = world.next_connection.get();
    world.next_connection.set(id + 1);
    world.insert(Entry::Connection(Rc::new(Connection {
        end,
        id,
        listener,
        parked: None.into(),
        due: RefCell::default(),
        turn: 0.into(),
        session: session.into(),
        hangup_told: false.into(),
        drain_told: false.into(),
    })))
}

/// The plugin's service, if it has one.
pub(super) fn service(world: &World) -> Option<Rc<ServiceEntry>> {
    world.entries().into_iter().find_map(|(_, entry)| match entry {
        Entry::Service(service) => Some(service),
        _ => None,
    })
}

/// Has the plugin serve a new connection.
pub(super) fn serve(world: &World, end: End) -> Code {
    match service(world).as_deref() {
        None => code::NOT_FOUND,
        Some(ServiceEntry::Service(service)) => {
            let handle = adopt(world, end, 0, false);
            let mut task = Task::NONE;
            // SAFETY: A registered service.
            let code = unsafe {
                service
                    .hooks
                    .get()
                    .map_or(code::INVALID, |hooks| (hooks.serve)(service.data, handle, &mut task))
            };
            if code >= 0 {
                world.spawn(task);
            }
            code
        }
        Some(ServiceEntry::Session(_)) => {
            let handle = adopt(world, end, 0, true);
            if let Some(Entry::Connection(conn)) = world.get(handle) {
                conn.due.borrow_mut().push_back((WAKE_READABLE, Vec::new()));
                conn.parked.set(Some(0));
            }
            code::READY
        }
    }
}

/// Gives each parked connection that has something to do its turn; whether any had.
pub(super) fn take_turns(world: &Rc<World>) -> bool {
    if world.is_handing_over.get() && !world.is_draining.get() {
        return false;
    }
    let Some(service) = service(world) else { return false };
    let ServiceEntry::Session(session) = &*service else { return false };
    let mut any = false;
    for (handle, entry) in world.entries() {
        let Entry::Connection(conn) = entry else { continue };
        let Some(deadline) = conn.parked.get() else { continue };
        if conn.turn.get() != 0 && world.outcome(conn.turn.get()).is_none() {
            continue;
        }
        let posted = conn.due.borrow_mut().pop_front();
        let wake = if let Some(wake) = posted {
            // Nobody has taken one that was to go on elsewhere.
            if wake.0 == WAKE_RESUMED && world.is_draining.get() {
                conn.drain_told.set(true);
                (WAKE_DRAIN, Vec::new())
            } else {
                wake
            }
        } else if world.is_draining.get() && !conn.drain_told.replace(true) {
            (WAKE_DRAIN, Vec::new())
        } else if conn.end.hung_up() && !conn.hangup_told.replace(true) {
            (WAKE_HANGUP, Vec::new())
        } else if conn.end.readable() && !conn.hangup_told.get() {
            (WAKE_READABLE, Vec::new())
        } else if deadline != 0 && deadline <= world.now_ns.get() {
            (WAKE_DEADLINE, Vec::new())
        } else {
            continue;
        };
        any = true;
        conn.parked.set(None);
        let mut task = Task::NONE;
        // SAFETY: A registered session; the bytes are borrowed for the call.
        let code = unsafe {
            session.hooks.get().map_or(code::INVALID, |hooks| {
                (hooks.turn)(session.data, handle, wake.0, Slice::new(&wake.1), &mut task)
            })
        };
        if code >= 0 {
            conn.turn.set(world.spawn(task));
        }
    }
    any
}

fn with(connection: Handle, f: impl FnOnce(&Connection) -> Code) -> Code {
    on_loop(|world| match world.get(connection) {
        Some(Entry::Connection(conn)) => f(&conn),
        _ => code::STALE,
    })
}

// In all of the following the plugin's SDK keeps what the ABI asks of a caller: slices and pointers are valid for the call.

unsafe extern "C" fn service_add(_: InstanceId, service: Service) -> Code {
    on_loop(|world| add(world, ServiceEntry::Service(service)))
}

unsafe extern "C" fn session_add(_: InstanceId, session: Session) -> Code {
    on_loop(|world| add(world, ServiceEntry::Session(session)))
}

fn add(world: &World, entry: ServiceEntry) -> Code {
    if service(world).is_some() {
        return code::LIMIT;
    }
    world.insert(Entry::Service(Rc::new(entry))) as Code
}

unsafe extern "C" fn listen(_: InstanceId, spec: *const SocketSpec) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let Some(mut address) = address::from_abi(unsafe { &(*spec).address }) else {
            return code::INVALID;
        };
        let taken = |address: &SocketAddr| world.ports.borrow().contains_key(address);
        if address.port() == 0 {
            let free =
                (40_000..u16::MAX).find(|port| !taken(&SocketAddr::new(address.ip(), *port)));
            address.set_port(free.unwrap_or_default());
        }
        if taken(&address) {
            return code::from_errno(libc::EADDRINUSE);
        }
        let listener = Rc::new(Listener { address: Some(address), ..Listener::default() });
        world.ports.borrow_mut().insert(address, listener.clone());
        world.insert(Entry::Listener(listener)) as Code
    })
}

unsafe extern "C" fn listener_address(
    _: InstanceId,
    listener: Handle,
    out: *mut SocketAddress,
) -> Code {
    on_loop(|world| match world.get(listener) {
        Some(Entry::Listener(listener)) => {
            let address = listener.address.map_or(SocketAddress::NONE, address::to_abi);
            // SAFETY: See above.
            unsafe { out.write(address) };
            code::READY
        }
        _ => code::STALE,
    })
}

unsafe extern "C" fn accept_poll(_: InstanceId, listener: Handle, waker: Waker) -> Code {
    on_loop(|world| {
        let Some(Entry::Listener(listener)) = world.get(listener) else { return code::STALE };
        let end = listener.waiting.borrow_mut().pop();
        match end {
            Some(end) => adopt(world, end, u32::MAX, false) as Code,
            None => {
                *listener.waker.borrow_mut() = Kept::new(waker);
                code::PENDING
            }
        }
    })
}

unsafe extern "C" fn connect(_: InstanceId, spec: *const SocketSpec) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let (to, from) =
            unsafe { (address::from_abi(&(*spec).address), address::from_abi(&(*spec).from)) };
        let Some(to) = to else { return code::INVALID };
        let Some(listener) = world.ports.borrow().get(&to).cloned() else {
            return code::from_errno(libc::ECONNREFUSED);
        };
        let from = from.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 50_000)));
        let (near, far) = End::pair(from, to);
        listener.waiting.borrow_mut().insert(0, far);
        wake_slot(&listener.waker);
        adopt(world, near, u32::MAX, false) as Code
    })
}

unsafe extern "C" fn connect_poll(_: InstanceId, connection: Handle, _: Waker) -> Code {
    with(connection, |_| code::READY)
}

unsafe extern "C" fn resolve(_: InstanceId, host: Slice, port: u16) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let name = unsafe { text(host) };
        let mut found = world.names.borrow().get(&name).cloned().unwrap_or_default();
        if let Ok(ip) = name.parse() {
            found.push(SocketAddr::new(ip, port));
        }
        found.iter_mut().for_each(|address| address.set_port(port));
        world.insert(Entry::Lookup(found)) as Code
    })
}

unsafe extern "C" fn resolve_poll(
    _: InstanceId,
    lookup: Handle,
    out: *mut SocketAddress,
    capacity: usize,
    _: Waker,
) -> Code {
    on_loop(|world| match world.get(lookup) {
        Some(Entry::Lookup(found)) if found.is_empty() => code::NOT_FOUND,
        Some(Entry::Lookup(found)) => {
            for (index, address) in found.iter().take(capacity).enumerate() {
                // SAFETY: See above; `index` is below `capacity`.
                unsafe { out.add(index).write(address::to_abi(*address)) };
            }
            found.len() as Code
        }
        _ => code::STALE,
    })
}

unsafe extern "C" fn conn_read(
    _: InstanceId,
    connection: Handle,
    buffer: *mut u8,
    length: usize,
    waker: Waker,
) -> Code {
    with(connection, |conn| {
        let input = &conn.end.input;
        if input.reset.get() {
            return code::from_errno(libc::ECONNRESET);
        }
        if input.is_empty() {
            if input.ended.get() {
                return 0;
            }
            *input.reader.borrow_mut() = Kept::new(waker);
            return code::PENDING;
        }
        let bytes = input.read(length);
        // SAFETY: See above; no more than `length` bytes were read.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, bytes.len()) };
        bytes.len() as Code
    })
}

unsafe extern "C" fn conn_write(
    _: InstanceId,
    connection: Handle,
    pieces: *const IoSlice,
    count: usize,
    _: u32,
    waker: Waker,
) -> Code {
    with(connection, |conn| {
        let output = &conn.end.output;
        if output.ended.get() || output.reader_gone.get() {
            return code::from_errno(libc::EPIPE);
        }
        let mut room = output.room();
        if room == 0 {
            *output.writer.borrow_mut() = Kept::new(waker);
            return code::PENDING;
        }
        let mut written = 0;
        for index in 0..count {
            // SAFETY: See above; `index` is below `count`.
            let piece = unsafe { &*pieces.add(index) };
            // SAFETY: See above.
            let bytes = unsafe { bytes_of(Slice { ptr: piece.ptr, len: piece.len }) };
            let fits = bytes.len().min(room);
            output.write(&bytes[..fits]);
            room -= fits;
            written += fits;
        }
        written as Code
    })
}

unsafe extern "C" fn conn_flush(_: InstanceId, connection: Handle, _: Waker) -> Code {
    with(connection, |_| code::READY)
}

unsafe extern "C" fn conn_send_file(
    instance: InstanceId,
    connection: Handle,
    file: Handle,
    offset: u64,
    length: u64,
    waker: Waker,
) -> Code {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX).min(16 * 1024)];
    let count = on_loop(|world| files::read(world, file, offset, &mut bytes));
    if count <= 0 {
        return count;
    }
    let piece = IoSlice { ptr: bytes.as_ptr(), len: count as usize };
    // SAFETY: The piece is valid for the call.
    unsafe { conn_write(instance, connection, &piece, 1, 0, waker) }
}

unsafe extern "C" fn conn_shutdown(_: InstanceId, connection: Handle, _: Waker) -> Code {
    with(connection, |conn| {
        conn.end.output.end();
        code::READY
    })
}

unsafe extern "C" fn conn_abort(_: InstanceId, connection: Handle) -> Code {
    with(connection, |conn| {
        conn.end.leave(true);
        code::READY
    })
}

unsafe extern "C" fn conn_hangup_poll(_: InstanceId, connection: Handle, waker: Waker) -> Code {
    with(connection, |conn| {
        if conn.end.hung_up() {
            return code::READY;
        }
        *conn.end.input.hangup.borrow_mut() = Kept::new(waker);
        code::PENDING
    })
}

unsafe extern "C" fn conn_info(
    _: InstanceId,
    connection: Handle,
    out: *mut ConnectionInfo,
) -> Code {
    with(connection, |conn| {
        let info = ConnectionInfo {
            remote: address::to_abi(conn.end.remote),
            local: address::to_abi(conn.end.local),
            id: conn.id,
            listener: conn.listener,
            flags: 0,
            spare: [0; 4],
        };
        // SAFETY: See above.
        unsafe { out.write(info) };
        code::READY
    })
}

unsafe extern "C" fn conn_option(_: InstanceId, connection: Handle, _: u32, _: u64) -> Code {
    with(connection, |_| code::READY)
}

unsafe extern "C" fn conn_park(_: InstanceId, connection: Handle, spec: *const ParkSpec) -> Code {
    let serves_sessions = on_loop(|world| match service(world).as_deref() {
        Some(ServiceEntry::Session(_)) => code::READY,
        _ => code::INVALID,
    });
    if serves_sessions < 0 {
        return serves_sessions;
    }
    with(connection, |conn| {
        // SAFETY: The spec is valid for the call.
        let Some(spec) = (unsafe { spec.as_ref() }) else { return code::INVALID };
        // One that came in otherwise becomes a session with it.
        conn.session.set(true);
        if spec.flags & PARK_RESUME != 0 {
            conn.due.borrow_mut().push_back((WAKE_RESUMED, Vec::new()));
        }
        conn.parked.set(Some(spec.deadline_ns));
        code::READY
    })
}

unsafe extern "C" fn conn_post(_: InstanceId, connection: Handle, bytes: Slice) -> Code {
    with(connection, |conn| {
        if !conn.session.get() {
            return code::INVALID;
        }
        // SAFETY: See above.
        conn.due.borrow_mut().push_back((WAKE_POSTED, unsafe { bytes_of(bytes) }.to_vec()));
        code::READY
    })
}

/// A host in memory has no TLS.
unsafe extern "C" fn conn_start_tls(
    _: InstanceId,
    connection: Handle,
    _: *const TlsSpec,
    _: Waker,
) -> Code {
    with(connection, |_| code::UNSUPPORTED)
}

unsafe extern "C" fn conn_tls_fact(_: InstanceId, connection: Handle, _: u32, _: ByteSink) -> Code {
    with(connection, |_| code::NOT_FOUND)
}
