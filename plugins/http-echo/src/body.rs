//! The body of a request as that of its response: piece by piece, as fast as the client takes it back.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::{Body as HttpBody, Frame, SizeHint};
use medusa_plugin_api::prelude::*;

/// What of the request's head is said of the response's body.
const FIELDS: [&str; 3] = ["content-type", "content-encoding", "trailer"];

/// A body of which one piece was asked for already.
struct Begun {
    first: Option<Result<Frame<Bytes>>>,
    rest: Body,
    hint: SizeHint,
}

/// Answers with the request's body.
pub(crate) async fn echo(mut request: Request) -> Result<Response> {
    let mut body = request.take_body();
    if request.header("expect").is_some() {
        // The client waits to be told to go on (RFC 9110 section 10.1.1), and the server does so when the body is first asked for.
        let hint = body.size_hint();
        if let Some(first) = body.frame().await {
            body = Body::wrap(Begun { first: Some(first), rest: body, hint });
        }
    }
    let mut response = Response::bytes("application/octet-stream", "");
    *response.body_mut() = body;
    for name in FIELDS {
        if let Some(value) = request.header(name) {
            response = response.with_header(name, value)?;
        }
    }
    // It came from who knows where: no browser is to take it for a page.
    response.with_header("x-content-type-options", "nosniff")
}

impl HttpBody for Begun {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self.first {
            Some(_) => self.hint,
            None => self.rest.size_hint(),
        }
    }
}
