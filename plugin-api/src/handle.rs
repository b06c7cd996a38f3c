//! Handles that drop what they stand for.

// Calls `handle_drop`.
#![allow(unsafe_code)]

use medusa_abi::{
    code,
    data::{Handle, NO_HANDLE},
};

use crate::{
    host::{host, is_entered, on_loop},
    late::{Late, drop_later},
};

/// A handle of this instance, dropped once. An integer only, so it may be sent; the host refuses it off the loop's thread. Dropped
/// there, it is gone with the next call on the loop.
#[derive(Debug)]
pub(crate) struct Owned(Handle);

impl Owned {
    /// Takes over a handle that a callback or a hook gave.
    pub(crate) fn new(handle: Handle) -> Owned {
        Owned(handle)
    }

    pub(crate) fn get(&self) -> Handle {
        self.0
    }

    /// Gives the handle away: nobody drops it here any more.
    pub(crate) fn into_raw(mut self) -> Handle {
        std::mem::replace(&mut self.0, NO_HANDLE)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if self.0 == NO_HANDLE || !is_entered() {
            return;
        }
        if on_loop() {
            drop_handle(self.0);
        } else {
            drop_later(Late::Handle(self.0));
        }
    }
}

/// Drops a handle, on the loop's thread.
pub(crate) fn drop_handle(handle: Handle) {
    let host = host();
    // SAFETY: A number; the host checks it.
    let code = unsafe { (host.core.handle_drop)(host.instance, handle) };
    // A waker of this plugin's that others drop is no call of this plugin, and can have been what held it.
    if code == code::WRONG_THREAD {
        drop_later(Late::Handle(handle));
    }
}
