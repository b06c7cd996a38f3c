//! Wakers across the boundary: the host's cells, and a plugin's own wakers that the host has to keep.
//!
//! A cell is the host's memory, owned by its generation until after the library is unmapped. A waker that a plugin leaks is
//! therefore a number that does not fall to zero, never a pointer to something freed.

#![allow(unsafe_code)] // A waker crosses the ABI as a raw pointer.

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    ptr::NonNull,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{RawWaker, RawWakerVTable, Waker},
};

use medusa_abi::{data::Table, task};

use crate::plugin::{frame, interpose};

/// Stands for "whoever polls this object now" towards the plugin. Any thread may clone and wake it.
#[derive(Default)]
pub struct WakerCell {
    /// Who polled last, kept only while the plugin holds clones.
    waker: Mutex<Option<Waker>>,
    clones: AtomicUsize,
}

impl WakerCell {
    /// Called before each poll: clones that the plugin still holds have to wake the newest poller.
    pub fn refresh(&self, waker: &Waker) {
        if self.clones.load(Ordering::Relaxed) > 0 {
            self.keep(waker);
        }
    }

    fn keep(&self, waker: &Waker) {
        let mut kept = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            let before = kept.replace(waker.clone());
            // It may be a plugin's own, whose drop can come here again.
            drop(kept);
            drop(before);
        }
    }

    /// Its object is gone, so that there is nobody to wake. What was kept may be another plugin's.
    fn forget(&self) {
        let kept = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(kept);
    }

    fn wake(&self) {
        let kept = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waker) = kept {
            waker.wake();
        }
    }

    fn kept(&self) -> Option<Waker> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The cells of one generation: used again once nobody holds a clone, freed only with the pool.
#[derive(Default)]
pub struct Cells {
    all: RefCell<Vec<NonNull<WakerCell>>>,
    free: RefCell<Vec<NonNull<WakerCell>>>,
    /// Their object is gone, but the plugin still held clones when it went.
    held: RefCell<Vec<NonNull<WakerCell>>>,
    /// When `held` is this long, it is looked through for cells that have come free.
    held_look_at: Cell<usize>,
}

impl Cells {
    /// A cell for a new object. It lives as long as the pool.
    pub fn take(&self) -> NonNull<WakerCell> {
        if let Some(cell) = self.free.borrow_mut().pop() {
            return cell;
        }
        if self.held.borrow().len() >= self.held_look_at.get().max(64) {
            self.sweep();
            if let Some(cell) = self.free.borrow_mut().pop() {
                return cell;
            }
        }
        let cell = NonNull::from(Box::leak(Box::<WakerCell>::default()));
        self.all.borrow_mut().push(cell);
        cell
    }

    /// Gives back the cell of an object that is gone.
    pub fn give_back(&self, cell: NonNull<WakerCell>) {
        // SAFETY: Cells live as long as this pool.
        let given = unsafe { cell.as_ref() };
        given.forget();
        let is_free = given.clones.load(Ordering::Acquire) == 0;
        let cells = if is_free { &self.free } else { &self.held };
        cells.borrow_mut().push(cell);
    }

    /// How many wakers the plugin holds of objects that are gone. After all objects are, these are leaks.
    pub fn leaked(&self) -> usize {
        self.sweep();
        // SAFETY: As above.
        self.held
            .borrow()
            .iter()
            .map(|cell| unsafe { cell.as_ref() }.clones.load(Ordering::Acquire))
            .sum()
    }

    fn sweep(&self) {
        let held = self.held.take();
        for cell in held {
            self.give_back(cell);
        }
        self.held_look_at.set(self.held.borrow().len() * 2);
    }
}

/// The wakers of a generation's own that the host holds. They are dropped on whatever thread was to use them.
#[derive(Default)]
pub struct ForeignWakers {
    count: AtomicUsize,
    is_watched: AtomicBool,
}

impl ForeignWakers {
    /// How many there are. If there are any, it is announced from now on when there are none, as the end of a thread is.
    pub fn watch(&self) -> usize {
        // Here one is written before the other is read, and in `remove` the other way round: one side sees the other.
        self.is_watched.store(true, Ordering::SeqCst);
        self.count.load(Ordering::SeqCst)
    }

