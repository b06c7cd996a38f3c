//! What belongs to the loop's thread: a cell that only that thread opens, and the slab of streams behind bodies.

// Gives out references to statics, after a check that only one thread can pass.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell, UnsafeCell};

use crate::{
    host::on_loop,
    late::{Late, drop_later},
};

/// A static that only the loop's thread can look into.
pub(crate) struct LoopCell<T>(UnsafeCell<T>);

// SAFETY: `get` refuses every thread but the loop's, of which there is one.
unsafe impl<T> Sync for LoopCell<T> {}

impl<T> LoopCell<T> {
    pub(crate) const fn new(value: T) -> LoopCell<T> {
        LoopCell(UnsafeCell::new(value))
    }

    /// The value; `None` on any thread but the loop's.
    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: Only shared references are ever given out, and on one thread only; `T` need not be `Sync` for that.
        on_loop().then(|| unsafe { &*self.0.get() })
    }
}

/// A box that may be sent because it stays where it was made: outside the loop's thread there is only its number.
///
/// Dropped on another thread, the value goes with the next call on the loop.
pub(crate) struct Resident<T: 'static> {
    key: usize,
    slab: &'static LoopCell<Slab<T>>,
}

/// Where residents of one type live.
pub(crate) struct Slab<T> {
    slots: RefCell<Vec<Slot<T>>>,
    free: Cell<usize>,
}

enum Slot<T> {
    Free {
        next: usize,
    },
    Full(T),
    /// Taken out for the length of a call.
    Lent,
}

const NO_SLOT: usize = usize::MAX;

impl<T> Slab<T> {
    pub(crate) const fn new() -> Slab<T> {
        Slab { slots: RefCell::new(Vec::new()), free: Cell::new(NO_SLOT) }
    }

    /// Drops all that is left; at the plugin's stop.
    pub(crate) fn clear(&self) {
        let slots = self.slots.take();
        self.free.set(NO_SLOT);
        drop(slots);
    }

    fn insert(&self, value: T) -> usize {
        let mut slots = self.slots.borrow_mut();
        let key = self.free.get();
        match slots.get_mut(key) {
            Some(slot) => {
                if let Slot::Free { next } = *slot {
                    self.free.set(next);
                }
                *slot = Slot::Full(value);
                key
            }
            None => {
                slots.push(Slot::Full(value));
                slots.len() - 1
            }
        }
    }

    fn lend(&self, key: usize) -> Option<T> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(key)?;
        match std::mem::replace(slot, Slot::Lent) {
            Slot::Full(value) => Some(value),
            other => {
                *slot = other;
                None
            }
        }
    }

    fn give_back(&self, key: usize, value: T) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            *slot = Slot::Full(value);
        }
    }

    fn remove(&self, key: usize) -> Option<T> {
        let value = self.lend(key);
        if let Some(slot) = self.slots.borrow_mut().get_mut(key) {
            *slot = Slot::Free { next: self.free.replace(key) };
        }
        value
    }
}

impl<T> Resident<T> {
    /// Puts `value` into `slab`; `None` off the loop's thread.
    pub(crate) fn new(slab: &'static LoopCell<Slab<T>>, value: T) -> Option<Resident<T>> {
        Some(Resident { key: slab.get()?.insert(value), slab })
    }

    /// Takes the value out; `None` off the loop's thread, where it is dropped later.
    pub(crate) fn into_inner(self) -> Option<T> {
        self.slab.get()?;
        let this = std::mem::ManuallyDrop::new(self);
        this.slab.get()?.remove(this.key)
    }

    /// Uses the value; `None` off the loop's thread, from inside another use, and after a use that panicked.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let slab = self.slab.get()?;
        let mut value = slab.lend(self.key)?;
        let result = f(&mut value);
        slab.give_back(self.key, value);
        Some(result)
    }
}

impl<T> Drop for Resident<T> {
    fn drop(&mut self) {
        let (slab, key) = (self.slab, self.key);
        match slab.get() {
            // The value is dropped outside the slab's borrow: it may hold residents of its own.
            Some(slab) => drop(slab.remove(key)),
            None => drop_later(Late::Value(Box::new(move || {
                drop(slab.get().and_then(|slab| slab.remove(key)));
            }))),
        }
    }
}
