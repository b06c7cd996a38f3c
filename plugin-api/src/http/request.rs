//! A request as a handler gets it: one copy of the head, made into `http` types when somebody looks.

// Reads the ABI's head, and lends it back to the host.
#![allow(unsafe_code)]

use std::{
    cell::OnceCell,
    fmt,
    net::SocketAddr,
    ops::{Deref, DerefMut, Range},
    str,
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Uri, Version, uri::PathAndQuery};
use medusa_abi::{
    data::{Handle, Slice},
    http::{Field, LENGTH_UNKNOWN, REQUEST_TAKES_UPGRADE, RequestHead},
    net::SocketAddress,
};

use crate::{
    address,
    host::bytes_of,
    http::{
        Body,
        fields::{self, FieldList},
    },
};

/// A request.
///
/// It dereferences to `http::Request<Body>`, which is built at the first look. [`path`](Request::path),
/// [`method_str`](Request::method_str), [`header`](Request::header) and the like do without it, and cost next to nothing.
pub struct Request {
    raw: Raw,
    built: OnceCell<Box<http::Request<Body>>>,
    body: Option<Body>,
    exchange: Handle,
}

/// The head in one allocation: a table of the fields' extents, then all of the text.
struct Raw {
    text: Bytes,
    method: Extent,
    scheme: Extent,
    /// Empty when the client named none.
    authority: Extent,
    path: Extent,
    /// With the `?` before it, and right behind the path.
    query: Extent,
    field_count: u32,
    mount_length: u32,
    version: u32,
    flags: u32,
    body_length: u64,
    remote: SocketAddress,
    local: SocketAddress,
    connection: u64,
}

#[derive(Clone, Copy)]
struct Extent {
    start: u32,
    length: u32,
}

/// Two extents of four bytes each way: a field's name and value.
const FIELD_BYTES: usize = 16;

impl Request {
    /// The method, as the client wrote it.
    #[must_use]
    pub fn method_str(&self) -> &str {
        match self.built.get() {
            Some(built) => built.method().as_str(),
            None => self.raw.str(self.raw.method),
        }
    }

