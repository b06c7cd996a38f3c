//! HTTP between a server of it and its extensions: messages, never the wire format.
//!
//! A server of HTTP (the plugin `http`) starts an **exchange** with a request's head; the host finds the filters and the
//! handler that want it, calls them, and gives the response's head back inside the same call where it can. Bodies are
//! pulled, one pull outstanding: that is the back-pressure. Dropping an exchange cancels everything behind it in the same
//! turn.

use core::ffi::c_void;

use abi_stable::StableAbi;

use crate::{
    code::Code,
    data::{Handle, Slice, Table},
    net::SocketAddress,
    task::{Context, Task},
};

/// A header field (RFC 9110 section 5).
///
/// OWNERSHIP: The caller's, for the call.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Field {
    /// Lower case.
    pub name: Slice,
    pub value: Slice,
}

/// A length that is not known beforehand.
pub const LENGTH_UNKNOWN: u64 = u64::MAX;

/// The head of a request.
///
/// OWNERSHIP: The caller's, for the call, with all that it points at.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct RequestHead {
    pub method: Slice,
    /// `http` or `https`.
    pub scheme: Slice,
    /// Host and port as the client wrote them; [`Slice::NONE`] if it did not.
    pub authority: Slice,
    /// The path, beginning with `/` (or `*`). From the server as it came; to handlers and filters in normal form: no dot
    /// segments, and nothing percent-encoded that need not be (RFC 3986 section 6.2.2).
    pub path: Slice,
    /// What follows the `?`; [`Slice::NONE`] without one.
    pub query: Slice,
    pub fields: *const Field,
    pub field_count: usize,
    /// 10 and 11 for HTTP/1.0 and 1.1, 20 for HTTP/2.
    pub version: u32,
    pub flags: u32,
    /// Bytes of the body: 0 for none, or [`LENGTH_UNKNOWN`].
    pub body_length: u64,
    /// How many bytes of `path` are where the route is mounted: `/dav` of `/dav/a` is 4; 0 at the root.
    pub mount_length: usize,
    pub remote: SocketAddress,
    pub local: SocketAddress,
    /// The connection's number in the log.
    pub connection: u64,
    pub spare: [u64; 4],
}

/// [`RequestHead::flags`], from a server of HTTP: it takes responses whose body is a file, and sends it by `conn_send_file`.
pub const REQUEST_TAKES_FILES: u32 = 1;
/// [`RequestHead::flags`], from a server of HTTP: it sends interim responses on.
pub const REQUEST_TAKES_INTERIM: u32 = 2;
/// [`RequestHead::flags`]: the client asks for another protocol (RFC 9110 section 7.8), and the server can hand its connection over.
pub const REQUEST_TAKES_UPGRADE: u32 = 4;

/// No body.
pub const BODY_EMPTY: u32 = 0;
/// All of it is in `bytes`.
pub const BODY_BYTES: u32 = 1;
/// It is pulled from `source`.
pub const BODY_SOURCE: u32 = 2;
/// It is `length` bytes of `file` from `offset`; the file's handle passes to the host.
pub const BODY_FILE: u32 = 3;
/// It is the body of the exchange `exchange`, which `exchange_next` gave; the handle passes to the host.
pub const BODY_EXCHANGE: u32 = 4;

/// The head of a response, with its body or where to get it.
///
/// OWNERSHIP: The caller's, for the call; `source`, `file` and `exchange` pass to the host if the call succeeds.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct ResponseHead {
    pub status: u32,
    /// `BODY_*`.
    pub body: u32,
    pub fields: *const Field,
    pub field_count: usize,
    /// Of the body; [`LENGTH_UNKNOWN`] if it is not known.
    pub length: u64,
    pub bytes: Slice,
    pub source: BodySource,
    pub file: Handle,
    pub offset: u64,
    pub exchange: Handle,
    /// From a handler: leave to answer the same again without asking it, or null. The permit's object passes to the host if the call
    /// succeeds, whether or not the host makes use of it.
    pub permit: *const Permit,
    /// To a server: the permit by its handle, which is the server's to drop; [`crate::data::NO_HANDLE`] without one. `permit` says
    /// then what it depends on, and its object is not the server's.
    pub permit_handle: Handle,
    pub spare: [u64; 4],
}

/// Leave to answer requests for the same path and query with the same response, until the giver revokes it. It is void with the
/// unload of whoever gave it, and with every change of the site's filters and handlers; nor is it passed on through a filter.
///
/// OWNERSHIP: The caller's, for the call; `data` passes to the host and comes back through `hooks.drop`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Permit {
    pub data: *mut c_void,
    pub hooks: Table<PermitHooks>,
    /// How often the host asks `check` whether it is still good; 0 for before each use.
    pub check_ms: u32,
    pub flags: u32,
    /// The request's fields that the response depends on: with another value, or with one where there was none, the handler is asked.
    pub fields: *const Slice,
    pub field_count: usize,
    pub spare: [u64; 2],
}

/// What the host does with a [`Permit`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = PermitHooksLayout, prefix_fields = PermitHooksFields)))]
#[sabi(missing_field(panic))]
pub struct PermitHooks {
    pub size: usize,
    /// Called when the permit is used and was not checked for `check_ms`: `READY` if the response is still the right one, else `GONE`.
    /// It must not wait.
    pub check: unsafe extern "C" fn(data: *mut c_void) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// Takes the response's head from the host, inside of `exchange_start`, `exchange_next` or `exchange_poll`.
///
/// OWNERSHIP: The caller's, for that call.
#[derive(StableAbi, Clone, Copy)]
#[repr(C)]
pub struct HeadSink {
    pub data: *mut c_void,
    /// Called at most once per exchange, and before that for each interim response if the request has [`REQUEST_TAKES_INTERIM`].
    /// `body` is `BODY_EMPTY`, `BODY_BYTES`, or `BODY_SOURCE`, which here means: pull it by `exchange_pull`. If the request has
    /// [`REQUEST_TAKES_FILES`] it may be `BODY_FILE`; the file's handle is then one of the instance that is called here, and its to drop.
    pub head: unsafe extern "C" fn(data: *mut c_void, head: *const ResponseHead) -> Code,
}

/// A body that somebody else pulls frames from.
///
/// OWNERSHIP: `data` passes with a call that succeeds, and comes back once through `hooks.drop`; dropping it early
/// cancels the body.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct BodySource {
    pub data: *mut c_void,
    pub hooks: Table<BodyHooks>,
}

