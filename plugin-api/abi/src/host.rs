//! The callbacks: all that a plugin can ask of the host, in six tables by subject.
//!
//! Every callback takes the [`InstanceId`] that `prepare` gave. Except for those marked **any thread**, they are legal on
//! the loop's thread only, inside a hook of that instance; elsewhere they answer [`crate::code::WRONG_THREAD`] and do nothing.
//! Those that take a [`Waker`] and answer [`crate::code::PENDING`] have kept it, and wake it when it is worth asking again;
//! the newest waker counts. A callback that makes something answers its handle, which is above zero.

use core::ffi::c_void;

use abi_stable::StableAbi;

use crate::{
    code::Code,
    data::{ByteSink, Handle, InstanceId, Slice, Table},
    file::{FileInfo, OpenSpec},
    http::{
        BodySource, ExchangeRecord, FrameSink, Handler, HeadSink, Observer, RequestHead,
        ResponseHead, RouteSpec,
    },
    net::{
        ConnectionInfo, IoSlice, ParkSpec, Service, Session, SocketAddress, SocketSpec, TlsSpec,
    },
    service::{CallSpec, Command, CommandSpec, MetricSpec, Responder},
    task::{Job, Task, Thread, Waker},
};

/// The host's tables of callbacks.
///
/// OWNERSHIP: The host's, `static`s all of them; they outlive every plugin.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = HostCallbacksLayout, prefix_fields = HostCallbacksFields)))]
#[sabi(missing_field(panic))]
pub struct HostCallbacks {
    /// `size_of::<HostCallbacks>()` of the host.
    pub size: usize,
    /// The host's [`crate::ABI_MINOR`].
    pub abi_minor: u32,
    pub core: Table<CoreCallbacks>,
    pub work: Table<WorkCallbacks>,
    pub net: Table<NetCallbacks>,
    pub file: Table<FileCallbacks>,
    pub offer: Table<OfferCallbacks>,
    #[sabi(last_prefix_field)]
    pub http: Table<HttpCallbacks>,
}

/// The instance itself, and wakers.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = CoreCallbacksLayout, prefix_fields = CoreCallbacksFields)))]
#[sabi(missing_field(panic))]
pub struct CoreCallbacks {
    /// `size_of::<CoreCallbacks>()` of the host.
    pub size: usize,
    /// Any thread. Writes a line to the log. `level`: 1 error, 2 warn, 3 info, 4 debug, 5 trace. `fields` is text,
    /// `key=value` pairs separated by blanks.
    pub log: unsafe extern "C" fn(
        instance: InstanceId,
        level: u32,
        target: Slice,
        message: Slice,
        fields: Slice,
    ) -> Code,
    /// Any thread. The highest level that is written now; 0 for none.
    pub log_level: unsafe extern "C" fn(instance: InstanceId) -> Code,
    /// Any thread. A panic was raised in the plugin's code; called by its panic hook, once for each.
    pub panicked: unsafe extern "C" fn(
        instance: InstanceId,
        message: Slice,
        file: Slice,
        line: u32,
        column: u32,
    ) -> Code,
    /// Any thread. Has the bytes delivered to the plugin's `posted` hook, on the loop.
    pub post: unsafe extern "C" fn(instance: InstanceId, bytes: Slice) -> Code,
    /// Says why the running hook or task fails, before it answers `FAILED`. The operator reads it.
    pub fail: unsafe extern "C" fn(instance: InstanceId, reason: Slice) -> Code,
    /// The monotonic clock, read at each call, in nanoseconds since an arbitrary moment. Never negative.
    pub now_ns: unsafe extern "C" fn(instance: InstanceId) -> Code,
    /// The instance's configured name.
    pub name: unsafe extern "C" fn(instance: InstanceId, sink: ByteSink) -> Code,
    /// Drops whatever the handle stands for: closes a connection in good order, stops listening, cancels a timer, a
    /// call, an exchange, a registration; forgets a task or a job without stopping it.
    pub handle_drop: unsafe extern "C" fn(instance: InstanceId, handle: Handle) -> Code,