    fn add(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn remove(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 && self.is_watched.load(Ordering::SeqCst)
        {
            interpose::announce();
        }
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        for cell in self.all.take() {
            // SAFETY: Each came out of a box in `take`, once, and no plugin code that could use it is mapped any more.
            drop(unsafe { Box::from_raw(cell.as_ptr()) });
        }
    }
}

/// `CoreCallbacks::waker_clone`.
///
/// # Safety
/// `waker` is a cell of a generation that is still mapped.
pub unsafe extern "C" fn clone(waker: *const c_void) -> *const c_void {
    // SAFETY: The caller's promise.
    if let Some(cell) = unsafe { waker.cast::<WakerCell>().as_ref() } {
        cell.clones.fetch_add(1, Ordering::AcqRel);
        frame::with_polling_waker(cell, |polling| cell.keep(polling));
    }
    waker
}

/// `CoreCallbacks::waker_wake`.
///
/// # Safety
/// As with [`clone`]; one clone is used up.
pub unsafe extern "C" fn wake(waker: *const c_void) {
    // SAFETY: The caller's promise.
    unsafe { wake_by_ref(waker) };
    // SAFETY: The caller's promise.
    unsafe { drop_clone(waker) };
}

/// `CoreCallbacks::waker_wake_by_ref`.
///
/// # Safety
/// As with [`clone`].
pub unsafe extern "C" fn wake_by_ref(waker: *const c_void) {
    // SAFETY: The caller's promise.
    let Some(cell) = (unsafe { waker.cast::<WakerCell>().as_ref() }) else { return };
    // Woken from within its own poll, with no clone: the poller itself is at hand.
    if !frame::with_polling_waker(cell, Waker::wake_by_ref) {
        cell.wake();
    }
}

/// `CoreCallbacks::waker_drop`.
///
/// # Safety
/// As with [`clone`]; one clone is used up.
pub unsafe extern "C" fn drop_clone(waker: *const c_void) {
    // SAFETY: The caller's promise.
    if let Some(cell) = unsafe { waker.cast::<WakerCell>().as_ref() } {
        // One drop too many must not wrap round to "very many".
        let _ = cell
            .clones
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |clones| clones.checked_sub(1));
    }
}

/// Calls `f` with the waker that the plugin gave, or answers `None` if it gave none that can be used.
///
/// # Safety
/// `waker` must be as the ABI says: null hooks with a cell of a mapped generation, or hooks of a mapped library.
pub unsafe fn with<R>(
    waker: task::Waker,
    foreign: &Arc<ForeignWakers>,
    f: impl FnOnce(&Waker) -> R,
) -> Option<R> {
    if waker.data.is_null() && waker.hooks.as_ptr().is_null() {
        return Some(f(Waker::noop()));
    }
    if waker.hooks.as_ptr().is_null() {
        // SAFETY: The caller's promise.
        let cell = unsafe { waker.data.cast::<WakerCell>().as_ref() }?;
        let mut f = Some(f);
        let mut answer = None;
        frame::with_polling_waker(cell, |polling| answer = f.take().map(|f| f(polling)));
        return answer.or_else(|| cell.kept().and_then(|kept| f.take().map(|f| f(&kept))));
    }
    // SAFETY: The caller's promise.
    let hooks = unsafe { waker.hooks.get() }?;
    // SAFETY: The hook is the plugin's, for its own waker, which is borrowed for this call.
    let data = unsafe { (hooks.clone)(waker.data) };
    let foreign = Box::new(Foreign { data, hooks: waker.hooks, count: foreign.clone() });
    foreign.count.add();
    // SAFETY: The vtable below treats the pointer as the box that this is.
    let foreign =
        unsafe { Waker::from_raw(RawWaker::new(Box::into_raw(foreign).cast(), &FOREIGN)) };
    Some(f(&foreign))
}

/// A plugin's own waker that the host keeps. It is counted, since it points into the plugin.
struct Foreign {
    data: *const c_void,
    hooks: Table<task::WakerHooks>,
    count: Arc<ForeignWakers>,
}

