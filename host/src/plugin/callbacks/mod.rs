//! The callbacks: every function that a plugin can call, by the ABI's tables.
//!
//! Each checks its thread and its instance, then its arguments; copies what it keeps; and answers a code.

#![allow(unsafe_code)] // The boundary itself: raw pointers come in, and static tables go out.

mod core;
mod file;
mod http;
mod net;
mod offer;
mod serve;
mod work;

use std::task::Waker;

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    host::HostCallbacks,
    task,
};

use crate::plugin::{generation::Generation, waker};

/// What every plugin is given.
pub(super) static HOST: HostCallbacks = HostCallbacks {
    size: size_of::<HostCallbacks>(),
    abi_minor: medusa_abi::ABI_MINOR as u32,
    core: Table::new(&core::CALLBACKS),
    work: Table::new(&work::CALLBACKS),
    net: Table::new(&net::CALLBACKS),
    file: Table::new(&file::CALLBACKS),
    offer: Table::new(&offer::CALLBACKS),
    http: Table::new(&http::CALLBACKS),
};

/// Texts of a plugin's (names, messages) are cut to this, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// A text of the plugin's, copied; what is no UTF-8 is replaced.
///
/// # Safety
/// The slice must be valid for the call.
unsafe fn text(slice: Slice) -> Result<String, Code> {
    // SAFETY: The caller's promise.
    let bytes = unsafe { slice.get() }.ok_or(code::INVALID)?;
    Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned())
}

/// Calls `f` with the waker that the plugin gave.
///
/// # Safety
/// The waker must be as the ABI says.
unsafe fn with_waker(
    generation: &Generation,
    waker: task::Waker,
    f: impl FnOnce(&Waker) -> Code,
) -> Code {
    // SAFETY: The caller's promise.
    unsafe { waker::with(waker, &generation.foreign_wakers, f) }.unwrap_or(code::INVALID)
}

/// A new handle as an answer.
fn handle(made: Result<Handle, Code>) -> Code {
    made.map_or_else(|code| code, |handle| Code::try_from(handle).unwrap_or(code::LIMIT))
}

/// An answer out of a step that may have failed with a code.
fn answer(step: Result<Code, Code>) -> Code {
    step.unwrap_or_else(|code| code)
}
