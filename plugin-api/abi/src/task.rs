//! Work: tasks on the loop, wakers, blocking jobs and threads.

use core::ffi::c_void;

use abi_stable::StableAbi;

use crate::{code::Code, data::Table};

/// A future of the plugin, polled by the host.
///
/// OWNERSHIP: `data` is the plugin's. It passes to the host with a call that succeeds, and comes back once, through
/// `hooks.drop`, whether or not it has answered.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Task {
    pub data: *mut c_void,
    pub hooks: Table<TaskHooks>,
}

impl Task {
    /// No task. A hook that leaves this in its out parameter has nothing to wait for.
    pub const NONE: Task = Task { data: core::ptr::null_mut(), hooks: Table::NULL };
}

/// What the host does with a [`Task`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = TaskHooksLayout, prefix_fields = TaskHooksFields)))]
#[sabi(missing_field(panic))]
pub struct TaskHooks {
    pub size: usize,
    /// Called after each wake: `PENDING`, or any other code, after which the task is only dropped.
    pub poll: unsafe extern "C" fn(data: *mut c_void, context: *const Context) -> Code,
    /// Called once, last.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// What a poll is given.
///
/// OWNERSHIP: The host's, for the call.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Context {
    /// The host's waker for this task: a cell of the host. It may be cloned and woken by the `waker_*` callbacks, on any
    /// thread, and be passed back as a [`Waker`] without `hooks`.
    pub waker: *const c_void,
    /// The monotonic clock when the poll began, in nanoseconds; see [`crate::host::CoreCallbacks::now_ns`].
    pub now_ns: u64,
    pub spare: [u64; 2],
}

/// Who is to be woken, as given to a callback.
///
/// OWNERSHIP: Borrowed for the call. A host that keeps it clones it by `hooks.clone`, and drops each clone once; a clone
/// that is kept is a pointer into the plugin, is counted, and keeps the library mapped.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Waker {
    /// A host cell from [`Context::waker`] when `hooks` is null, else what `hooks` understand.
    pub data: *const c_void,
    pub hooks: Table<WakerHooks>,
}

impl Waker {
    /// Nobody: the call is made once and not waited for.
    pub const NONE: Waker = Waker { data: core::ptr::null(), hooks: Table::NULL };
}

/// A waker that is not the host's own: one from `join!` or `FuturesUnordered`, say. Any thread may call these.
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = WakerHooksLayout, prefix_fields = WakerHooksFields)))]
#[sabi(missing_field(panic))]
pub struct WakerHooks {
    pub size: usize,
    /// Another pointer to the same waker.
    pub clone: unsafe extern "C" fn(data: *const c_void) -> *const c_void,
    /// Wakes, and drops `data`.
    pub wake: unsafe extern "C" fn(data: *const c_void),
    pub wake_by_ref: unsafe extern "C" fn(data: *const c_void),
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *const c_void),
}

/// Blocking or CPU-heavy work for the host's pool.
///
/// OWNERSHIP: `data` as with [`Task`]. The plugin reads the outcome from its own memory behind `data`.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Job {
    pub data: *mut c_void,
    pub hooks: Table<JobHooks>,
}

/// What the host does with a [`Job`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = JobHooksLayout, prefix_fields = JobHooksFields)))]
#[sabi(missing_field(panic))]
pub struct JobHooks {
    pub size: usize,
    /// Called at most once, on a thread of the pool.
    pub run: unsafe extern "C" fn(data: *mut c_void) -> Code,
    /// Called once, last, on the loop's thread.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}

/// A thread that the host makes for a plugin which needs a runtime of its own.
///
/// OWNERSHIP: `data` as with [`Task`].
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Thread {
    pub data: *mut c_void,
    pub hooks: Table<ThreadHooks>,
}

/// What the host does with a [`Thread`].
#[derive(StableAbi)]
#[repr(C)]
#[sabi(kind(Prefix(prefix_ref = ThreadHooksLayout, prefix_fields = ThreadHooksFields)))]
#[sabi(missing_field(panic))]
pub struct ThreadHooks {
    pub size: usize,
    /// Called once, on the new thread, which ends when this returns.
    pub run: unsafe extern "C" fn(data: *mut c_void) -> Code,
    /// Called on the loop's thread when the generation is to go: makes `run` return soon.
    pub stop: unsafe extern "C" fn(data: *mut c_void) -> Code,
    /// Called once, last, on the loop's thread, after the thread was joined.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(data: *mut c_void) -> Code,
}