    // Wakers: cells of the host. Any thread.
    pub waker_clone: unsafe extern "C" fn(waker: *const c_void) -> *const c_void,
    /// Wakes, and drops.
    pub waker_wake: unsafe extern "C" fn(waker: *const c_void),
    pub waker_wake_by_ref: unsafe extern "C" fn(waker: *const c_void),
    #[sabi(last_prefix_field)]
    pub waker_drop: unsafe extern "C" fn(waker: *const c_void),
}

/// Tasks, jobs, threads and timers.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = WorkCallbacksLayout, prefix_fields = WorkCallbacksFields)))]
#[sabi(missing_field(panic))]
pub struct WorkCallbacks {
    /// `size_of::<WorkCallbacks>()` of the host.
    pub size: usize,
    /// Polls a task until it answers. `name` is for the operator.
    pub task_spawn: unsafe extern "C" fn(instance: InstanceId, task: Task, name: Slice) -> Code,
    /// Drops the task, now or, if it is being polled, right after. `READY` also if it has ended.
    pub task_abort: unsafe extern "C" fn(instance: InstanceId, task: Handle) -> Code,
    /// `READY` when the task has ended, `PANICKED` if by a panic, `CANCELLED` if it was aborted.
    pub task_poll: unsafe extern "C" fn(instance: InstanceId, task: Handle, waker: Waker) -> Code,
    /// Runs a job on the pool.
    pub job_start: unsafe extern "C" fn(instance: InstanceId, job: Job, name: Slice) -> Code,
    /// `READY` when the job has run, or `PANICKED`.
    pub job_poll: unsafe extern "C" fn(instance: InstanceId, job: Handle, waker: Waker) -> Code,
    /// Makes a thread of the plugin's own. Needs the capability `threads`.
    pub thread_start:
        unsafe extern "C" fn(instance: InstanceId, thread: Thread, name: Slice) -> Code,
    /// `READY` when the thread has ended.
    pub thread_poll:
        unsafe extern "C" fn(instance: InstanceId, thread: Handle, waker: Waker) -> Code,
    /// Makes a timer that is due at `deadline_ns`, on the clock of `now_ns`.
    pub timer_start: unsafe extern "C" fn(instance: InstanceId, deadline_ns: u64) -> Code,
    /// Moves the timer's deadline.
    pub timer_reset:
        unsafe extern "C" fn(instance: InstanceId, timer: Handle, deadline_ns: u64) -> Code,
    /// `READY` once the deadline has passed.
    #[sabi(last_prefix_field)]
    pub timer_poll: unsafe extern "C" fn(instance: InstanceId, timer: Handle, waker: Waker) -> Code,
}