impl Foreign {
    fn hooks(&self) -> &'static task::WakerHooks {
        // SAFETY: A library with foreign wakers in the host is not unmapped.
        unsafe { self.hooks.get() }.expect("a foreign waker is made with hooks")
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // SAFETY: `data` is a clone that this object owns.
        unsafe { (self.hooks().drop)(self.data) };
        self.count.remove();
    }
}

static FOREIGN: RawWakerVTable = RawWakerVTable::new(
    |data| {
        // SAFETY: The data pointers of this vtable are boxes of `Foreign`, alive while the waker is.
        let this = unsafe { &*data.cast::<Foreign>() };
        // SAFETY: The hook is the plugin's, for its own waker.
        let data = unsafe { (this.hooks().clone)(this.data) };
        this.count.add();
        RawWaker::new(
            Box::into_raw(Box::new(Foreign { data, hooks: this.hooks, count: this.count.clone() }))
                .cast(),
            &FOREIGN,
        )
    },
    |data| {
        // SAFETY: As above; the waker is used up, and with it the box.
        let this = unsafe { Box::from_raw(data.cast::<Foreign>().cast_mut()) };
        // SAFETY: The hook is the plugin's, for its own waker.
        unsafe { (this.hooks().wake_by_ref)(this.data) };
    },
    |data| {
        // SAFETY: As above.
        let this = unsafe { &*data.cast::<Foreign>() };
        // SAFETY: The hook is the plugin's, for its own waker.
        unsafe { (this.hooks().wake_by_ref)(this.data) };
    },
    // SAFETY: As above; the waker is used up.
    |data| drop(unsafe { Box::from_raw(data.cast::<Foreign>().cast_mut()) }),
);

#[cfg(test)]
mod tests {
    use std::{ptr, task::Wake, thread, time::Duration};

    use super::*;
    use crate::plugin::interpose::ThreadEnds;

    struct Nobody;

    impl Wake for Nobody {
        fn wake(self: Arc<Self>) {}
    }

    /// It kept a waker of whoever had polled, which may be another plugin's own, for as long as the clone was leaked.
    #[test]
    fn a_cell_whose_object_is_gone_keeps_no_poller() {
        let (cells, poller) = (Cells::default(), Arc::new(Nobody));
        let cell = cells.take();
        // SAFETY: The cell lives as long as `cells`.
        let leaked = unsafe { clone(cell.as_ptr().cast()) };
        // SAFETY: As above.
        unsafe { cell.as_ref() }.refresh(&Waker::from(poller.clone()));
        assert_eq!(Arc::strong_count(&poller), 2);
        cells.give_back(cell);
        assert_eq!(Arc::strong_count(&poller), 1);
        assert_eq!(cells.leaked(), 1);
        // SAFETY: One clone is used up.
        unsafe { wake(leaked) };
        assert_eq!(cells.leaked(), 0);
    }

    static OF_NOTHING: task::WakerHooks = task::WakerHooks {
        size: size_of::<task::WakerHooks>(),
        clone: same,
        wake: nothing,
        wake_by_ref: nothing,
        drop: nothing,
    };

    unsafe extern "C" fn same(data: *const c_void) -> *const c_void {
        data
    }

    unsafe extern "C" fn nothing(_data: *const c_void) {}

    /// What was pinned for such a waker was never looked at again.
    #[tokio::test]
    async fn the_last_foreign_waker_is_announced_from_whatever_thread() {
        let ends = ThreadEnds::watch().unwrap();
        let foreign = Arc::<ForeignWakers>::default();
        let own = task::Waker { data: ptr::null(), hooks: Table::new(&OF_NOTHING) };
        // SAFETY: The hooks are static, and take any data.
        let kept = unsafe { with(own, &foreign, Waker::clone) }.unwrap();
        let other = kept.clone();
        assert_eq!(foreign.watch(), 2);
        drop(other);
        assert_eq!(foreign.watch(), 1);
        thread::spawn(move || kept.wake()).join().unwrap();
        assert_eq!(foreign.watch(), 0);
        tokio::time::timeout(Duration::from_secs(30), ends.next()).await.unwrap().unwrap();
    }
}
