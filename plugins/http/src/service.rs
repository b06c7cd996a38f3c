//! From a request as hyper parsed it to a response: what the server answers itself, and what the site is asked for.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts,
};
use hyper::body::{Body, Incoming};
use medusa_plugin_api::{
    Instant,
    server::{Ended, Head, Refusal as NoAnswer, Report, ServerResponse, Started, Waiting, start},
};

use crate::{
    front::Asked,
    page,
    refusal::Refusal,
    reply::{self, Reply},
    upload::Upload,
    watch::Watch,
};

/// The methods that RFC 9110 knows and this server lets through; extensions may answer others.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS");

/// The answering of one request. A named future and a small one: hyper moves it to the heap and back for each request.
pub(crate) struct Answer {
    watch: Rc<Watch>,
    state: State,
    /// The request asks for another protocol, and whoever answers it may let it have one.
    takes_switch: bool,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box for each request would cost more than the copy"
)]
enum State {
    New(Request<Incoming>),
    /// An extension has the request.
    Waiting {
        waiting: Waiting,
        method: Method,
    },
    Done,
}

/// Answers one request.
pub(crate) fn answer(request: Request<Incoming>, watch: Rc<Watch>) -> Answer {
    watch.served.set(watch.served.get() + 1);
    watch.in_service.set(true);
    watch.is_leaving.set(is_last(&request));
    watch.server.metrics.request();
    // The framing has found out the same; it holds back what follows the last request that hyper was given.
    let takes_switch = watch.is_held.get()
        && says(&request, "upgrade")
        && request.headers().contains_key(header::UPGRADE)
        && request.version() == Version::HTTP_11
        && request.body().is_end_stream();
    Answer { watch, state: State::New(request), takes_switch }
}

/// Whether the client sends no request after this one (RFC 9112 section 9.3).
fn is_last(request: &Request<Incoming>) -> bool {
    says(request, "close")
        || (request.version() == Version::HTTP_10 && !says(request, "keep-alive"))
}

/// Whether an option stands in `Connection`.
fn says(request: &Request<Incoming>, option: &str) -> bool {
    let values = request.headers().get_all(header::CONNECTION).into_iter();
    let mut options = values.filter_map(|value| value.to_str().ok()).flat_map(|it| it.split(','));
    options.any(|it| it.trim().eq_ignore_ascii_case(option))
}

impl Future for Answer {
    type Output = Result<Response<Reply>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let answered = match std::mem::replace(&mut this.state, State::Done) {
            State::New(request) => this.begin(request, context),
            State::Waiting { waiting, method } => this.go_on(waiting, method, context),
            State::Done => Poll::Pending,
        };
        answered.map(|response| Ok(this.finish(response)))
    }
}

impl Answer {
    fn begin(
        &mut self,
        request: Request<Incoming>,
        context: &mut Context<'_>,
    ) -> Poll<Response<Reply>> {
        let health = health_answer(&request, &self.watch);
        let is_observed = health.is_none();
        let Some(response) = health.or_else(|| own_answer(&request)) else {
            return self.ask_site(request, context);
        };
        let (parts, upload) = self.take_apart(request);
        drop(upload);
        if is_observed {
            report(&parts, &response, &self.watch);
        }
        Poll::Ready(response)
    }

    /// Starts an exchange at the site.
    fn ask_site(
        &mut self,
        request: Request<Incoming>,
        context: &mut Context<'_>,
    ) -> Poll<Response<Reply>> {
        let (parts, upload) = self.take_apart(request);
        if let Some(refusal) = self.watch.refused_body() {
            let response = self.refuse(&parts.method, refusal);
            report(&parts, &response, &self.watch);
            return Poll::Ready(response);
        }
        let started = match self.watch.asked.take() {
            // The front has asked already, and this is the request that it asked for.
            Some(Asked::Started(started)) => match *started {
                // Whoever waits may have been woken in vain since.
                Started::Waiting(waiting) => return self.go_on(waiting, parts.method, context),
                answered => Ok(answered),
            },
            Some(Asked::Refused(reason)) => Err(reason),
            None => {
                let head = Head { takes_switch: self.takes_switch, ..head(&parts, &self.watch) };
                start(head, upload, context).map_err(|refused| refused.reason)
            }
        };
        match started {
            Ok(Started::Answered(response)) => self.site_answer(&parts.method, response),
            Ok(Started::Waiting(waiting)) => {
                self.state = State::Waiting { waiting, method: parts.method };
                Poll::Pending
            }
            Err(reason) => {
                let response = self.no_answer(&parts.method, reason);
                report(&parts, &response, &self.watch);
                Poll::Ready(response)
            }
        }
    }

    fn take_apart(&self, request: Request<Incoming>) -> (Parts, Upload) {
        let (parts, body) = request.into_parts();
        let is_continue_due = parts.headers.contains_key(header::EXPECT);
        let upload = Upload::new(body, &self.watch, is_continue_due);
        (parts, upload)
    }