/// Sockets.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = NetCallbacksLayout, prefix_fields = NetCallbacksFields)))]
#[sabi(missing_field(panic))]
pub struct NetCallbacks {
    /// `size_of::<NetCallbacks>()` of the host.
    pub size: usize,
    /// Serves the connections that come in by the instance's `listen` addresses, each by a task. One per instance.
    pub service_add: unsafe extern "C" fn(instance: InstanceId, service: Service) -> Code,
    /// Serves them by sessions instead. One per instance, and not beside a service.
    pub session_add: unsafe extern "C" fn(instance: InstanceId, session: Session) -> Code,
    /// Opens a listener of the plugin's own. Needs the capability `listen`.
    pub listen: unsafe extern "C" fn(instance: InstanceId, spec: *const SocketSpec) -> Code,
    /// The address that a listener is bound to.
    pub listener_address: unsafe extern "C" fn(
        instance: InstanceId,
        listener: Handle,
        out: *mut SocketAddress,
    ) -> Code,
    /// The handle of the next connection.
    pub accept_poll:
        unsafe extern "C" fn(instance: InstanceId, listener: Handle, waker: Waker) -> Code,
    /// Begins to connect. Needs the capability `connect`.
    pub connect: unsafe extern "C" fn(instance: InstanceId, spec: *const SocketSpec) -> Code,
    /// `READY` once the connection stands; until then nothing can be read or written.
    pub connect_poll:
        unsafe extern "C" fn(instance: InstanceId, connection: Handle, waker: Waker) -> Code,
    /// Looks a host name up. Needs the capability `resolve`.
    pub resolve: unsafe extern "C" fn(instance: InstanceId, host: Slice, port: u16) -> Code,
    /// How many addresses there are; the first `capacity` of them are written to `out`.
    pub resolve_poll: unsafe extern "C" fn(
        instance: InstanceId,
        lookup: Handle,
        out: *mut SocketAddress,
        capacity: usize,
        waker: Waker,
    ) -> Code,
    /// Bytes read into the caller's buffer; 0 at the end of input.
    pub conn_read: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        buffer: *mut u8,
        length: usize,
        waker: Waker,
    ) -> Code,
    /// Bytes written, of up to 1,024 pieces. `flags`: [`crate::net::WRITE_MORE`].
    pub conn_write: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        pieces: *const IoSlice,
        count: usize,
        flags: u32,
        waker: Waker,
    ) -> Code,
    /// `READY` when all that was written is with the kernel.
    pub conn_flush:
        unsafe extern "C" fn(instance: InstanceId, connection: Handle, waker: Waker) -> Code,
    /// Bytes of `file` sent from `offset`, at most `length`; 0 if the file ends there.
    pub conn_send_file: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        file: Handle,
        offset: u64,
        length: u64,
        waker: Waker,
    ) -> Code,
    /// Ends the writing half: the peer reads the end of input.
    pub conn_shutdown:
        unsafe extern "C" fn(instance: InstanceId, connection: Handle, waker: Waker) -> Code,
    /// Drops the connection with a reset.
    pub conn_abort: unsafe extern "C" fn(instance: InstanceId, connection: Handle) -> Code,
    /// `READY` when the peer has gone altogether (not when it has only ended its half).
    pub conn_hangup_poll:
        unsafe extern "C" fn(instance: InstanceId, connection: Handle, waker: Waker) -> Code,
    pub conn_info: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        out: *mut ConnectionInfo,
    ) -> Code,
    /// Sets an option: [`crate::net::OPTION_NODELAY`] and so on.
    pub conn_option: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        option: u32,
        value: u64,
    ) -> Code,
    /// Parks a connection of a session until it is readable, hung up, posted to, or its deadline passes. The turn's task ends
    /// right after. Another connection of an instance that serves sessions becomes one with it, at rest; nobody may wait on it.
    pub conn_park: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        spec: *const ParkSpec,
    ) -> Code,
    /// Wakes a parked connection of this instance with bytes.
    pub conn_post:
        unsafe extern "C" fn(instance: InstanceId, connection: Handle, bytes: Slice) -> Code,
    /// Begins TLS on a connection, as its server: `READY` when the handshake is done. `INVALID` where plain text that came is unread,
    /// or plain text that was written unsent: it would be taken for text that was protected. `UNSUPPORTED` by a host without TLS.
    pub conn_start_tls: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        spec: *const TlsSpec,
        waker: Waker,
    ) -> Code,
    /// A fact of the connection's TLS, `TLS_*`, into `sink`; `NOT_FOUND` if there is no such fact, as on a connection without TLS.
    #[sabi(last_prefix_field)]
    pub conn_tls_fact: unsafe extern "C" fn(
        instance: InstanceId,
        connection: Handle,
        fact: u32,
        sink: ByteSink,
    ) -> Code,
}

