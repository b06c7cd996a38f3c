//! Wakers across the boundary: the host's own pass straight through, all others are borrowed and cloned only if kept.
//!
//! The host keeps one cell per task and gives its address with every poll. A future of the plugin that calls the host with
//! that same waker hands the address back as it is, so nothing is cloned per poll.

// Implements and calls raw waker tables.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    mem::ManuallyDrop,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, RawWaker, RawWakerVTable, Waker},
};

use medusa_abi::{
    data::Table,
    task::{Waker as AbiWaker, WakerHooks},
};

use crate::{catch::catch, host::host};

/// The waker of a host's cell for the length of one poll. It is not dropped: the cell stays the host's.
///
/// # Safety
/// `cell` must be a [`medusa_abi::task::Context::waker`] of the running hook.
pub(crate) unsafe fn of_cell(cell: *const c_void) -> ManuallyDrop<Waker> {
    // SAFETY: The table's functions do what `RawWakerVTable` asks, and the cell is valid for the poll.
    ManuallyDrop::new(unsafe { Waker::from_raw(RawWaker::new(cell.cast(), &CELL_TABLE)) })
}

/// When the host's last poll of this plugin began. Polls are on the loop's thread only.
static POLLED_NS: AtomicU64 = AtomicU64::new(0);

/// A poll of the host's begins, at this time of its clock.
pub(crate) fn polled_at(now_ns: u64) {
    POLLED_NS.store(now_ns, Ordering::Relaxed);
}

/// When the poll began that `context` is of, if its waker is the host's own.
pub(crate) fn polled_ns(context: &Context<'_>) -> Option<u64> {
    let is_hosts = ptr::eq(context.waker().vtable(), &CELL_TABLE);
    is_hosts.then(|| POLLED_NS.load(Ordering::Relaxed))
}

/// The waker of `context`, for one call of the host.
pub(crate) fn for_call(context: &Context<'_>) -> AbiWaker {
    let waker = context.waker();
    if ptr::eq(waker.vtable(), &CELL_TABLE) {
        AbiWaker { data: waker.data().cast(), hooks: Table::NULL }
    } else {
        AbiWaker { data: (&raw const *waker).cast(), hooks: Table::new(&FOREIGN_HOOKS) }
    }
}

static CELL_TABLE: RawWakerVTable =
    RawWakerVTable::new(cell_clone, cell_wake, cell_wake_by_ref, cell_drop);

/// For wakers that are not the host's: `data` is a `&Waker` for the call, and each clone a `Box<Waker>`; both are read as
/// `*const Waker`.
static FOREIGN_HOOKS: WakerHooks = WakerHooks {
    size: size_of::<WakerHooks>(),
    clone: foreign_clone,
    wake: foreign_wake,
    wake_by_ref: foreign_wake_by_ref,
    drop: foreign_drop,
};

unsafe fn cell_clone(cell: *const ()) -> RawWaker {
    // SAFETY: `cell` is the host's, from a poll or from an earlier clone.
    let clone = unsafe { (host().core.waker_clone)(cell.cast()) };
    RawWaker::new(clone.cast(), &CELL_TABLE)
}

unsafe fn cell_wake(cell: *const ()) {
    // SAFETY: As above; `cell` is not used again.
    unsafe { (host().core.waker_wake)(cell.cast()) };
}

unsafe fn cell_wake_by_ref(cell: *const ()) {
    // SAFETY: As above.
    unsafe { (host().core.waker_wake_by_ref)(cell.cast()) };
}

unsafe fn cell_drop(cell: *const ()) {
    // SAFETY: As above; `cell` is not used again.
    unsafe { (host().core.waker_drop)(cell.cast()) };
}

unsafe extern "C" fn foreign_clone(data: *const c_void) -> *const c_void {
    // SAFETY: `data` is a waker that the host was lent or has cloned; see `FOREIGN_HOOKS`.
    let waker = unsafe { &*data.cast::<Waker>() };
    // A clone that panics leaves the host with a waker that wakes nobody, which is all that it then deserves.
    let clone = catch(|| waker.clone()).unwrap_or_else(|| Waker::noop().clone());
    Box::into_raw(Box::new(clone)).cast_const().cast()
}

unsafe extern "C" fn foreign_wake(data: *const c_void) {
    // SAFETY: `data` is a clone, which the host gives back once.
    let waker = unsafe { Box::from_raw(data.cast::<Waker>().cast_mut()) };
    catch(|| waker.wake());
}

unsafe extern "C" fn foreign_wake_by_ref(data: *const c_void) {
    // SAFETY: As in `foreign_clone`.
    let waker = unsafe { &*data.cast::<Waker>() };
    catch(|| waker.wake_by_ref());
}

unsafe extern "C" fn foreign_drop(data: *const c_void) {
    // SAFETY: As in `foreign_wake`.
    let waker = unsafe { Box::from_raw(data.cast::<Waker>().cast_mut()) };
    catch(|| drop(waker));
}