    /// The whole path in normal form, percent-encoded, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.built.get() {
            Some(built) => built.uri().path(),
            None => self.raw.str(self.raw.path),
        }
    }

    /// The part of the path that names where the handler is mounted: `/dav` of `/dav/a`; empty at the root.
    #[must_use]
    pub fn mount(&self) -> &str {
        let length = self.raw.mount_length as usize;
        self.raw.str(self.raw.path).get(..length).unwrap_or_default()
    }

    /// The path beneath [`mount`](Request::mount), `/` at least.
    #[must_use]
    pub fn path_beneath(&self) -> &str {
        let length = self.raw.mount_length as usize;
        match self.path().get(length..) {
            None | Some("") => "/",
            Some(path) => path,
        }
    }

    /// What follows the `?`, if there is one.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        match self.built.get() {
            Some(built) => built.uri().query(),
            None => self.raw.str(self.raw.query).strip_prefix('?'),
        }
    }

    /// The first value of a header field; the name in lower case. `None` also for a value that is not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.header_bytes(name)?).ok()
    }

    /// The first value of a header field; the name in lower case.
    #[must_use]
    pub fn header_bytes(&self, name: &str) -> Option<&[u8]> {
        match self.built.get() {
            Some(built) => built.headers().get(name).map(HeaderValue::as_bytes),
            None => {
                let mut fields = self.raw.fields();
                let (_, value) = fields.find(|(field, _)| *field == name.as_bytes())?;
                Some(value)
            }
        }
    }

    /// Host and port as the client wrote them, in the request's target or in `Host`.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        Some(self.raw.str(self.raw.authority)).filter(|authority| !authority.is_empty())
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.raw.str(self.raw.scheme)
    }

    /// The client's address; `None` if it came by a Unix socket.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        address::from_abi(&self.raw.remote)
    }

    /// The address that the client connected to; `None` for a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        address::from_abi(&self.raw.local)
    }

    /// The number of the client's connection in the log.
    #[must_use]
    pub fn connection_id(&self) -> u64 {
        self.raw.connection
    }

    /// How long the body is, if the client said so; 0 for none.
    #[must_use]
    pub fn body_length(&self) -> Option<u64> {
        Some(self.raw.body_length).filter(|length| *length != LENGTH_UNKNOWN)
    }

    /// Whether the client asks for another protocol, by `Upgrade` and `Connection: upgrade`, and the server would let go of the
    /// connection: only then [`Response::switching`](crate::ResponseExt::switching) is an answer.
    #[must_use]
    pub fn takes_switch(&self) -> bool {
        self.raw.flags & REQUEST_TAKES_UPGRADE != 0
    }

    /// The `http` crate's request. Its URI is the whole path and query; host and port are in the field `host`.
    #[must_use]
    pub fn into_http(mut self) -> http::Request<Body> {
        let built = self.built.take().map_or_else(|| self.raw.build(), |built| *built);
        match self.body.take() {
            Some(body) => built.map(|_| body),
            None => built,
        }
    }

    /// The body; the head is dropped.
    #[must_use]
    pub fn into_body(mut self) -> Body {
        self.take_body()
    }

    /// The body, of which the request has an empty one left.
    pub fn take_body(&mut self) -> Body {
        match (self.body.take(), self.built.get_mut()) {
            (Some(body), _) => body,
            (None, Some(built)) => std::mem::take(built.body_mut()),
            (None, None) => Body::empty(),
        }
    }

    /// Copies a head.
    ///
    /// # Safety
    /// `head` must be the argument of the running hook.
    pub(crate) unsafe fn copy(exchange: Handle, head: &RequestHead) -> Option<Request> {
        // SAFETY: The caller's promise.
        let raw = unsafe { Raw::copy(head) }?;
        let body = Some(Body::of_request(exchange, raw.body_length));
        Some(Request { raw, built: OnceCell::new(), body, exchange })
    }

    pub(crate) fn exchange(&self) -> Handle {
        self.exchange
    }

    /// Calls `f` with the head as it is now, for the length of that call.
    pub(crate) fn with_head<R>(&self, body_length: u64, f: impl FnOnce(&RequestHead) -> R) -> R {
        match self.built.get() {
            None => {
                let fields: FieldList =
                    self.raw.fields().map(|(name, value)| fields::field(name, value)).collect();
                f(&self.raw.head(&fields, body_length))
            }
            Some(built) => {
                let fields = fields::lend(built.headers());
                let mut head = self.raw.head(&fields, body_length);
                head.method = Slice::new(built.method().as_str().as_bytes());
                head.path = Slice::new(built.uri().path().as_bytes());
                head.query =
                    built.uri().query().map_or(Slice::NONE, |query| Slice::new(query.as_bytes()));
                if let Some(authority) = built.uri().authority() {
                    head.authority = Slice::new(authority.as_str().as_bytes());
                }
                head.mount_length = head.mount_length.min(head.path.len);
                f(&head)
            }
        }
    }
}

impl Deref for Request {
    type Target = http::Request<Body>;

    fn deref(&self) -> &http::Request<Body> {
        self.built.get_or_init(|| Box::new(self.raw.build()))
    }
}

impl DerefMut for Request {
    fn deref_mut(&mut self) -> &mut http::Request<Body> {
        let body = self.body.take();
        let _ = &**self;
        let built = self.built.get_mut().expect("built by the line before");
        if let Some(body) = body {
            *built.body_mut() = body;
        }
        built
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method_str())
            .field("path", &self.path())
            .field("query", &self.query())
            .finish_non_exhaustive()
    }
}