/// Files. All of them need the capability `files`.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = FileCallbacksLayout, prefix_fields = FileCallbacksFields)))]
#[sabi(missing_field(panic))]
pub struct FileCallbacks {
    /// `size_of::<FileCallbacks>()` of the host.
    pub size: usize,
    /// Opens a directory to open files beneath. The path is absolute. May block: for `prepare` and `start`.
    pub root_open: unsafe extern "C" fn(instance: InstanceId, path: Slice) -> Code,
    /// Begins to open a file; the path is copied.
    pub file_open: unsafe extern "C" fn(instance: InstanceId, spec: *const OpenSpec) -> Code,
    /// `READY` once it is open, with what `fstat` says.
    pub file_open_poll: unsafe extern "C" fn(
        instance: InstanceId,
        file: Handle,
        out: *mut FileInfo,
        waker: Waker,
    ) -> Code,
    /// What `fstat` says now.
    pub file_info:
        unsafe extern "C" fn(instance: InstanceId, file: Handle, out: *mut FileInfo) -> Code,
    /// Bytes read from `offset`; 0 at the end. One read or write of a file is outstanding at a time; a poll that is
    /// not repeated with the same offset and length forgets the one before.
    pub file_read: unsafe extern "C" fn(
        instance: InstanceId,
        file: Handle,
        offset: u64,
        buffer: *mut u8,
        length: usize,
        waker: Waker,
    ) -> Code,
    /// Bytes written at `offset`. The bytes are copied at the first poll.
    pub file_write: unsafe extern "C" fn(
        instance: InstanceId,
        file: Handle,
        offset: u64,
        bytes: Slice,
        waker: Waker,
    ) -> Code,
    /// `READY` when all that was written is on the disk.
    pub file_sync: unsafe extern "C" fn(instance: InstanceId, file: Handle, waker: Waker) -> Code,
    /// The next entry of a directory that was opened with `OPEN_DIRECTORY`: its name into `name`, and what `lstat` says
    /// into `out`; `END` after the last. In no order; without `.` and `..`.
    #[sabi(last_prefix_field)]
    pub dir_next: unsafe extern "C" fn(
        instance: InstanceId,
        directory: Handle,
        name: ByteSink,
        out: *mut FileInfo,
        waker: Waker,
    ) -> Code,
}

/// What the instance offers to the operator and to other instances.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = OfferCallbacksLayout, prefix_fields = OfferCallbacksFields)))]
#[sabi(missing_field(panic))]
pub struct OfferCallbacks {
    /// `size_of::<OfferCallbacks>()` of the host.
    pub size: usize,
    /// Adds a monitor command.
    pub command_add: unsafe extern "C" fn(
        instance: InstanceId,
        spec: *const CommandSpec,
        command: Command,
    ) -> Code,
    /// Adds a metric; its word is written to `out`. The plugin changes it by atomic operations, on any thread, until the
    /// handle is dropped.
    pub metric_add: unsafe extern "C" fn(
        instance: InstanceId,
        spec: *const MetricSpec,
        out: *mut *mut u64,
    ) -> Code,
    /// Offers a service to other instances. Needs the capability `services`. Names that begin with `medusa.` are the host's.
    pub responder_add: unsafe extern "C" fn(
        instance: InstanceId,
        service: Slice,
        version: u32,
        responder: Responder,
    ) -> Code,
    /// Answers one piece of a call or of a monitor command. `PENDING` when the caller has enough unread pieces.
    pub reply: unsafe extern "C" fn(
        instance: InstanceId,
        call: Handle,
        payload: Slice,
        waker: Waker,
    ) -> Code,
    /// Calls another instance's service. Needs the capability `services`; for a service of the host's own, the one that it names.
    pub call_start: unsafe extern "C" fn(instance: InstanceId, spec: *const CallSpec) -> Code,
    /// The next piece of the answer into `sink`, `END` after the last, or `GONE`, `BUSY`, `TIMEOUT`, `NOT_FOUND`,
    /// `PANICKED`, `FAILED`.
    #[sabi(last_prefix_field)]
    pub call_next: unsafe extern "C" fn(
        instance: InstanceId,
        call: Handle,
        sink: ByteSink,
        waker: Waker,
    ) -> Code,
}