impl BodySource {
    /// No body.
    pub const NONE: BodySource = BodySource { data: core::ptr::null_mut(), hooks: Table::NULL };
}

/// What the host does with a [`BodySource`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = BodyHooksLayout, prefix_fields = BodyHooksFields)))]
#[sabi(missing_field(panic))]
pub struct BodyHooks {
    pub size: usize,
    /// Called when the other side wants a frame: delivers one into `sink` and answers `READY`, or answers `PENDING`,
    /// `END`, or an error, after which it is only dropped.
    pub pull:
        unsafe extern "C" fn(data: *mut c_void, sink: FrameSink, context: *const Context) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// Takes one frame of a body.
///
/// OWNERSHIP: The caller's, for the call.
#[derive(StableAbi, Clone, Copy)]
#[repr(C)]
pub struct FrameSink {
    pub data: *mut c_void,
    pub frame: unsafe extern "C" fn(data: *mut c_void, frame: *const Frame) -> Code,
}

/// The frame is data, in `bytes`.
pub const FRAME_DATA: u32 = 0;
/// The frame is trailers, in `fields`; the last one.
pub const FRAME_TRAILERS: u32 = 1;
/// The frame is `length` bytes of `file` from `offset`; the file's handle passes with the frame. To the host from any body; from the
/// host to a server whose request has [`REQUEST_TAKES_FILES`].
pub const FRAME_FILE: u32 = 2;

/// A frame of a body.
///
/// OWNERSHIP: The giver's, for the call.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    /// `FRAME_*`.
    pub kind: u32,
    pub flags: u32,
    pub bytes: Slice,
    pub fields: *const Field,
    pub field_count: usize,
    pub file: Handle,
    pub offset: u64,
    pub length: u64,
    pub spare: [u64; 2],
}

/// Answers requests, or passes them on.
pub const ROUTE_HANDLER: u32 = 0;
/// Wraps what is behind it.
pub const ROUTE_FILTER: u32 = 1;

/// Where a handler or a filter is mounted. The site is that of the instance which the plugin's instance is attached to,
/// narrowed by the instance's own `host` and `path`; this path is beneath that one.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct RouteSpec {
    /// `ROUTE_*`.
    pub kind: u32,
    /// Lower goes first among equals; 0 is usual.
    pub order: i32,
    /// Begins with `/`; matches whole segments.
    pub path: Slice,
    /// The host to match, `*.example.org` for any below it, or [`Slice::NONE`] for every one.
    pub host: Slice,
    pub spare: [u64; 2],
}

/// The code of a handler or a filter.
///
/// OWNERSHIP: `data` passes to the host with the registration and comes back through `hooks.drop`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Handler {
    pub data: *mut c_void,
    pub hooks: Table<HandlerHooks>,
}

/// What the host does with a [`Handler`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = HandlerHooksLayout, prefix_fields = HandlerHooksFields)))]
#[sabi(missing_field(panic))]
pub struct HandlerHooks {
    pub size: usize,
    /// Called for each request that the route matches. The task calls `exchange_respond` once and answers `READY`, or
    /// answers `PASS` before it has touched the body. `exchange` is valid until the task is dropped, and, for
    /// `request_pull`, until the exchange ends.
    pub call: unsafe extern "C" fn(
        data: *mut c_void,
        exchange: Handle,
        head: *const RequestHead,
        out: *mut Task,
    ) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// Hears of every exchange of a site when it has ended.
///
/// OWNERSHIP: `data` passes to the host with the registration and comes back through `hooks.drop`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Observer {
    pub data: *mut c_void,
    pub hooks: Table<ObserverHooks>,
}

/// What the host does with an [`Observer`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = ObserverHooksLayout, prefix_fields = ObserverHooksFields)))]
#[sabi(missing_field(panic))]
pub struct ObserverHooks {
    pub size: usize,
    /// Called at the end of each exchange, aborted ones too.
    pub ended: unsafe extern "C" fn(data: *mut c_void, record: *const ExchangeRecord) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// The response went out whole.
pub const ENDED_COMPLETE: u32 = 0;
/// The client went away, or the connection failed.
pub const ENDED_ABORTED: u32 = 1;
/// The handler or its body failed after the head was out.
pub const ENDED_FAILED: u32 = 2;

/// What an observer is told.
///
/// OWNERSHIP: The host's, for the call.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct ExchangeRecord {
    pub method: Slice,
    pub authority: Slice,
    pub path: Slice,
    pub query: Slice,
    /// The values of `referer` and `user-agent`, or [`Slice::NONE`].
    pub referer: Slice,
    pub user_agent: Slice,
    /// The name of the instance that answered, or [`Slice::NONE`].
    pub handler: Slice,
    pub remote: SocketAddress,
    /// 0 if no head was sent.
    pub status: u32,
    /// `ENDED_*`.
    pub outcome: u32,
    pub version: u32,
    pub flags: u32,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    /// On the clock of `now_ns`.
    pub started_ns: u64,
    pub ended_ns: u64,
    pub connection: u64,
    pub spare: [u64; 4],
}
