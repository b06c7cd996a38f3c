//! The host's callbacks, as the one host that this image of the plugin was prepared by gave them.
//!
//! One image of a library serves one generation of one instance, so tables and instance rest in a static.

// Holds the host's tables and calls through them; nothing outside the glue can reach a raw callback.
#![allow(unsafe_code)]

use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicUsize, Ordering},
};

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, InstanceId, Slice, Table},
    host::{
        CoreCallbacks, FileCallbacks, HostCallbacks, HttpCallbacks, NetCallbacks, OfferCallbacks,
        WorkCallbacks,
    },
};

use crate::error::{Error, Result};

/// The host's tables, and the number by which it knows this generation.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    pub(crate) instance: InstanceId,
    pub(crate) core: &'static CoreCallbacks,
    pub(crate) work: &'static WorkCallbacks,
    pub(crate) net: &'static NetCallbacks,
    pub(crate) file: &'static FileCallbacks,
    pub(crate) offer: &'static OfferCallbacks,
    pub(crate) http: &'static HttpCallbacks,
}

struct HostCell(UnsafeCell<Option<Host>>);

// SAFETY: Written by `enter`, which is called before any other code of the plugin runs, and only read afterwards. Threads
// that read it are made later by the host, whose making of them orders the write before their reads.
unsafe impl Sync for HostCell {}

static HOST: HostCell = HostCell(UnsafeCell::new(None));

/// The loop's thread, as [`this_thread`] tells it; 0 before `enter`.
static LOOP_THREAD: AtomicUsize = AtomicUsize::new(0);

/// The host.
///
/// # Panics
/// Before `prepare`: nothing of the SDK works in a static's initializer or in a program that is no plugin.
pub(crate) fn host() -> Host {
    // SAFETY: See `HostCell`.
    match unsafe { *HOST.0.get() } {
        Some(host) => host,
        None => panic!("medusa_plugin_api was used before the host prepared the plugin"),
    }
}

/// Whether `prepare` has been called.
pub(crate) fn is_entered() -> bool {
    LOOP_THREAD.load(Ordering::Relaxed) != 0
}

/// Takes the host's tables; the calling thread is the loop's.
///
/// # Errors
/// [`code::UNSUPPORTED`] for a host whose tables lack what this SDK calls.
///
/// # Safety
/// `tables` must be a host's, alive until this image is unmapped; no other thread runs code of the plugin yet.
pub(crate) unsafe fn enter(
    tables: Table<HostCallbacks>,
    instance: InstanceId,
) -> core::result::Result<(), Code> {
    // SAFETY: The caller's promise; the size is looked at before any later field.
    let tables = unsafe { tables.get::<'static>() }.ok_or(code::INVALID)?;
    if tables.size < size_of::<HostCallbacks>() {
        return Err(code::UNSUPPORTED);
    }
    // SAFETY: The caller's promise: the tables that a host's table names are as alive as itself.
    let host = unsafe {
        Host {
            instance,
            core: table(tables.core, |t| t.size)?,
            work: table(tables.work, |t| t.size)?,
            net: table(tables.net, |t| t.size)?,
            file: table(tables.file, |t| t.size)?,
            offer: table(tables.offer, |t| t.size)?,
            http: table(tables.http, |t| t.size)?,
        }
    };
    // SAFETY: No other thread looks yet, and on this one nobody holds a reference: `host` answers a copy.
    unsafe { *HOST.0.get() = Some(host) };
    LOOP_THREAD.store(this_thread(), Ordering::Relaxed);
    Ok(())
}

/// Whether the calling thread is the loop's.
pub(crate) fn on_loop() -> bool {
    LOOP_THREAD.load(Ordering::Relaxed) == this_thread()
}

/// Tells the operator why the running hook fails.
pub(crate) fn fail(reason: &str) -> Code {
    let host = host();
    // SAFETY: The slice is borrowed for the call.
    unsafe { (host.core.fail)(host.instance, Slice::new(reason.as_bytes())) };
    code::FAILED
}

/// As [`fail`], with the system's error in the code if that is what it was.
pub(crate) fn fail_with(error: &Error) -> Code {
    fail(&error.to_string());
    error.code()
}

/// The name that the configuration gives this instance.
///
/// # Errors
/// Off the loop's thread.
pub fn instance_name() -> Result<String> {
    let host = host();
    let mut name = Vec::new();
    // SAFETY: The sink's data outlives the call and is what `write_vec` expects.
    let code = unsafe { (host.core.name)(host.instance, vec_sink(&mut name)) };
    Error::check(code, "cannot ask for the instance's name")?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}

/// Has `bytes` delivered to the closure that [`Registrar::on_post`](crate::Registrar::on_post) took, on the loop's
/// thread. May be called on any thread; it is how a thread speaks to the rest of the plugin.
///
/// # Errors
/// When the host's queue for the instance is full, by number or by bytes.
pub fn post(bytes: &[u8]) -> Result<()> {
    let host = host();
    // SAFETY: The slice is borrowed for the call; the callback is legal on any thread.
    let code = unsafe { (host.core.post)(host.instance, Slice::new(bytes)) };
    Error::check(code, "cannot post to the plugin").map(drop)
}

/// A sink that appends to `bytes`, to be used within the borrow.
pub(crate) fn vec_sink(bytes: &mut Vec<u8>) -> ByteSink {
    ByteSink { data: (&raw mut *bytes).cast(), write: write_vec }
}

/// Gives `bytes` to a sink of the host's.
///
/// # Safety
/// The sink must be valid: one that the running hook was given.
pub(crate) unsafe fn write_sink(sink: ByteSink, bytes: &[u8]) -> Code {
    // SAFETY: The caller's promise.
    unsafe { (sink.write)(sink.data, Slice::new(bytes)) }
}

/// The bytes of a slice that the host passed, empty where it is not valid.
///
/// # Safety
/// The slice must be the argument of a running hook or callback, and the lifetime must end with it.
pub(crate) unsafe fn bytes_of<'a>(slice: Slice) -> &'a [u8] {
    // SAFETY: The caller's promise.
    unsafe { slice.get() }.unwrap_or_default()
}

unsafe extern "C" fn write_vec(data: *mut std::ffi::c_void, bytes: Slice) -> Code {
    crate::catch::guard(|| {
        // SAFETY: `data` comes from `vec_sink`, whose borrow outlives the call that the host makes this from.
        let (target, bytes) = unsafe { (&mut *data.cast::<Vec<u8>>(), bytes_of(bytes)) };
        target.extend_from_slice(bytes);
        code::READY
    })
}

/// # Safety
/// As [`enter`].
unsafe fn table<T>(
    table: Table<T>,
    size: impl Fn(&T) -> usize,
) -> core::result::Result<&'static T, Code> {
    // SAFETY: The caller's promise.
    let table = unsafe { table.get::<'static>() }.ok_or(code::INVALID)?;
    if size(table) < size_of::<T>() { Err(code::UNSUPPORTED) } else { Ok(table) }
}

fn this_thread() -> usize {
    // SAFETY: No preconditions. Cheaper than `std::thread::current`, which allocates and leaves a thread-local.
    unsafe { libc::pthread_self() as usize }
}