/// HTTP: the first half for extensions, the second for servers of it.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = HttpCallbacksLayout, prefix_fields = HttpCallbacksFields)))]
#[sabi(missing_field(panic))]
pub struct HttpCallbacks {
    /// `size_of::<HttpCallbacks>()` of the host.
    pub size: usize,
    /// Mounts a handler or a filter.
    pub route_add: unsafe extern "C" fn(
        instance: InstanceId,
        spec: *const RouteSpec,
        handler: Handler,
    ) -> Code,
    pub observer_add: unsafe extern "C" fn(instance: InstanceId, observer: Observer) -> Code,
    /// Answers an exchange, once.
    pub exchange_respond: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        head: *const ResponseHead,
    ) -> Code,
    /// The next frame of the request's body into `sink`; `END` after the last.
    pub request_pull: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        sink: FrameSink,
        waker: Waker,
    ) -> Code,
    /// From a filter: hands the request, changed or not, to what is behind the filter. `body` [`BodySource::NONE`]
    /// passes the request's own body on. Answers as `exchange_start`.
    pub exchange_next: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        head: *const RequestHead,
        body: BodySource,
        sink: HeadSink,
        waker: Waker,
    ) -> Code,

    // For a server of HTTP.
    /// Starts an exchange at this instance's site. Answers its handle; if the response's head was ready, it was
    /// delivered into `sink` before this returns, else `exchange_poll` is to be called. `NOT_FOUND` if no route wants
    /// the request; other errors as they are, with `body` still the caller's.
    pub exchange_start: unsafe extern "C" fn(
        instance: InstanceId,
        head: *const RequestHead,
        body: BodySource,
        sink: HeadSink,
        waker: Waker,
    ) -> Code,
    /// `READY` when the head was delivered into `sink`; an error, `PANICKED` say, if there will be none.
    pub exchange_poll: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        sink: HeadSink,
        waker: Waker,
    ) -> Code,
    /// The next frame of the response's body into `sink`; `END` after the last.
    pub exchange_pull: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        sink: FrameSink,
        waker: Waker,
    ) -> Code,
    /// Ends an exchange, and tells the observers: `status` that was sent, `outcome` as `ENDED_*`, `bytes` of the body.
    /// Dropping the handle instead counts as aborted.
    pub exchange_end: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        status: u32,
        outcome: u32,
        bytes: u64,
    ) -> Code,
    /// Tells the observers of a request that never became an exchange (a bad one, say). Its times, path and status are
    /// the caller's; `handler` is ignored.
    pub exchange_report:
        unsafe extern "C" fn(instance: InstanceId, record: *const ExchangeRecord) -> Code,

    // What is explicit about HTTP's turns: interim responses, other protocols, and answers that need not be asked for.
    /// From a handler: sends an interim response (1xx, RFC 9110 section 15.2) before the answer. `UNSUPPORTED` if the server does not
    /// send it on; nothing is lost then.
    pub exchange_interim: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        head: *const ResponseHead,
    ) -> Code,
    /// From a handler that answered 101 (RFC 9110 section 7.8) to a request with `REQUEST_TAKES_UPGRADE`: the handle of the connection,
    /// from the first byte behind the request on, once the server has let go of it; `GONE` if it will not come. From that answer on the
    /// exchange's handle is the handler's to drop, and counts as work in flight until then. `UNSUPPORTED` if the server hands none over.
    pub exchange_upgrade:
        unsafe extern "C" fn(instance: InstanceId, exchange: Handle, waker: Waker) -> Code,
    /// From a server that has sent the 101: hands the exchange's connection over to whoever answered so, with what was read of it and
    /// belongs to the other protocol, at most 1 MiB. The connection's handle passes to the host if the call succeeds, and a session that it
    /// is of has ended then; the exchange is still to be ended. `INVALID` if nobody answered 101, `GONE` if whoever did has gone.
    pub exchange_hand_over: unsafe extern "C" fn(
        instance: InstanceId,
        exchange: Handle,
        connection: Handle,
        unread: Slice,
    ) -> Code,
    /// From a server that is about to answer by a permit: `READY` if it may, 1 if observers are to be told of it by `permit_report`,
    /// `GONE` if the handler has to be asked; the permit is then only dropped.
    pub permit_use: unsafe extern "C" fn(instance: InstanceId, permit: Handle) -> Code,
    /// Tells the observers of an answer by a permit; the host fills in who gave it.
    #[sabi(last_prefix_field)]
    pub permit_report: unsafe extern "C" fn(
        instance: InstanceId,
        permit: Handle,
        record: *const ExchangeRecord,
    ) -> Code,
}
