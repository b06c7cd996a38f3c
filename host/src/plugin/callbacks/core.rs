//! `CoreCallbacks`: the instance itself, and wakers.

use std::sync::atomic::Ordering;

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, InstanceId, Slice},
    host::CoreCallbacks,
};
use tracing::{Level, level_filters::LevelFilter};

use crate::plugin::{
    callbacks::{answer, text},
    frame::current,
    misuse::Misuse,
    off_loop::OffLoop,
    offer, sink, waker,
};

pub(super) static CALLBACKS: CoreCallbacks = CoreCallbacks {
    size: size_of::<CoreCallbacks>(),
    log,
    log_level,
    panicked,
    post,
    fail,
    now_ns,
    name,
    handle_drop,
    waker_clone: waker::clone,
    waker_wake: waker::wake,
    waker_wake_by_ref: waker::wake_by_ref,
    waker_drop: waker::drop_clone,
};

unsafe extern "C" fn log(
    id: InstanceId,
    level: u32,
    target: Slice,
    message: Slice,
    fields: Slice,
) -> Code {
    let Some(instance) = OffLoop::find(id) else { return code::GONE };
    // SAFETY: The slices are valid for the call, says the ABI.
    let texts = unsafe { (text(target), text(message), text(fields)) };
    let (Ok(target), Ok(message), Ok(fields)) = texts else { return senseless(&instance, "log") };
    let name = instance.name.as_str();
    macro_rules! write_at {
        ($level:expr) => {
            tracing::event!(target: "plugin", $level, instance = name, module = target, "{message}{}{fields}",
                if fields.is_empty() { "" } else { " " })
        };
    }
    match level {
        1 => write_at!(Level::ERROR),
        2 => write_at!(Level::WARN),
        3 => write_at!(Level::INFO),
        4 => write_at!(Level::DEBUG),
        5 => write_at!(Level::TRACE),
        _ => return senseless(&instance, "log"),
    }
    code::READY
}

/// An argument of a callback for any thread makes no sense.
fn senseless(instance: &OffLoop, callback: &str) -> Code {
    let what = format_args!("an argument of `{callback}` makes no sense");
    instance.misused(Misuse::Argument, what);
    code::INVALID
}

unsafe extern "C" fn log_level(_id: InstanceId) -> Code {
    match LevelFilter::current().into_level() {
        None => 0,
        Some(Level::ERROR) => 1,
        Some(Level::WARN) => 2,
        Some(Level::INFO) => 3,
        Some(Level::DEBUG) => 4,
        Some(Level::TRACE) => 5,
    }
}

unsafe extern "C" fn panicked(
    id: InstanceId,
    message: Slice,
    file: Slice,
    line: u32,
    column: u32,
) -> Code {
    let Some(instance) = OffLoop::find(id) else { return code::GONE };
    // SAFETY: The slices are valid for the call, says the ABI.
    let (message, file) =
        unsafe { (text(message).unwrap_or_default(), text(file).unwrap_or_default()) };
    instance.panics.fetch_add(1, Ordering::Relaxed);
    tracing::error!(instance = instance.name, at = %format_args!("{file}:{line}:{column}"), "the plugin panicked: {message}");
    code::READY
}

unsafe extern "C" fn post(id: InstanceId, bytes: Slice) -> Code {
    let Some(instance) = OffLoop::find(id) else { return code::GONE };
    // SAFETY: The slice is valid for the call, says the ABI.
    match unsafe { bytes.get() } {
        None => senseless(&instance, "post"),
        Some(bytes) if instance.post(bytes) => code::READY,
        Some(_) => code::LIMIT,
    }
}

unsafe extern "C" fn fail(id: InstanceId, reason: Slice) -> Code {
    current(id, |generation| {
        // SAFETY: The slice is valid for the call, says the ABI.
        answer(unsafe { text(reason) }.map(|reason| {
            generation.set_said(reason);
            code::READY
        }))
    })
}

unsafe extern "C" fn now_ns(id: InstanceId) -> Code {
    current(id, |generation| {
        Code::try_from(generation.instance.registry.clock.now_ns()).unwrap_or(Code::MAX)
    })
}

unsafe extern "C" fn name(id: InstanceId, to: ByteSink) -> Code {
    // SAFETY: The sink is valid for the call, says the ABI.
    current(id, |generation| unsafe { sink::write_to(to, generation.name().as_bytes()) })
}

unsafe extern "C" fn handle_drop(id: InstanceId, handle: Handle) -> Code {
    current(id, |generation| {
        let handles = &generation.handles;
        let removed = handles.remove(handle).inspect_err(|_| {
            handles.misused(
                Misuse::Drop,
                format_args!(
                    "it dropped a handle that is not there: twice, or one that was never its own"
                ),
            );
        });
        answer(removed.map(|resource| {
            offer::dropped(resource);
            code::READY
        }))
    })
}
