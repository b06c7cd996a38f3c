//! The body of a request on its way to the host.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::{
    refusal::Refusal,
    watch::{Leftover, Watch},
};

/// A request's body. What its handler leaves of it is given back to the connection, which drains it.
pub(crate) struct Upload {
    body: Option<Incoming>,
    watch: Rc<Watch>,
}

impl Upload {
    pub(crate) fn new(body: Incoming, watch: &Rc<Watch>, is_continue_due: bool) -> Upload {
        if body.is_end_stream() {
            return Upload { body: None, watch: watch.clone() };
        }
        watch.upload_open.set(true);
        watch.upload_left.set(body.size_hint().lower());
        watch.continue_due.set(is_continue_due);
        Upload { body: Some(body), watch: watch.clone() }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(context);
        // Where the response is out already, hyper does not end a body of a known length before the next request.
        let (left, is_over) = (body.size_hint().lower(), body.is_end_stream());
        self.watch.upload_left.set(left);
        // This first pull is what makes hyper send the 100.
        self.watch.continue_due.set(false);
        if matches!(frame, Poll::Ready(Some(Err(_)))) && self.watch.refused.get().is_none() {
            // The end of the input is all that hyper finds first.
            self.watch.refuse_body(Refusal::BodyCut);
        }
        if is_over || matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
            self.watch.upload_open.set(false);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(body) = self.body.take() else { return };
        let watch = &self.watch;
        if body.is_end_stream() {
            watch.upload_open.set(false);
            return;
        }
        // A client may wait for a 100 that nobody wants to send any more, or have a body too long to be worth the wait.
        let bytes_left = watch.server.drain_bytes_max;
        let leftover = if body.size_hint().lower() <= bytes_left && !watch.continue_due.get() {
            Leftover::Draining { body, bytes_left }
        } else {
            watch.give_up(body)
        };
        watch.leftover.replace(Some(leftover));
    }
}