    fn go_on(
        &mut self,
        mut waiting: Waiting,
        method: Method,
        context: &mut Context<'_>,
    ) -> Poll<Response<Reply>> {
        // Nothing good can come of a request whose body is broken; dropping the exchange tells its handler.
        if let Some(refusal) = self.watch.refused_body() {
            return Poll::Ready(self.refuse(&method, refusal));
        }
        match Pin::new(&mut waiting).poll(context) {
            Poll::Pending => {
                self.state = State::Waiting { waiting, method };
                Poll::Pending
            }
            Poll::Ready(Ok(response)) => self.site_answer(&method, response),
            Poll::Ready(Err((reason, unanswered))) => {
                let response = self.no_answer(&method, reason);
                let bytes = response.body().size_hint().exact().unwrap_or(0);
                unanswered.end(response.status(), bytes);
                Poll::Ready(response)
            }
        }
    }

    /// What an extension answers, unless the body broke while it read. For 101 hyper waits in vain: the driver sees to that.
    fn site_answer(&self, method: &Method, response: ServerResponse) -> Poll<Response<Reply>> {
        if let Some(refusal) = self.watch.refused_body() {
            response.body.end(Ended::Failed, 0);
            return Poll::Ready(self.refuse(method, refusal));
        }
        // RFC 9110 section 15.2.2: the answer has to say which protocol it is.
        if self.takes_switch
            && response.status == StatusCode::SWITCHING_PROTOCOLS
            && response.headers.contains_key(header::UPGRADE)
        {
            self.watch.switched.replace(Some(response));
            return Poll::Pending;
        }
        Poll::Ready(reply::from_site(method, response, &self.watch))
    }

    /// What the server answers where no extension does: for the body's fault, or for their own.
    fn no_answer(&self, method: &Method, reason: NoAnswer) -> Response<Reply> {
        match self.watch.refused_body() {
            Some(refusal) => self.refuse(method, refusal),
            None => no_answer(method, reason),
        }
    }

    fn refuse(&self, method: &Method, refusal: Refusal) -> Response<Reply> {
        self.watch.server.metrics.bad_request();
        let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
        reply::error(method, status, refusal.sentence())
    }

    /// Adds what every response has.
    fn finish(&self, mut response: Response<Reply>) -> Response<Reply> {
        let server = &self.watch.server;
        self.watch.in_service.set(false);
        self.watch.due.set(true);
        if self.takes_switch {
            // It stays with HTTP.
            self.watch.is_held.set(false);
        }
        // A body that comes in pieces may be made of the request's.
        let leaves_upload = response.body().is_whole() && self.watch.is_upload_too_long();
        server.metrics.response(response.status());
        let headers = response.headers_mut();
        if let Some(name) = &server.name {
            headers.insert(header::SERVER, name.clone());
        }
        if let Some(build) = server.build() {
            headers.insert("server-build", build);
        }
        if leaves_upload || self.watch.is_last() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.watch.in_service.set(false);
    }
}

/// The head as the host takes it.
fn head<'a>(
    parts: &'a Parts,
    watch: &Watch,
) -> Head<'a, impl Iterator<Item = (&'a [u8], &'a [u8])>> {
    // RFC 9112 section 3.2.2: the authority of an absolute target takes the place of `Host`.
    let absolute = parts.uri.authority().map(|authority| authority.as_str());
    let host = || parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = absolute.or_else(host);
    let added = absolute.filter(|_| !parts.headers.contains_key(header::HOST));
    let added = added.map(|host| (b"host".as_slice(), host.as_bytes()));
    let fields = parts.headers.iter().map(move |(name, value)| match absolute {
        Some(host) if name == header::HOST => (name.as_str().as_bytes(), host.as_bytes()),
        _ => (name.as_str().as_bytes(), value.as_bytes()),
    });
    Head {
        method: parts.method.as_str(),
        tls: false,
        authority: authority.filter(|authority| !authority.is_empty()),
        path: parts.uri.path(),
        query: parts.uri.query(),
        fields: fields.chain(added),
        version: version(parts.version),
        takes_switch: false,
        remote: watch.info.remote,
        local: watch.info.local,
        connection: watch.info.id,
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
    let head = head(request, watch);
    let text = |name: &HeaderName| request.headers.get(name).map(HeaderValue::as_bytes);
    let report = Report {
        method: head.method,
        authority: head.authority,
        path: head.path,
        query: head.query,
        referer: text(&header::REFERER),
        user_agent: text(&header::USER_AGENT),
        remote: watch.info.remote,
        status: response.status().as_u16(),
        bytes: response.body().size_hint().exact().unwrap_or(0),
        version: head.version,
        connection: watch.info.id,
        started: Instant::now(),
    };
    watch.send(&report);
}

fn version(version: Version) -> u32 {
    if version == Version::HTTP_10 { 10 } else { 11 }
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
