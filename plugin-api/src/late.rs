//! What was dropped where the host cannot be told (on another thread, or by somebody else's call), until the next call on the loop.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use medusa_abi::data::Handle;

use crate::{
    catch::catch,
    handle,
    host::{is_entered, on_loop, post},
};

/// Something that only the loop's thread may drop.
pub(crate) enum Late {
    /// A handle of the host's.
    Handle(Handle),
    /// A value of the plugin's that lives on the loop's thread.
    Value(Box<dyn FnOnce() + Send>),
}

/// As many as there are handles and values, of which the host and its limits know how many.
static LATE: Mutex<Vec<Late>> = Mutex::new(Vec::new());

/// How many there are, to be looked at without the lock.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Posts without bytes that only bring the loop here.
static NUDGES: AtomicUsize = AtomicUsize::new(0);

/// Has the next call on the loop drop it, and sees to it that there is one.
pub(crate) fn drop_later(late: Late) {
    if !is_entered() {
        return;
    }
    let mut all = lock();
    all.push(late);
    let is_first = all.len() == 1;
    COUNT.store(all.len(), Ordering::Release);
    drop(all);
    if is_first {
        NUDGES.fetch_add(1, Ordering::AcqRel);
        // With too many posts under way there are enough calls to come.
        if post(&[]).is_err() {
            NUDGES.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Drops what there is, inside of a call on the loop.
pub(crate) fn drop_now() {
    if COUNT.load(Ordering::Acquire) == 0 || !on_loop() {
        return;
    }
    let all = {
        let mut all = lock();
        COUNT.store(0, Ordering::Release);
        std::mem::take(&mut *all)
    };
    for late in all {
        match late {
            Late::Handle(handle) => handle::drop_handle(handle),
            Late::Value(drop) => {
                catch(drop);
            }
        }
    }
}

/// Whether a post is one that [`drop_later`] made.
pub(crate) fn is_nudge(bytes: &[u8]) -> bool {
    let less = |nudges: usize| nudges.checked_sub(1);
    bytes.is_empty() && NUDGES.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok()
}

fn lock() -> MutexGuard<'static, Vec<Late>> {
    LATE.lock().unwrap_or_else(PoisonError::into_inner)
}
