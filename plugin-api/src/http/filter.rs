//! Filters: they wrap what is behind them.

// Hands requests on through the host.
#![allow(unsafe_code)]

use std::{ffi::c_void, future::Future};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use medusa_abi::{
    code::{self, Code},
    data::Handle,
    http::{
        BODY_BYTES, BODY_EMPTY, BodySource, HeadSink, LENGTH_UNKNOWN, ROUTE_FILTER, ResponseHead,
    },
};

use crate::{
    catch::guard,
    error::{Error, Result, io_error},
    handle::Owned,
    host::{bytes_of, host},
    http::{Body, Request, Response, ResponseExt, Route, body::Inner, fields, handler::add_route},
    register::Registration,
    source, waker,
};

/// What is behind a filter: other filters, then the handler.
///
/// It is good for one request.
#[derive(Debug)]
pub struct Next(Handle);

impl Next {
    /// Has the request answered, changed or not. The response's body has not been read yet, and is passed on without a
    /// copy if it is not looked at. Where nobody answers, the response is 404.
    ///
    /// A changed path or host finds its own handlers, and the filters there that have not had the request.
    ///
    /// # Errors
    /// When who answers fails.
    pub async fn run(self, mut request: Request) -> Result<Response> {
        let mut body = Some(request.take_body());
        let mut exchange: Option<Owned> = None;
        std::future::poll_fn(move |context| {
            let mut taken = None;
            let host = host();
            let code = match (&exchange, body.take()) {
                (Some(exchange), _) => {
                    // SAFETY: The sink's data outlives the call; the waker is borrowed for it.
                    unsafe {
                        let (sink, waker) = (head_sink(&mut taken), waker::for_call(context));
                        (host.http.exchange_poll)(host.instance, exchange.get(), sink, waker)
                    }
                }
                (None, body) => {
                    let body = body.unwrap_or_default();
                    let length = body.length().unwrap_or(LENGTH_UNKNOWN);
                    let own = match body.inner() {
                        Inner::Empty => true,
                        Inner::Pulled(body) => body.is_request_of(self.0),
                        _ => false,
                    };
                    let body = if own { BodySource::NONE } else { source::into_source(body) };
                    let code = request.with_head(length, |head| {
                        // SAFETY: As above; the head is borrowed for the call.
                        unsafe {
                            let (sink, waker) = (head_sink(&mut taken), waker::for_call(context));
                            (host.http.exchange_next)(
                                host.instance,
                                self.0,
                                head,
                                body,
                                sink,
                                waker,
                            )
                        }
                    });
                    if code <= 0 {
                        source::drop_source(body);
                    } else {
                        exchange = Some(Owned::new(code as Handle));
                    }
                    if code > 0 && taken.is_none() {
                        return std::task::Poll::Pending;
                    }
                    code
                }
            };
            if code == code::PENDING {
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(match (taken, exchange.take()) {
                (Some(taken), Some(exchange)) => Ok(taken.into_response(exchange)),
                _ if code == code::NOT_FOUND => Ok(Response::status_only(StatusCode::NOT_FOUND)),
                _ => Err(Error::from(io_error(code)).context("the request was not answered")),
            })
        })
        .await
    }
}

pub(crate) fn add_filter<F, Fut>(route: &Route, filter: F) -> Result<Registration>
where
    F: Fn(Request, Next) -> Fut + 'static,
    Fut: Future<Output = Result<Response>> + 'static,
{
    let call = move |request: Request| {
        let next = Next(request.exchange());
        filter(request, next)
    };
    add_route(route, ROUTE_FILTER, call)
}

struct Taken {
    status: StatusCode,
    headers: HeaderMap,
    whole: Option<Bytes>,
    length: u64,
}

impl Taken {
    fn into_response(self, exchange: Owned) -> Response {
        let body = match self.whole {
            Some(bytes) => Body::full(bytes),
            None => Body::of_exchange(exchange, self.length),
        };
        let mut response = http::Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

fn head_sink(taken: &mut Option<Taken>) -> HeadSink {
    HeadSink { data: (&raw mut *taken).cast(), head: take_head }
}

unsafe extern "C" fn take_head(data: *mut c_void, head: *const ResponseHead) -> Code {
    guard(|| {
        // SAFETY: `data` comes from `head_sink`, whose borrow outlives the host's call that this one is made from; the
        // head is the host's for this call.
        let (taken, head) = unsafe { (&mut *data.cast::<Option<Taken>>(), &*head) };
        let status =
            u16::try_from(head.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let Some(status) = status else { return code::INVALID };
        // SAFETY: As above.
        let (headers, bytes) = unsafe {
            (fields::copy(fields::list(head.fields, head.field_count)), bytes_of(head.bytes))
        };
        let whole = match head.body {
            BODY_EMPTY => Some(Bytes::new()),
            BODY_BYTES => Some(Bytes::copy_from_slice(bytes)),
            _ => None,
        };
        *taken = Some(Taken { status, headers, whole, length: head.length });
        code::READY
    })
}