impl Raw {
    /// # Safety
    /// As [`Request::copy`].
    unsafe fn copy(head: &RequestHead) -> Option<Raw> {
        // SAFETY: The caller's promise, for all of these.
        let (method, scheme, authority, path, query, fields) = unsafe {
            (
                bytes_of(head.method),
                bytes_of(head.scheme),
                bytes_of(head.authority),
                bytes_of(head.path),
                bytes_of(head.query),
                fields::list(head.fields, head.field_count),
            )
        };
        let with_query = !head.query.is_none();
        let table = fields.len() * FIELD_BYTES;
        let mut total =
            table + method.len() + scheme.len() + authority.len() + path.len() + query.len();
        total += usize::from(with_query);
        for field in fields {
            total += field.name.len + field.value.len;
        }
        // Every extent below fits its four bytes if the whole does.
        u32::try_from(total).ok()?;

        let mut text = Vec::with_capacity(total);
        text.resize(table, 0);
        for (index, field) in fields.iter().enumerate() {
            // SAFETY: The caller's promise.
            let (name, value) = unsafe { fields::pair(field) };
            let name = append(&mut text, name);
            let value = append(&mut text, value);
            let row = &mut text[index * FIELD_BYTES..][..FIELD_BYTES];
            for (cell, number) in
                row.chunks_exact_mut(4).zip([name.start, name.length, value.start, value.length])
            {
                cell.copy_from_slice(&number.to_ne_bytes());
            }
        }
        let method = append(&mut text, method);
        let scheme = append(&mut text, scheme);
        let authority = append(&mut text, authority);
        let path = append(&mut text, path);
        let start = u32::try_from(text.len()).ok()?;
        if with_query {
            text.push(b'?');
            text.extend_from_slice(query);
        }
        let query = Extent { start, length: u32::try_from(text.len()).ok()? - start };
        Some(Raw {
            text: Bytes::from(text),
            method,
            scheme,
            authority,
            path,
            query,
            field_count: u32::try_from(fields.len()).ok()?,
            mount_length: u32::try_from(head.mount_length).ok()?.min(path.length),
            version: head.version,
            flags: head.flags,
            body_length: head.body_length,
            remote: head.remote,
            local: head.local,
            connection: head.connection,
        })
    }

    fn range(extent: Extent) -> Range<usize> {
        extent.start as usize..extent.start as usize + extent.length as usize
    }

    fn bytes(&self, extent: Extent) -> &[u8] {
        &self.text[Raw::range(extent)]
    }

    /// Text that the server has checked to be ASCII; empty if it was not.
    fn str(&self, extent: Extent) -> &str {
        str::from_utf8(self.bytes(extent)).unwrap_or_default()
    }

    fn extents(&self) -> impl Iterator<Item = (Extent, Extent)> {
        let table = &self.text[..self.field_count as usize * FIELD_BYTES];
        table.chunks_exact(FIELD_BYTES).map(|row| {
            let number =
                |at: usize| u32::from_ne_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
            (
                Extent { start: number(0), length: number(4) },
                Extent { start: number(8), length: number(12) },
            )
        })
    }

    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.extents().map(|(name, value)| (self.bytes(name), self.bytes(value)))
    }

    fn shared(&self, extent: Extent) -> Bytes {
        self.text.slice(Raw::range(extent))
    }

    /// The `http` crate's request. What the server let through and `http` refuses is left at its default.
    fn build(&self) -> http::Request<Body> {
        let mut request = http::Request::new(Body::empty());
        *request.method_mut() = Method::from_bytes(self.bytes(self.method)).unwrap_or_default();
        let target =
            Extent { start: self.path.start, length: self.path.length + self.query.length };
        if let Ok(target) = PathAndQuery::from_maybe_shared(self.shared(target)) {
            *request.uri_mut() = Uri::from(target);
        }
        *request.version_mut() = match self.version {
            10 => Version::HTTP_10,
            20 => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        request.headers_mut().reserve(self.field_count as usize);
        for (name, value) in self.extents() {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(self.bytes(name)),
                HeaderValue::from_maybe_shared(self.shared(value)),
            ) {
                request.headers_mut().append(name, value);
            }
        }
        request
    }

    /// The head with `fields`, borrowed from `self`.
    fn head(&self, fields: &[Field], body_length: u64) -> RequestHead {
        let optional =
            |bytes: &[u8]| if bytes.is_empty() { Slice::NONE } else { Slice::new(bytes) };
        let query = self.bytes(self.query);
        RequestHead {
            method: Slice::new(self.bytes(self.method)),
            scheme: Slice::new(self.bytes(self.scheme)),
            authority: optional(self.bytes(self.authority)),
            path: Slice::new(self.bytes(self.path)),
            query: query.split_first().map_or(Slice::NONE, |(_, query)| Slice::new(query)),
            fields: fields.as_ptr(),
            field_count: fields.len(),
            version: self.version,
            flags: 0,
            body_length,
            mount_length: self.mount_length as usize,
            remote: self.remote,
            local: self.local,
            connection: self.connection,
            spare: [0; 4],
        }
    }
}

/// Appends `bytes`. The caller has made sure that all of `text` stays below 4 GiB.
fn append(text: &mut Vec<u8>, bytes: &[u8]) -> Extent {
    let extent = Extent { start: text.len() as u32, length: bytes.len() as u32 };
    text.extend_from_slice(bytes);
    extent
}
