//! Connections and listeners, and the two shapes of a service over them.

use core::ffi::c_void;

use abi_stable::StableAbi;

use crate::{
    code::Code,
    data::{ByteSink, Handle, Slice, Table},
    task::Task,
};

/// An address of a socket.
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SocketAddress {
    /// 0 none, 1 a Unix socket (the path is not told), 4 IPv4, 6 IPv6.
    pub family: u16,
    pub port: u16,
    /// IPv6 scope.
    pub scope: u32,
    /// Network order; IPv4 in the first four bytes.
    pub address: [u8; 16],
}

impl SocketAddress {
    /// No address.
    pub const NONE: SocketAddress =
        SocketAddress { family: 0, port: 0, scope: 0, address: [0; 16] };
}

/// What is known of a connection.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct ConnectionInfo {
    pub remote: SocketAddress,
    pub local: SocketAddress,
    /// The connection's number in the log and in the monitor; never used twice.
    pub id: u64,
    /// Which of the instance's `listen` addresses it came in by, from 0; `u32::MAX` for others.
    pub listener: u32,
    pub flags: u32,
    pub spare: [u64; 4],
}

/// [`ConnectionInfo::flags`]: what is read and written goes through TLS.
pub const CONNECTION_TLS: u32 = 1;

/// Asks for TLS on a connection that began in plain text.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct TlsSpec {
    /// The `[tls.NAME]` of the configuration.
    pub name: Slice,
    /// A connection of this instance whose TLS session has to be resumed, or [`crate::data::NO_HANDLE`]: a data connection of FTP
    /// proves so that it belongs to its control connection.
    pub session_of: Handle,
    pub flags: u32,
    pub spare: [u64; 4],
}

/// `conn_tls_fact`: the server name that the client asked for (RFC 6066 section 3).
pub const TLS_SERVER_NAME: u32 = 1;
/// `conn_tls_fact`: the protocol agreed on (RFC 7301).
pub const TLS_ALPN: u32 = 2;
/// `conn_tls_fact`: the peer's certificate, in DER.
pub const TLS_PEER_CERTIFICATE: u32 = 3;

/// How a connection of a session rests.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct ParkSpec {
    /// When it is woken at the latest, on the clock of `now_ns`; 0 for never.
    pub deadline_ns: u64,
    /// The session's state if it is durable, else [`Slice::NONE`].
    pub record: Slice,
    /// The version that the record is written in.
    pub record_version: u32,
    /// [`PARK_RESUME`], [`PARK_AS_NEW`], or 0.
    pub flags: u32,
    pub spare: [u64; 4],
}

/// [`ParkSpec::flags`]: the session does not rest, but has a turn with [`WAKE_RESUMED`] soon, in the newest generation: its state
/// holds bytes that were read and not served, say.
pub const PARK_RESUME: u32 = 1;
/// [`ParkSpec::flags`]: while the session rests it is as good as one without a state. If the host crashes meanwhile, it goes on so, without
/// a record: its first turn has [`WAKE_RESUMED`], and nothing was imported for it. If the host replaces its own program meanwhile, its state
/// goes over all the same, and it has that turn when the host serves again already: others may have theirs before.
pub const PARK_AS_NEW: u32 = 2;

/// Asks for a listener or an outgoing connection.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct SocketSpec {
    /// Where to listen (port 0: any), or whom to connect to.
    pub address: SocketAddress,
    /// For outgoing connections: the address to come from, or [`SocketAddress::NONE`].
    pub from: SocketAddress,
    /// For listeners: how many connections may wait; 0 is the host's default.
    pub backlog: u32,
    pub flags: u32,
    pub spare: [u64; 2],
}

/// `conn_write`: more bytes follow at once, so that the host may hold these back to fill a packet.
pub const WRITE_MORE: u32 = 1;

/// A piece of memory in a vectored write; the same layout as `struct iovec`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct IoSlice {
    pub ptr: *const u8,
    pub len: usize,
}

/// `conn_option`: small writes go out at once (TCP_NODELAY). On by default.
pub const OPTION_NODELAY: u32 = 1;
/// `conn_option`: the kernel asks now and then whether the peer is still there (SO_KEEPALIVE). Off by default.
pub const OPTION_KEEPALIVE: u32 = 2;

/// The simple shape of a service: one task per connection, which ends where it began.
///
/// OWNERSHIP: `data` passes to the host with the registration and comes back through `hooks.drop`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Service {
    pub data: *mut c_void,
    pub hooks: Table<ServiceHooks>,
}

/// What the host does with a [`Service`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = ServiceHooksLayout, prefix_fields = ServiceHooksFields)))]
#[sabi(missing_field(panic))]
pub struct ServiceHooks {
    pub size: usize,
    /// Called for each new connection. The connection's handle is the plugin's from here on; the task serves it.
    pub serve: unsafe extern "C" fn(data: *mut c_void, connection: Handle, out: *mut Task) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// The connection has something to read, or is new.
pub const WAKE_READABLE: u32 = 1;
/// The deadline that the connection was parked with has passed.
pub const WAKE_DEADLINE: u32 = 2;
/// The peer has hung up.
pub const WAKE_HANGUP: u32 = 3;
/// The generation drains: come to an end soon.
pub const WAKE_DRAIN: u32 = 4;
/// The connection was handed over to this generation, or lived through a crash.
pub const WAKE_RESUMED: u32 = 5;
/// Somebody posted bytes to the parked connection.
pub const WAKE_POSTED: u32 = 6;

/// The shape of a service that parks, resumes and is handed over: the host calls a turn, the turn parks the connection
/// (`conn_park`) or drops it. Between two turns no task exists.
///
/// OWNERSHIP: `data` passes to the host with the registration and comes back through `hooks.drop`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Session {
    pub data: *mut c_void,
    pub hooks: Table<SessionHooks>,
}

/// What the host does with a [`Session`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = SessionHooksLayout, prefix_fields = SessionHooksFields)))]
#[sabi(missing_field(panic))]
pub struct SessionHooks {
    pub size: usize,
    /// Called for a new connection and at each wake of a parked one; `posted` has the bytes of `WAKE_POSTED`. The
    /// session's state rests in the plugin, under the connection's handle.
    pub turn: unsafe extern "C" fn(
        data: *mut c_void,
        connection: Handle,
        wake: u32,
        posted: Slice,
        out: *mut Task,
    ) -> Code,
    /// Called at a hand-over, on the old generation: writes the parked session's record (a CBOR map), in the version of state that
    /// the manifest says is written. The session stays until `forget`, for the hand-over may fail.
    pub export: unsafe extern "C" fn(data: *mut c_void, connection: Handle, sink: ByteSink) -> Code,
    /// Called at a hand-over, on the new generation: takes a record that was written in `version`.
    pub import: unsafe extern "C" fn(
        data: *mut c_void,
        connection: Handle,
        version: u32,
        record: Slice,
    ) -> Code,
    /// Called when a parked connection ends without another turn, or has been handed over: its state is to be dropped. Called as well
    /// on the new generation at a hand-over that fails, of a connection whose record was taken, or could not be.
    pub forget: unsafe extern "C" fn(data: *mut c_void, connection: Handle) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}
