//! Does on any thread, for one image, exactly what the thread's end would do; and does that at the thread's end for all.
//!
//! Order as in glibc: thread-locals' destructors, newest first; then keys' values, each set to null before its destructor sees it;
//! again as long as something ran.

use std::{
    cell::Cell,
    ffi::c_void,
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use libc::pthread_key_t;

use super::{
    ImageId, ends,
    symbols::{self, Destroy},
    tables::{KEYS_MAX, Thread, lock},
};
use crate::sys::crash;

/// How often it is begun again while destructors register new ones.
const ROUNDS_MAX: usize = 8;
/// How many destructors run in a round before it is given up.
const DESTRUCTORS_MAX: usize = 1 << 16;

/// What [`clean_current_thread`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Destructors of thread-locals that ran.
    pub destructors: usize,
    /// Destructors of keys that ran.
    pub keys: usize,
    /// Whether nothing is left on this thread; not so if destructors kept on registering new ones.
    pub is_clean: bool,
}

thread_local! {
    // Constant and without a destructor: reading it registers nothing, and it can be read until the very end.
    static CURRENT: Cell<*mut Thread> = const { Cell::new(ptr::null_mut()) };
    // Whether the C library calls `run_all_destructors` at this thread's end.
    static IS_ARMED: Cell<bool> = const { Cell::new(false) };
}

const NO_KEY: u32 = u32::MAX;
/// The host's own key, whose destructor is the last that happens to a thread.
static THREAD_END: AtomicU32 = AtomicU32::new(NO_KEY);

/// Destroys what the image has on the current thread, as the thread's end would.
///
/// Runs the image's code. A destructor that panics ends the process, by std's rule.
pub fn clean_current_thread(image: ImageId) -> Cleaned {
    clean(Some(image))
}

/// Makes the key that the rest of this module needs, once; whether it is there.
pub(super) fn prepare() -> bool {
    if THREAD_END.load(Ordering::Acquire) != NO_KEY {
        return true;
    }
    let Some(key) = symbols::create_key(Some(end_thread)) else { return false };
    let first = THREAD_END.compare_exchange(NO_KEY, key, Ordering::AcqRel, Ordering::Acquire);
    if first.is_err() {
        symbols::delete_key(key);
    }
    true
}

/// Keeps a destructor for the current thread; whether it could.
pub(super) fn keep_destructor(image: ImageId, destroy: Destroy, object: *mut c_void) -> bool {
    let Some(record) = current() else { return false };
    // SAFETY: The record is alive until `end_thread`, and the lock is held.
    if !lock().push_destructor(unsafe { &mut *record }, image, destroy, object) {
        return false;
    }
    if !IS_ARMED.replace(true) {
        symbols::at_thread_exit(run_all_destructors, ptr::null_mut());
    }
    true
}

/// Makes a key that is deleted with the image.
pub(super) fn create_key_for(image: ImageId, destroy: Option<Destroy>) -> Option<pthread_key_t> {
    loop {
        let key = symbols::create_key(destroy)?;
        // Keys are destroyed in their order, and ours has to come first, so that it sees all values. One that a host's part gave
        // back stays unused: there are at most as many as were made before `prepare`.
        if key >= THREAD_END.load(Ordering::Acquire) {
            lock().own_key(key, image, destroy);
            return Some(key);
        }
    }
}

/// The current thread has, or no longer has, a value under a key.
pub(super) fn note_value(key: pthread_key_t, has_value: bool) {
    let record = if has_value { current() } else { existing() };
    if let Some(record) = record {
        // SAFETY: The record is alive until `end_thread`, and the lock is held.
        lock().note_value(unsafe { &mut *record }, key, has_value);
    }
}

