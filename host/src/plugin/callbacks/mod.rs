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

use std::{
    any::type_name,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, InstanceId, Slice, Table},
    host::HostCallbacks,
    task,
};

use crate::plugin::{frame, generation::Generation, handles::Held, waker};

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

/// Calls `f` with what the handle stands for.
fn with<T: Held, F: FnOnce(&Rc<Generation>, &T) -> Code>(
    id: InstanceId,
    handle: Handle,
    f: F,
) -> Code {
    frame::current_of(id, type_name::<F>(), |generation| {
        match generation.handles.get::<T>(handle) {
            Ok(held) => f(generation, &held),
            Err(code) => code,
        }
    })
}

/// Polls one step with the waker that the plugin gave. The waker must be as the ABI says.
fn poll(
    generation: &Generation,
    waker: task::Waker,
    step: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<Code>>,
) -> Code {
    // SAFETY: The waker is as the ABI says; the callback's caller promises it.
    unsafe {
        with_waker(generation, waker, |waker| match step(&mut Context::from_waker(waker)) {
            Poll::Pending => code::PENDING,
            Poll::Ready(Ok(code)) => code,
            Poll::Ready(Err(error)) => failure(&error),
        })
    }
}

/// A number of bytes or of things as an answer.
fn count(count: usize) -> Code {
    Code::try_from(count).unwrap_or(Code::MAX)
}

/// The code for an error: the host's own are told apart from the system's.
fn failure(error: &io::Error) -> Code {
    match error.raw_os_error() {
        Some(libc::ECANCELED) => code::CANCELLED,
        Some(errno) => code::from_errno(errno),
        None if error.kind() == io::ErrorKind::ResourceBusy => code::BUSY,
        None => code::from_errno(libc::EIO),
    }
}
