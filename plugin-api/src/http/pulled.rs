//! Bodies that the host has: each frame is asked for, one at a time.

// Pulls frames through the ABI's sinks.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use medusa_abi::{
    code::{self, Code},
    data::{Handle, InstanceId},
    http::{FRAME_TRAILERS, Frame as AbiFrame, FrameSink, LENGTH_UNKNOWN},
    task::Waker as AbiWaker,
};

use crate::{
    catch::guard,
    error::{Error, Result, io_error},
    host::{bytes_of, host},
    http::fields,
    waker,
};

/// One body of an exchange. Numbers only: it owns nothing.
pub(crate) struct Pulled {
    exchange: Handle,
    of: Of,
    /// Bytes that are left, or [`LENGTH_UNKNOWN`].
    left: u64,
    ended: bool,
    touched: bool,
}

/// Whose body.
enum Of {
    Request,
    Response,
}

impl Pulled {
    pub(crate) fn request(exchange: Handle, length: u64) -> Pulled {
        Pulled { exchange, of: Of::Request, left: length, ended: false, touched: false }
    }

    pub(crate) fn response(exchange: Handle, length: u64) -> Pulled {
        Pulled { exchange, of: Of::Response, left: length, ended: false, touched: false }
    }

    /// Whether the body is the untouched one of the request of `exchange`, which can be passed on whole.
    pub(crate) fn is_request_of(&self, exchange: Handle) -> bool {
        matches!(self.of, Of::Request) && self.exchange == exchange && !self.touched
    }

    /// Whether a frame was asked for: from then on the body cannot be passed on whole.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended || self.left == 0
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.left {
            LENGTH_UNKNOWN => SizeHint::default(),
            left => SizeHint::with_exact(left),
        }
    }

    pub(crate) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.touched = true;
        let host = host();
        let pull: Pull = match self.of {
            Of::Request => host.http.request_pull,
            Of::Response => host.http.exchange_pull,
        };
        let mut frame = None;
        // SAFETY: The sink's data outlives the call and is what `take_frame` expects; the waker is borrowed for it.
        let code = unsafe {
            pull(host.instance, self.exchange, frame_sink(&mut frame), waker::for_call(context))
        };
        if code == code::PENDING {
            return Poll::Pending;
        }
        // Set unless another frame may follow.
        self.ended = true;
        let frame = match (code, frame) {
            (code::END, _) => return Poll::Ready(None),
            (0.., Some(frame)) => frame,
            (0.., None) => {
                return Poll::Ready(Some(Err(Error::new("the host gave no frame of the body"))));
            }
            (code, _) => {
                let error = Error::from(io_error(code)).context("cannot read the rest of the body");
                return Poll::Ready(Some(Err(error)));
            }
        };
        if let Some(data) = frame.data_ref()
            && self.left != LENGTH_UNKNOWN
        {
            self.left = self.left.saturating_sub(data.len() as u64);
        }
        self.ended = frame.is_trailers();
        Poll::Ready(Some(Ok(frame)))
    }
}

type Pull = unsafe extern "C" fn(InstanceId, Handle, FrameSink, AbiWaker) -> Code;

fn frame_sink(frame: &mut Option<Frame<Bytes>>) -> FrameSink {
    FrameSink { data: (&raw mut *frame).cast(), frame: take_frame }
}

unsafe extern "C" fn take_frame(data: *mut c_void, frame: *const AbiFrame) -> Code {
    guard(|| {
        // SAFETY: `data` comes from `frame_sink`, whose borrow outlives the host's call that this one is made from; the
        // frame is the host's for this call.
        unsafe {
            let target = &mut *data.cast::<Option<Frame<Bytes>>>();
            let frame = &*frame;
            *target = Some(if frame.kind == FRAME_TRAILERS {
                Frame::trailers(copy_trailers(frame))
            } else {
                Frame::data(Bytes::copy_from_slice(bytes_of(frame.bytes)))
            });
        }
        code::READY
    })
}

/// # Safety
/// As [`fields::list`].
unsafe fn copy_trailers(frame: &AbiFrame) -> HeaderMap {
    // SAFETY: The caller's promise.
    unsafe { fields::copy(fields::list(frame.fields, frame.field_count)) }
}
