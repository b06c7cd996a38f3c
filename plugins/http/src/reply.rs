//! The body of a response on its way to hyper, and what is done to a response's head before it goes there.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use hyper::body::{Body, Frame, SizeHint};
use medusa_plugin_api::{
    Error,
    server::{ServerBody, ServerResponse},
};

use crate::{page, watch::Watch};

/// A response's body.
pub(crate) enum Reply {
    Empty,
    Local(Bytes),
    Site(Site),
}

/// A body from an extension.
pub(crate) struct Site {
    body: ServerBody,
    /// Bytes that may still come, where the head has said how many.
    left: Option<u64>,
    watch: Rc<Watch>,
}

/// A response with a body of our own.
pub(crate) fn local(
    method: &Method,
    status: StatusCode,
    kind: &'static str,
    body: Bytes,
) -> Response<Reply> {
    let length = body.len();
    let mut response = Response::new(Reply::Empty);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.reserve(6);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    match method {
        &Method::HEAD => {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        _ => *response.body_mut() = Reply::Local(body),
    }
    response
}

/// The page for `status`.
pub(crate) fn error(method: &Method, status: StatusCode, sentence: &str) -> Response<Reply> {
    local(method, status, "text/html; charset=utf-8", page::html(status, sentence))
}

/// An extension's response, made fit to be sent.
pub(crate) fn from_site(
    method: &Method,
    response: ServerResponse,
    watch: &Rc<Watch>,
) -> Response<Reply> {
    let ServerResponse { status, mut headers, mut body } = response;
    // RFC 9110 section 15.2: they are the server's to send, and the final one is yet to come.
    if status.is_informational() {
        tracing::warn!(status = status.as_u16(), "an extension answered with an interim status");
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return error(method, status, page::sentence(status));
    }
    remove_hop_by_hop(&mut headers);
    let declared = take_length(&mut headers);
    let exact = body.size_hint().exact();
    let bodiless = matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT
    );
    let reply = if method == Method::HEAD || bodiless {
        body.skip();
        // RFC 9110 section 9.3.2: the length that GET would have. An empty body of a HEAD says nothing about that.
        let length = declared.or(exact.filter(|length| *length > 0));
        if let Some(length) = length.filter(|_| !bodiless) {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        drop(body);
        Reply::Empty
    } else if body.is_end_stream() {
        Reply::Empty
    } else {
        watch.reply_open.set(true);
        Reply::Site(Site { body, left: exact.or(declared), watch: watch.clone() })
    };
    let mut response = Response::new(reply);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

impl Reply {
    /// Nothing more is asked for to send it.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Reply::Empty | Reply::Local(_) => true,
            Reply::Site(site) => site.body.whole().is_some(),
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let reply = self.get_mut();
        match reply {
            Reply::Empty => Poll::Ready(None),
            Reply::Local(bytes) => {
                let bytes = std::mem::take(bytes);
                *reply = Reply::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Reply::Site(site) => site.poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Reply::Empty => true,
            Reply::Local(bytes) => bytes.is_empty(),
            Reply::Site(site) => site.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Empty => SizeHint::with_exact(0),
            Reply::Local(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Reply::Site(site) => site.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Site {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.watch.frames.set(self.watch.frames.get() + 1);
        self.watch.due.set(true);
        let Some(Ok(frame)) = frame else {
            let is_short = frame.is_none() && self.left.is_some_and(|left| left > 0);
            if is_short {
                // hyper resets the connection for an error; ending here would leave the client waiting.
                return Poll::Ready(Some(Err(Error::new(
                    "the body is shorter than its length says",
                ))));
            }
            return Poll::Ready(frame);
        };
        let frame = match frame.into_data() {
            Ok(data) => self.count(data),
            Err(frame) => frame,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    /// Counts bytes, and cuts off what is too much.
    fn count(&mut self, mut data: Bytes) -> Frame<Bytes> {
        if let Some(left) = &mut self.left {
            if data.len() as u64 > *left {
                tracing::warn!("an extension's body is longer than its length says and was cut");
                data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            }
            *left -= data.len() as u64;
        }
        self.watch.server.metrics.bytes(data.len() as u64);
        Frame::data(data)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.watch.reply_open.set(false);
    }
}

/// Drops what concerns one hop only (RFC 9110 section 7.6.1): the connection is the server's affair.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    const NAMES: [HeaderName; 5] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        HeaderName::from_static("keep-alive"),
    ];
    if !headers.keys().any(|name| NAMES.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in NAMES.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Takes `content-length` out, for hyper writes one from the body's length.
fn take_length(headers: &mut HeaderMap) -> Option<u64> {
    if !headers.contains_key(header::CONTENT_LENGTH) {
        return None;
    }
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter().map(|value| {
        let value = value.to_str().ok()?;
        value.bytes().all(|byte| byte.is_ascii_digit()).then(|| value.parse().ok())?
    });
    let first = values.next().flatten();
    let length = if values.all(|value| value == first) { first } else { None };
    headers.remove(header::CONTENT_LENGTH);
    length
}
