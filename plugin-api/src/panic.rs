//! Panics of the plugin's code, told to the host where they happen.
//!
//! The message and its place go to the host, which logs and counts them. Nothing is symbolized in here: the standard
//! library's cache of debug information would keep the library's file mapped for good.

// Calls the panic callback.
#![allow(unsafe_code)]

use std::panic::{self, PanicHookInfo};

use medusa_abi::data::Slice;

use crate::host::{host, is_entered};

/// Reports this image's panics to the host from here on.
pub(crate) fn install() {
    panic::set_hook(Box::new(report));
}

/// Takes the hook down, so that nothing of it is left when the library goes.
pub(crate) fn uninstall() {
    // The standard library refuses on a thread that is panicking; that happens in a test that fails, never in a host.
    if !std::thread::panicking() {
        drop(panic::take_hook());
    }
}

fn report(info: &PanicHookInfo<'_>) {
    if !is_entered() {
        return;
    }
    let message = info.payload_as_str().unwrap_or("a payload that is not text");
    let (file, line, column) = match info.location() {
        Some(location) => (location.file(), location.line(), location.column()),
        None => ("", 0, 0),
    };
    let host = host();
    // SAFETY: The slices are borrowed for the call; legal on any thread.
    unsafe {
        (host.core.panicked)(
            host.instance,
            Slice::new(message.as_bytes()),
            Slice::new(file.as_bytes()),
            line,
            column,
        )
    };
}
