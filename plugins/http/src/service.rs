//! From a request as hyper parsed it to a response: what the server answers itself, and what the site is asked for.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use hyper::body::{Body, Incoming};
use medusa_plugin_api::{
    Instant,
    server::{Head, Refusal as NoAnswer, Report, exchange},
};

use crate::{
    page,
    refusal::Refusal,
    reply::{self, Reply},
    upload::Upload,
    watch::Watch,
};

/// The methods that RFC 9110 knows and this server lets through; extensions may answer others.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");

/// Answers one request.
pub(crate) async fn answer(
    request: Request<Incoming>,
    watch: Rc<Watch>,
) -> Result<Response<Reply>, Infallible> {
    watch.served.set(watch.served.get() + 1);
    watch.server.metrics.request();
    let in_service = InService::new(&watch);
    let mut response = if let Some(response) = health_answer(&request, &watch) {
        response
    } else if let Some(response) = own_answer(&request) {
        report(&request.into_parts().0, &response, &watch);
        response
    } else {
        site_answer(request, &watch).await
    };
    drop(in_service);
    let server = &watch.server;
    server.metrics.response(response.status());
    if let Some(name) = &server.name {
        response.headers_mut().entry(header::SERVER).or_insert_with(|| name.clone());
    }
    if let Some(build) = server.build() {
        response.headers_mut().insert("server-build", build);
    }
    if watch.is_last() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// The mark that a request is with its handler, gone when it is answered or dropped.
struct InService<'a>(&'a Watch);

impl<'a> InService<'a> {
    fn new(watch: &'a Watch) -> InService<'a> {
        watch.in_service.set(true);
        InService(watch)
    }
}

impl Drop for InService<'_> {
    fn drop(&mut self) {
        self.0.in_service.set(false);
    }
}

/// What the server answers without asking anybody.
fn own_answer(request: &Request<Incoming>) -> Option<Response<Reply>> {
    let method = request.method();
    Some(match *method {
        // A response to CONNECT with 2xx would make a tunnel of the connection (RFC 9110 section 9.3.6).
        Method::CONNECT => {
            let status = StatusCode::NOT_IMPLEMENTED;
            reply::error(method, status, "This server is no proxy.")
        }
        // RFC 9110 section 9.3.8: it would show the client's fields to whoever made the client send it.
        Method::TRACE => {
            let sentence = "This server does not echo requests.";
            not_allowed(method, METHODS, sentence)
        }
        Method::OPTIONS if request.uri().path() == "*" => {
            let mut response = Response::new(Reply::Empty);
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.headers_mut().insert(header::ALLOW, METHODS);
            response
        }
        _ => return None,
    })
}

fn not_allowed(method: &Method, allowed: HeaderValue, sentence: &str) -> Response<Reply> {
    let mut response = reply::error(method, StatusCode::METHOD_NOT_ALLOWED, sentence);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// The answer to a health check. Observers do not hear of it: it would fill the access log.
fn health_answer(request: &Request<Incoming>, watch: &Watch) -> Option<Response<Reply>> {
    let path = watch.server.health.as_deref()?;
    if path != request.uri().path() {
        return None;
    }
    let method = request.method();
    Some(match *method {
        Method::GET | Method::HEAD => {
            let body = Bytes::from_static(b"ok\n");
            reply::local(method, StatusCode::OK, "text/plain; charset=utf-8", body)
        }
        _ => {
            let allowed = HeaderValue::from_static("GET, HEAD");
            not_allowed(method, allowed, page::sentence(StatusCode::METHOD_NOT_ALLOWED))
        }
    })
}

/// Tells the observers of a request that the site was not asked for, or that nobody there wanted.
fn report(request: &Parts, response: &Response<Reply>, watch: &Watch) {
    let report = Report {
        method: request.method.as_str(),
        path: request.uri.path(),
        remote: watch.info.remote,
        status: response.status().as_u16(),
        bytes: response.body().size_hint().exact().unwrap_or(0),
        version: version(request.version),
        connection: watch.info.id,
        started: Instant::now(),
    };
    watch.send(&report);
}

fn version(version: Version) -> u32 {
    if version == Version::HTTP_10 { 10 } else { 11 }
}

/// What the site answers, or a page that says why it does not.
async fn site_answer(request: Request<Incoming>, watch: &Rc<Watch>) -> Response<Reply> {
    let (parts, body) = request.into_parts();
    let is_continue_due = parts.headers.contains_key(header::EXPECT);
    let upload = Upload::new(body, watch, is_continue_due);
    let server = &watch.server;
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // RFC 9112 section 3.2.2: the authority of an absolute target wins.
    let authority = parts.uri.authority().map(|authority| authority.as_str()).or(host);
    let fields = parts.headers.iter();
    let head = Head {
        method: parts.method.as_str(),
        tls: false,
        authority: authority.filter(|authority| !authority.is_empty()),
        path: parts.uri.path(),
        query: parts.uri.query(),
        fields: fields.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())),
        version: version(parts.version),
        remote: watch.info.remote,
        local: watch.info.local,
        connection: watch.info.id,
    };
    let mut exchange = pin!(exchange(head, upload));
    let answered = poll_fn(|context| {
        // Nothing good can come of a request whose body is broken; dropping the exchange tells its handler.
        if let Some(refusal) = watch.refused_body() {
            return Poll::Ready(Err(refusal));
        }
        exchange.as_mut().poll(context).map(Ok)
    });
    match answered.await {
        Ok(Ok(response)) => reply::from_site(&parts.method, response, watch),
        Ok(Err(refused)) => {
            let response = no_answer(&parts.method, refused.reason);
            match refused.unanswered {
                Some(unanswered) => {
                    let bytes = response.body().size_hint().exact().unwrap_or(0);
                    unanswered.end(response.status(), bytes);
                }
                None => report(&parts, &response, watch),
            }
            response
        }
        Err(refusal) => {
            server.metrics.bad_request();
            refused_body(&parts.method, refusal)
        }
    }
}

fn refused_body(method: &Method, refusal: Refusal) -> Response<Reply> {
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    reply::error(method, status, refusal.sentence())
}

fn no_answer(method: &Method, reason: NoAnswer) -> Response<Reply> {
    let status = match reason {
        NoAnswer::NotFound => StatusCode::NOT_FOUND,
        NoAnswer::Busy => StatusCode::SERVICE_UNAVAILABLE,
        NoAnswer::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        NoAnswer::Invalid => StatusCode::BAD_REQUEST,
        NoAnswer::Timeout => StatusCode::GATEWAY_TIMEOUT,
    };
    reply::error(method, status, page::sentence(status))
}
