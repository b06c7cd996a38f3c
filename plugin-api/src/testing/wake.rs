//! Wakers of the test host: cells for its tasks, and the wakers that it keeps.

use std::{
    collections::VecDeque,
    ffi::c_void,
    ptr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use medusa_abi::{
    data::{Handle, Table},
    task::{Context, Waker, WakerHooks},
};

/// What any thread may touch.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
pub(super) struct State {
    /// Tasks to be polled.
    pub(super) ready: VecDeque<Handle>,
    pub(super) posts: VecDeque<Vec<u8>>,
    pub(super) log: Vec<String>,
    pub(super) panics: Vec<String>,
    /// Goes up with every wake, for those who wait without a task.
    pub(super) wakes: u64,
}

pub(super) static SHARED: Shared =
    Shared { state: Mutex::new(State::new()), changed: Condvar::new() };

impl State {
    const fn new() -> State {
        State {
            ready: VecDeque::new(),
            posts: VecDeque::new(),
            log: Vec::new(),
            panics: Vec::new(),
            wakes: 0,
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something happened off the loop.
    pub(super) fn notify(&self) {
        self.lock().wakes += 1;
        self.changed.notify_all();
    }

    /// Waits until something happens after `wakes`; `false` if nothing does for long.
    pub(super) fn wait(&self, wakes: u64) -> bool {
        /// Longer than any test's job takes.
        const PATIENCE: Duration = Duration::from_secs(30);
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, |s| s.wakes == wakes);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// What a poll's context points at.
pub(super) struct Cell {
    task: Option<Handle>,
    forward: Mutex<Option<Kept>>,
}

impl Cell {
    /// Wakes a task.
    pub(super) fn of_task(task: Handle) -> Arc<Cell> {
        Arc::new(Cell { task: Some(task), forward: Mutex::new(None) })
    }

    /// Wakes whoever was kept.
    pub(super) fn forwarding(waker: Option<Kept>) -> Arc<Cell> {
        Arc::new(Cell { task: None, forward: Mutex::new(waker) })
    }

    /// The context of a poll with this cell.
    pub(super) fn context(self: &Arc<Cell>, now_ns: u64) -> Context {
        Context { waker: Arc::as_ptr(self).cast(), now_ns, spare: [0; 2] }
    }

    fn wake(&self) {
        if let Some(task) = self.task {
            let mut state = SHARED.lock();
            if !state.ready.contains(&task) {
                state.ready.push_back(task);
            }
        }
        let forward = self.forward.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = forward {
            waker.wake();
        }
        SHARED.notify();
    }
}

/// A waker that was given to a callback, and kept.
pub(super) struct Kept {
    data: *const c_void,
    hooks: Table<WakerHooks>,
}

// SAFETY: The ABI says that wakers may be used on any thread.
unsafe impl Send for Kept {}

impl Kept {
    /// Keeps `waker`, which is lent for the running callback.
    pub(super) fn new(waker: Waker) -> Option<Kept> {
        if waker.data.is_null() {
            return None;
        }
        // SAFETY: The waker is the argument of a running callback.
        let data = unsafe {
            match waker.hooks.get() {
                Some(hooks) => (hooks.clone)(waker.data),
                None => cell_clone(waker.data),
            }
        };
        Some(Kept { data, hooks: waker.hooks })
    }

    pub(super) fn wake(mut self) {
        let data = std::mem::replace(&mut self.data, ptr::null());
        // SAFETY: A clone that is ours, used up by this.
        unsafe {
            match self.hooks.get() {
                Some(hooks) => (hooks.wake)(data),
                None => cell_wake(data),
            }
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.data.is_null() {
            return;
        }
        // SAFETY: A clone that is ours, dropped once.
        unsafe {
            match self.hooks.get() {
                Some(hooks) => (hooks.drop)(self.data),
                None => cell_drop(self.data),
            }
        }
    }
}

/// Wakes whoever waits in `slot`.
pub(super) fn wake_slot(slot: &std::cell::RefCell<Option<Kept>>) {
    let waker = slot.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

pub(super) unsafe extern "C" fn cell_clone(cell: *const c_void) -> *const c_void {
    // SAFETY: A pointer to a live cell, of a context or of an earlier clone.
    unsafe { Arc::increment_strong_count(cell.cast::<Cell>()) };
    cell
}

pub(super) unsafe extern "C" fn cell_wake(cell: *const c_void) {
    // SAFETY: A clone that is given back.
    unsafe { Arc::from_raw(cell.cast::<Cell>()) }.wake();
}

pub(super) unsafe extern "C" fn cell_wake_by_ref(cell: *const c_void) {
    // SAFETY: A pointer to a live cell.
    unsafe { &*cell.cast::<Cell>() }.wake();
}

pub(super) unsafe extern "C" fn cell_drop(cell: *const c_void) {
    // SAFETY: A clone that is given back.
    drop(unsafe { Arc::from_raw(cell.cast::<Cell>()) });
}
