//! Handles that drop what they stand for.

// Calls `handle_drop`.
#![allow(unsafe_code)]

use medusa_abi::data::{Handle, NO_HANDLE};

use crate::host::{host, is_entered};

/// A handle of this instance, dropped once. An integer only, so it may be sent; the host refuses it off the loop's thread.
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
        if self.0 != NO_HANDLE && is_entered() {
            let host = host();
            // SAFETY: A number; the host checks it.
            unsafe { (host.core.handle_drop)(host.instance, self.0) };
        }
    }
}
