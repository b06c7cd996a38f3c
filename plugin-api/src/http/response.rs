//! Responses: the `http` crate's, with short ways to make the usual ones.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::{
    connection::Connection,
    error::{Error, Result},
    http::{Body, Permit, permit, switch},
};

/// A response: the `http` crate's over a streaming [`Body`]. [`ResponseExt`] has the short ways to make one.
pub type Response = http::Response<Body>;

/// Short ways to make the usual responses; in the prelude.
pub trait ResponseExt: Sized {
    /// 200 with plain text, `text/plain; charset=utf-8`.
    fn text(text: impl Into<Bytes>) -> Self;

    /// 200 with a page, `text/html; charset=utf-8`.
    fn html(page: impl Into<Bytes>) -> Self;

    /// 200 with JSON that is already text, `application/json`.
    fn json(json: impl Into<Bytes>) -> Self;

    /// 200 with bytes of the media type `content_type`.
    fn bytes(content_type: &'static str, bytes: impl Into<Bytes>) -> Self;

    /// `status` with its reason as text; without a body where the status has none (RFC 9110 section 15).
    fn status_only(status: StatusCode) -> Self;

    /// 303: look there, by GET.
    ///
    /// # Errors
    /// When `location` holds what a header field may not.
    fn redirect(location: &str) -> Result<Self>;

    /// 101: the connection speaks `protocol` from now on (RFC 9110 section 7.8), which must be one that the client asks for; good only if
    /// [`Request::takes_switch`](crate::Request::takes_switch) says so. Once the answer is sent, `serve` gets the connection, from the
    /// first byte behind the request on: it is the plugin's then, whatever becomes of the server of HTTP. An error ends it and is
    /// logged. To have it rest in the host, give it to [`Sessions::adopt`](crate::Sessions::adopt).
    ///
    /// # Errors
    /// When `protocol` holds what a header field may not.
    fn switching(
        protocol: &str,
        serve: impl AsyncFnOnce(Connection) -> Result<()> + 'static,
    ) -> Result<Self>;

    /// No response: the handler does not want this request, and the next one is asked. Good only if the request's body has
    /// not been touched.
    fn pass() -> Self;

    /// The same response with the status `status`.
    #[must_use]
    fn with_status(self, status: StatusCode) -> Self;

    /// The same response, which may be given again as `permit` says. A body that is a stream makes it be of no use.
    #[must_use]
    fn reusable(self, permit: Permit) -> Self;

    /// The same response with one header field, in place of any of that name.
    ///
    /// # Errors
    /// When name or value hold what a header field may not.
    fn with_header(self, name: &str, value: &str) -> Result<Self>;
}

/// Whether the response is [`ResponseExt::pass`]'s.
pub(crate) fn is_pass(response: &Response) -> bool {
    response.extensions().get::<Pass>().is_some()
}

/// Marks the response that is none.
#[derive(Clone)]
struct Pass;

impl ResponseExt for Response {
    fn text(text: impl Into<Bytes>) -> Self {
        Self::bytes("text/plain; charset=utf-8", text)
    }

    fn html(page: impl Into<Bytes>) -> Self {
        Self::bytes("text/html; charset=utf-8", page)
    }

    fn json(json: impl Into<Bytes>) -> Self {
        Self::bytes("application/json", json)
    }

    fn bytes(content_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        let mut response = http::Response::new(Body::full(bytes));
        let content_type = HeaderValue::from_static(content_type);
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }

    fn status_only(status: StatusCode) -> Self {
        let bodiless = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless {
            return http::Response::new(Body::empty()).with_status(status);
        }
        Self::text(format!("{status}\n")).with_status(status)
    }

    fn redirect(location: &str) -> Result<Self> {
        Self::status_only(StatusCode::SEE_OTHER).with_header("location", location)
    }

    fn switching(
        protocol: &str,
        serve: impl AsyncFnOnce(Connection) -> Result<()> + 'static,
    ) -> Result<Self> {
        let response = Self::status_only(StatusCode::SWITCHING_PROTOCOLS);
        let mut response = response.with_header("upgrade", protocol)?;
        switch::attach(&mut response, serve);
        Ok(response)
    }

    fn pass() -> Self {
        let mut response = Self::status_only(StatusCode::NOT_FOUND);
        response.extensions_mut().insert(Pass);
        response
    }

    fn with_status(mut self, status: StatusCode) -> Self {
        *self.status_mut() = status;
        self
    }

    fn reusable(mut self, permit: Permit) -> Self {
        permit::attach(&mut self, permit);
        self
    }

    fn with_header(mut self, name: &str, value: &str) -> Result<Self> {
        let wrong = |what: &str| Error::new(format!("{what} cannot stand in a header field"));
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| wrong(&format!("the name {name:?}")))?;
        let value =
            HeaderValue::from_str(value).map_err(|_| wrong(&format!("the value {value:?}")))?;
        self.headers_mut().insert(name, value);
        Ok(self)
    }
}