/// What a thread that an image started runs first. No value in here has a destructor, so that `pthread_exit` may unwind through.
pub(super) unsafe extern "C-unwind" fn run_thread(record: *mut c_void) -> *mut c_void {
    let record = record.cast::<Thread>();
    CURRENT.set(record);
    symbols::set_value(THREAD_END.load(Ordering::Acquire), record.cast());
    crash::give_stack();
    // SAFETY: The record was made for this thread by `add_thread` and is alive until `end_thread`; the lock is held.
    let (start, argument) = lock().begin_thread(unsafe { &mut *record });
    match start {
        // SAFETY: What `pthread_create` was given, with its argument.
        Some(start) => unsafe { start(argument) },
        None => ptr::null_mut(),
    }
}

/// Called by the C library where a thread's destructors run, before its keys'.
unsafe extern "C" fn run_all_destructors(_: *mut c_void) {
    IS_ARMED.set(false);
    if let Some(record) = existing() {
        run_destructors(record, None);
        // SAFETY: The record is alive until `end_thread`, and the lock is held.
        lock().rest(unsafe { &mut *record });
    }
}

/// The destructor of THREAD_END: the last that happens to a thread.
unsafe extern "C" fn end_thread(record: *mut c_void) {
    clean(None);
    crash::take_stack();
    CURRENT.set(ptr::null_mut());
    // SAFETY: The value under the key is this thread's record, and `CURRENT` no longer leads to it.
    unsafe { lock().remove_thread(record.cast()) };
    ends::announce();
}

fn clean(image: Option<ImageId>) -> Cleaned {
    let mut cleaned = Cleaned { is_clean: true, ..Cleaned::default() };
    let Some(record) = existing() else { return cleaned };
    for _ in 0..ROUNDS_MAX {
        let destructors = run_destructors(record, image);
        let keys = run_keys(record, image);
        // SAFETY: The record is alive until `end_thread`, and the lock is held.
        lock().rest(unsafe { &mut *record });
        if destructors + keys == 0 {
            return cleaned;
        }
        cleaned.destructors += destructors;
        cleaned.keys += keys;
    }
    cleaned.is_clean = false;
    cleaned
}

fn run_destructors(record: *mut Thread, image: Option<ImageId>) -> usize {
    for count in 0..DESTRUCTORS_MAX {
        // SAFETY: The record is alive until `end_thread`, the lock is held, and the reference ends before anything is called.
        let taken = lock().take_destructor(unsafe { &mut *record }, image);
        let Some((destroy, object)) = taken else { return count };
        // SAFETY: What the image registered on this thread, called once; the image is mapped, for it is not closed before this
        // list is empty.
        unsafe { destroy(object) };
    }
    DESTRUCTORS_MAX
}

fn run_keys(record: *mut Thread, image: Option<ImageId>) -> usize {
    let mut count = 0;
    let mut from = 0;
    while from < KEYS_MAX {
        // SAFETY: As in `run_destructors`.
        let taken = lock().take_value(unsafe { &mut *record }, image, from);
        let Some((key, destroy)) = taken else { return count };
        from = key as usize + 1;
        let value = symbols::value(key);
        symbols::set_value(key, ptr::null());
        if let Some(destroy) = destroy
            && !value.is_null()
        {
            // SAFETY: As in `run_destructors`.
            unsafe { destroy(value) };
            count += 1;
        }
    }
    count
}

fn existing() -> Option<*mut Thread> {
    let record = CURRENT.get();
    (!record.is_null()).then_some(record)
}

/// The current thread's record, made if there is none.
fn current() -> Option<*mut Thread> {
    if let Some(record) = existing() {
        return Some(record);
    }
    let key = THREAD_END.load(Ordering::Acquire);
    let record = lock().add_current_thread();
    if record.is_null() {
        return None;
    }
    if symbols::set_value(key, record.cast()) != 0 {
        // Without it the thread's end would pass unseen.
        // SAFETY: Made just now, and known to nobody.
        unsafe { lock().remove_thread(record) };
        return None;
    }
    CURRENT.set(record);
    Some(record)
}
