//! A body with an end to it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::{
    error::{Error, Result},
    http::Body,
};

/// A body that fails once it is longer than it may be; see [`Body::limited`].
#[derive(Debug)]
pub struct Limited {
    body: Body,
    left: u64,
}

impl Limited {
    pub(crate) fn new(body: Body, bytes_max: u64) -> Limited {
        Limited { body, left: bytes_max }
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match self.left.checked_sub(data.len() as u64) {
                Some(left) => self.left = left,
                None => {
                    return Poll::Ready(Some(Err(Error::new("the body is longer than it may be"))));
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
