//! Bodies of the plugin's own, as the host pulls them.

// Implements the hooks of a body source.
#![allow(unsafe_code)]

use std::{ffi::c_void, pin::Pin, task::Poll};

use bytes::Buf;
use http_body::Body;
use medusa_abi::{
    code::{self, Code},
    data::{Slice, Table},
    http::{BodyHooks, BodySource, FRAME_DATA, FRAME_TRAILERS, Frame as AbiFrame, FrameSink},
    task::Context as AbiContext,
};

use crate::{catch::guard, host::fail, http::fields, task::with_context};

/// Boxes a body for the host, which drops it through the hooks once it has taken it.
pub(crate) fn into_source<B>(body: B) -> BodySource
where
    B: Body + 'static,
    B::Error: std::fmt::Display,
{
    let data = Box::into_raw(Box::new(SourceBox { body, done: false }));
    BodySource { data: data.cast(), hooks: Table::new(&SourceBox::<B>::HOOKS) }
}

/// Drops a body that the host did not take.
pub(crate) fn drop_source(source: BodySource) {
    // SAFETY: The table is this module's; the host refused the source, so it is still ours, and not used again.
    unsafe {
        if let Some(hooks) = source.hooks.get() {
            (hooks.drop)(source.data);
        }
    }
}

/// Takes a body back that the host did not take.
///
/// # Safety
/// `source` must come from [`into_source`] with this very `B`, and not have passed to the host.
pub(crate) unsafe fn take_back<B>(source: BodySource) -> B {
    // SAFETY: The caller's promise.
    unsafe { Box::from_raw(source.data.cast::<SourceBox<B>>()).body }
}

struct SourceBox<B> {
    body: B,
    /// Ended, failed or panicked: the body is only dropped from now on.
    done: bool,
}

impl<B> SourceBox<B>
where
    B: Body + 'static,
    B::Error: std::fmt::Display,
{
    const HOOKS: BodyHooks =
        BodyHooks { size: size_of::<BodyHooks>(), pull: Self::pull, drop: Self::drop };

    unsafe extern "C" fn pull(
        data: *mut c_void,
        sink: FrameSink,
        context: *const AbiContext,
    ) -> Code {
        // SAFETY: `data` comes from `into_source` and was not dropped; one pull is outstanding at a time.
        let source = unsafe { &mut *data.cast::<SourceBox<B>>() };
        if source.done {
            return code::END;
        }
        source.done = true;
        guard(|| {
            // SAFETY: The box is never moved out of while it is the host's.
            let body = unsafe { Pin::new_unchecked(&mut source.body) };
            // SAFETY: `context` is this hook's argument.
            let frame = match unsafe { with_context(context, |context| body.poll_frame(context)) } {
                Poll::Pending => {
                    source.done = false;
                    return code::PENDING;
                }
                Poll::Ready(None) => return code::END,
                Poll::Ready(Some(Err(error))) => return fail(&error.to_string()),
                Poll::Ready(Some(Ok(frame))) => frame,
            };
            source.done = false;
            deliver(sink, frame)
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: As in `pull`; the host drops a source once.
            unsafe { drop(Box::from_raw(data.cast::<SourceBox<B>>())) };
            code::READY
        })
    }
}

fn deliver<D: Buf>(sink: FrameSink, frame: http_body::Frame<D>) -> Code {
    let mut out = AbiFrame {
        kind: FRAME_DATA,
        flags: 0,
        bytes: Slice::NONE,
        fields: std::ptr::null(),
        field_count: 0,
        file: 0,
        offset: 0,
        length: 0,
        spare: [0; 2],
    };
    match frame.into_data() {
        Ok(mut data) if data.chunk().len() == data.remaining() => {
            out.bytes = Slice::new(data.chunk());
            // SAFETY: The sink is the running hook's argument; the frame is borrowed for the call.
            let code = unsafe { (sink.frame)(sink.data, &out) };
            data.advance(data.remaining());
            code
        }
        Ok(mut data) => {
            let whole = data.copy_to_bytes(data.remaining());
            out.bytes = Slice::new(&whole);
            // SAFETY: As above.
            unsafe { (sink.frame)(sink.data, &out) }
        }
        Err(frame) => {
            let trailers = frame.into_trailers().unwrap_or_default();
            let fields = fields::lend(&trailers);
            out.kind = FRAME_TRAILERS;
            out.fields = fields.as_ptr();
            out.field_count = fields.len();
            // SAFETY: As above.
            unsafe { (sink.frame)(sink.data, &out) }
        }
    }
}
