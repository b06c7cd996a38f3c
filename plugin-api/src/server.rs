//! For a server of HTTP: starts exchanges at this instance's site and gives their responses back.
//!
//! The server reads a request's head off the wire, calls [`exchange`], and writes what comes back. Filters, handlers and
//! observers are the host's affair. Dropping the future, or the response's body before its end, cancels everything behind
//! the exchange in the same turn.
//!
//! ```ignore
//! let head = Head { method: "GET", path: "/", ..Head::new(fields.iter()) };
//! match exchange(head, body).await {
//!     Ok(response) => { /* response.status, response.headers, response.body (an http_body::Body) */ }
//!     Err(Refused { reason: Refusal::NotFound, body, .. }) => { /* 404; what is left of the request's body is here */ }
//!     Err(refused) => { /* 500, 502, 503 by refused.reason */ }
//! }
//! ```

// Calls the server's half of the HTTP callbacks.
#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    ffi::c_void,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use medusa_abi::{
    code::{self, Code},
    data::{Handle, NO_HANDLE, Slice},
    http::{
        BODY_BYTES, BODY_EMPTY, BODY_FILE, BodySource, ENDED_ABORTED, ENDED_COMPLETE, ENDED_FAILED,
        ExchangeRecord, Field, HeadSink, LENGTH_UNKNOWN, REQUEST_TAKES_FILES,
        REQUEST_TAKES_UPGRADE, RequestHead, ResponseHead,
    },
    net::SocketAddress,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    address,
    catch::guard,
    connection::Connection,
    error::{Error, Result, io_error},
    file::File,
    handle::Owned,
    host::{bytes_of, host},
    http::{Body, fields},
    registrar::Registrar,
    session::{self, Keeps, Wake},
    source, waker,
};

pub use crate::session::Rest;

/// A permit that depends on more fields than this is not made use of.
const DEPENDENCIES_MAX: usize = 32;

/// Serves connections by sessions, as [`Registrar::session`](crate::Registrar::session) does, with turns that own their connection
/// while they last: a server keeps it in more than one place.
pub fn sessions<S, F>(registrar: &mut Registrar, turn: F)
where
    S: Serialize + DeserializeOwned + Default + 'static,
    F: AsyncFn(Connection, S, Wake) -> Result<Rest<S>> + 'static,
{
    registrar.record(move || session::add_owning_session(turn, Keeps::Nothing));
}

/// As [`sessions`], for a server to which a session that [parks](Rest::Park) is as good as one with `S::default()`: it outlives a crash of
/// the host, goes on with that, and has its next turn with [`Wake::Resumed`]. One that [resumes](Rest::Resume) has something to lose, and is
/// lost.
pub fn renewable_sessions<S, F>(registrar: &mut Registrar, turn: F)
where
    S: Serialize + DeserializeOwned + Default + 'static,
    F: AsyncFn(Connection, S, Wake) -> Result<Rest<S>> + 'static,
{
    registrar.record(move || session::add_owning_session(turn, Keeps::NoState));
}

/// The head of a request, borrowed until the exchange has started. `F` iterates over the fields, names in lower case.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, F> {
    /// As the client wrote it.
    pub method: &'a str,
    /// Whether the connection is under TLS.
    pub tls: bool,
    /// Host and port as the client wrote them.
    pub authority: Option<&'a str>,
    /// The path as it came, beginning with `/`, or `*`.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// The fields, in order.
    pub fields: F,
    /// 10 and 11 for HTTP/1.0 and 1.1, 20 for HTTP/2.
    pub version: u32,
    /// The client asks for another protocol (RFC 9110 section 7.8), and the server lets go of the connection if it is answered 101, by
    /// [`ServerBody::hand_over`].
    pub takes_switch: bool,
    /// The client's address; `None` for a Unix socket.
    pub remote: Option<SocketAddr>,
    /// The address that the client connected to.
    pub local: Option<SocketAddr>,
    /// The connection's number in the log: [`ConnectionInfo::id`](crate::ConnectionInfo).
    pub connection: u64,
}

/// A response, whose head has been copied out of the host.
#[derive(Debug)]
pub struct ServerResponse {
    /// From 100 to 999.
    pub status: StatusCode,
    /// The fields. Framing (`content-length`, `transfer-encoding`) and `date` are the server's to add.
    pub headers: HeaderMap,
    /// The body; its drop ends the exchange.
    pub body: ServerBody,
}

/// Why there is no response, with what is left of the request's body if the exchange never started.
#[derive(Debug)]
pub struct Refused<B> {
    /// Why.
    pub reason: Refusal,
    /// The request's body, unread; `None` if the exchange had started.
    pub body: Option<B>,
    /// The exchange, if it had started: to be ended with the status that the server answers in its place.
    pub unanswered: Option<Unanswered>,
}

/// An exchange that had started, and will have no response. Dropped, it counts as aborted.
#[derive(Debug)]
pub struct Unanswered(Owned);

impl Unanswered {
    /// Tells the observers what the server answered instead: `status`, with `bytes` of body.
    pub fn end(self, status: StatusCode, bytes: u64) {
        end_exchange(self.0.into_raw(), status.as_u16(), Ended::Failed, bytes);
    }
}

/// Why there is no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No route wants the request: 404.
    NotFound,
    /// The host or the handler has as much to do as it may: 503.
    Busy,
    /// The handler failed, panicked, or went away before it answered: 500. The host has logged why.
    Failed,
    /// The request makes no sense to the host (its path cannot be brought into normal form): 400.
    Invalid,
    /// The handler's deadline has passed: 504.
    Timeout,
}

/// How an exchange ended, for the observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The response went out whole.
    Complete,
    /// The client went away, or the connection failed.
    Aborted,
    /// The handler's body failed after the head was out.
    Failed,
}

/// The body of a response. It implements `http_body::Body`.
///
/// It holds the exchange: when it is dropped the observers hear how far it got. For a response whose body is not sent (to
/// HEAD, 304) call [`ServerBody::skip`] before.
#[derive(Debug)]
pub struct ServerBody {
    body: Body,
    /// `None` once it was ended.
    exchange: Option<Handle>,
    status: u16,
    bytes: u64,
    ended: Ended,
}

impl<'a, F> Head<'a, F> {
    /// A head with `fields` for `GET /` over HTTP/1.1, from nowhere: a start for struct update syntax.
    pub fn new(fields: F) -> Head<'a, F> {
        Head {
            method: "GET",
            tls: false,
            authority: None,
            path: "/",
            query: None,
            fields,
            version: 11,
            takes_switch: false,
            remote: None,
            local: None,
            connection: 0,
        }
    }
}

/// An exchange that has started.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, and is taken apart at once"
)]
pub enum Started {
    /// The handler has answered already.
    Answered(ServerResponse),
    /// It has not.
    Waiting(Waiting),
}

/// The wait for a response. Dropping it cancels the exchange.
#[derive(Debug)]
#[must_use = "dropping it cancels the exchange"]
pub struct Waiting(Option<Owned>);

/// Has a request answered by the site of this instance. `body` is the request's; one that `is_end_stream` is not handed on.
///
/// The head is used at the first poll only. If the handler answers at once, the whole exchange happens inside that poll.
/// [`start`] does the same with a smaller future.
///
/// # Errors
/// When nobody answers it; the reason says which status is fit.
pub async fn exchange<'a, F, B>(
    head: Head<'a, F>,
    body: B,
) -> std::result::Result<ServerResponse, Refused<B>>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])>,
    B: http_body::Body + 'static,
    B::Error: std::fmt::Display,
{
    let mut request = Some((head, body));
    let started = std::future::poll_fn(move |context| match request.take() {
        Some((head, body)) => Poll::Ready(start(head, body, context)),
        None => Poll::Pending,
    });
    match started.await? {
        Started::Answered(response) => Ok(response),
        Started::Waiting(waiting) => waiting.await.map_err(|(reason, unanswered)| Refused {
            reason,
            body: None,
            unanswered: Some(unanswered),
        }),
    }
}

/// Starts an exchange, from the poll of a future. If the handler answers at once, it has happened when this returns; else
/// the future is woken.
///
/// # Errors
/// As [`exchange`].
pub fn start<'a, F, B>(
    head: Head<'a, F>,
    body: B,
    context: &Context<'_>,
) -> std::result::Result<Started, Refused<B>>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])>,
    B: http_body::Body + 'static,
    B::Error: std::fmt::Display,
{
    Ok(match begin(head, body, context)? {
        (exchange, Some(head)) => Started::Answered(head.into_response(exchange)),
        (exchange, None) => Started::Waiting(Waiting(Some(exchange))),
    })
}

/// A response that came whole with its head, lent by the host until it is written.
#[derive(Debug)]
pub struct Whole<'a> {
    /// From 100 to 999.
    pub status: StatusCode,
    /// All of the body.
    pub body: WholeBody<'a>,
    fields: &'a [Field],
    reuse: RefCell<Option<Reuse>>,
}

/// The body of a [`Whole`].
#[derive(Clone, Copy, Debug)]
pub enum WholeBody<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes of a file, which [`Begun::File`] gives.
    File(u64),
}

impl<'a> Whole<'a> {
    /// The fields as they came: nobody has looked yet at what names and values consist of.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        // SAFETY: A `Whole` is only made inside of a sink, lives no longer than its call, and so do the fields.
        self.fields.iter().map(|field| unsafe { fields::pair(field) })
    }

    /// Leave to give the response again, if it came with any and was not taken before.
    #[must_use]
    pub fn take_reuse(&self) -> Option<Reuse> {
        self.reuse.take()
    }
}

impl WholeBody<'_> {
    /// How many bytes they are.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            WholeBody::Bytes(bytes) => bytes.len() as u64,
            WholeBody::File(length) => *length,
        }
    }
}

/// A permit, as a server has it: leave to give a response again without an exchange. Its requests are counted by the host all the same.
#[derive(Debug)]
pub struct Reuse {
    handle: Owned,
    depends_on: Vec<Box<[u8]>>,
}

impl Reuse {
    /// The names of the request's fields that the response depends on, in lower case.
    pub fn depends_on(&self) -> impl Iterator<Item = &[u8]> {
        self.depends_on.iter().map(|name| &**name)
    }

    /// Asks whether the response may be given once more. `None` if not, and then never again; else whether somebody wants to hear of it,
    /// by [`Report::send_for`].
    #[must_use]
    pub fn use_once(&self) -> Option<bool> {
        let host = host();
        // SAFETY: Numbers only.
        match unsafe { (host.http.permit_use)(host.instance, self.handle.get()) } {
            code::READY => Some(false),
            1.. => Some(true),
            _ => None,
        }
    }
}

/// An exchange that was begun by [`start_whole`].
#[derive(Debug)]
pub enum Begun {
    /// The response was written, and the exchange has ended.
    Written,
    /// Its head was written; the body is to be sent out of a file.
    File(FileToSend),
    /// The response is another, or is yet to come.
    Started(Box<Started>),
}

/// A body that is a range of a file, for [`Connection::poll_send_file`].
#[derive(Debug)]
pub struct FileToSend {
    /// The file.
    pub file: File,
    /// Where in it the body begins.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
    /// To be ended once it is sent, or could not be.
    pub exchange: Sending,
}

/// An exchange whose response is being sent. Dropped, it counts as aborted.
#[derive(Debug)]
pub struct Sending {
    exchange: Owned,
    status: u16,
}

impl Sending {
    /// Tells the observers how it ended, and after how many bytes of the body.
    pub fn end(self, ended: Ended, bytes: u64) {
        end_exchange(self.exchange.into_raw(), self.status, ended, bytes);
    }
}

/// Starts an exchange for a request without a body, as [`start`] does. A response that comes at once and whole is lent to `write`,
/// which answers how many bytes of its body it has written, or `None` to have the response copied instead; of a file's it writes none.
/// Nothing is allocated for one that is written.
///
/// # Errors
/// When nobody answers it; the reason says which status is fit.
pub fn start_whole<'a, F>(
    mut head: Head<'a, F>,
    context: &Context<'_>,
    mut write: impl FnMut(&Whole<'_>) -> Option<u64>,
) -> std::result::Result<Begun, Refusal>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])>,
{
    let fields: fields::FieldList =
        head.fields.by_ref().map(|(name, value)| fields::field(name, value)).collect();
    let mut abi_head = abi_head(&head, &fields, 0);
    abi_head.flags |= REQUEST_TAKES_FILES;
    let mut taking = Taking { write: Some(&mut write), ..Taking::default() };
    let host = host();
    // SAFETY: The head and all that it points at live during the call, and so does the sink's data.
    let code = unsafe {
        let waker = waker::for_call(context);
        (host.http.exchange_start)(host.instance, &abi_head, BodySource::NONE, taking.sink(), waker)
    };
    if code <= 0 {
        // What was written is sent, though the host could not keep the exchange any longer.
        return taking.written.map(|_| Begun::Written).ok_or_else(|| refusal(code));
    }
    let exchange = code as Handle;
    if let Some((status, bytes)) = taking.written {
        let Some((file, offset, length)) = taking.file else {
            end_exchange(exchange, status, Ended::Complete, bytes);
            return Ok(Begun::Written);
        };
        let exchange = Sending { exchange: Owned::new(exchange), status };
        return Ok(Begun::File(FileToSend { file, offset, length, exchange }));
    }
    let exchange = Owned::new(exchange);
    Ok(Begun::Started(Box::new(match taking.taken {
        Some(head) => Started::Answered(head.into_response(exchange)),
        None => Started::Waiting(Waiting(Some(exchange))),
    })))
}

impl Future for Waiting {
    type Output = std::result::Result<ServerResponse, (Refusal, Unanswered)>;

    /// # Panics
    /// After it was ready.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let exchange = self.0.take().expect("a future is not polled after it was ready");
        let mut taking = Taking::default();
        let host = host();
        // SAFETY: The sink's data outlives the call; the waker is borrowed for it.
        let code = unsafe {
            let waker = waker::for_call(context);
            (host.http.exchange_poll)(host.instance, exchange.get(), taking.sink(), waker)
        };
        match (code, taking.taken) {
            (code::PENDING, _) => {
                self.0 = Some(exchange);
                Poll::Pending
            }
            (0.., Some(head)) => Poll::Ready(Ok(head.into_response(exchange))),
            (code, _) => Poll::Ready(Err((refusal(code), Unanswered(exchange)))),
        }
    }
}

/// Tells the observers of a request that never became an exchange: a malformed one, say.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// As far as they could be read; empty if not.
    pub method: &'a str,
    /// Host and port as the client wrote them.
    pub authority: Option<&'a str>,
    /// As far as it could be read; empty if not.
    pub path: &'a str,
    /// What follows the `?`.
    pub query: Option<&'a str>,
    /// The values of `referer` and `user-agent`.
    pub referer: Option<&'a [u8]>,
    /// As above.
    pub user_agent: Option<&'a [u8]>,
    /// The client's address.
    pub remote: Option<SocketAddr>,
    /// What was answered; 0 for nothing.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// 10, 11 or 20.
    pub version: u32,
    /// The connection's number in the log.
    pub connection: u64,
    /// On the clock of [`Instant`](crate::Instant).
    pub started: crate::Instant,
}

impl Report<'_> {
    /// Tells them, with now as the end.
    ///
    /// # Errors
    /// Off the loop's thread.
    pub fn send(&self) -> Result<()> {
        let (host, record) = (host(), self.record());
        // SAFETY: The record and all that it points at are borrowed for the call.
        let code = unsafe { (host.http.exchange_report)(host.instance, &record) };
        Error::check(code, "cannot report the request").map(drop)
    }

    /// Tells them of a response that was given again, by leave of its handler.
    ///
    /// # Errors
    /// As [`Report::send`].
    pub fn send_for(&self, reuse: &Reuse) -> Result<()> {
        let (host, record) = (host(), self.record());
        // SAFETY: As in `send`.
        let code = unsafe { (host.http.permit_report)(host.instance, reuse.handle.get(), &record) };
        Error::check(code, "cannot report the request").map(drop)
    }

    fn record(&self) -> ExchangeRecord {
        let optional = |bytes: Option<&[u8]>| bytes.map_or(Slice::NONE, Slice::new);
        ExchangeRecord {
            method: Slice::new(self.method.as_bytes()),
            authority: optional(self.authority.map(str::as_bytes)),
            path: Slice::new(self.path.as_bytes()),
            query: optional(self.query.map(str::as_bytes)),
            referer: optional(self.referer),
            user_agent: optional(self.user_agent),
            handler: Slice::NONE,
            remote: self.remote.map_or(SocketAddress::NONE, address::to_abi),
            status: self.status.into(),
            outcome: ENDED_COMPLETE,
            version: self.version,
            flags: 0,
            bytes: self.bytes,
            started_ns: self.started.as_ns(),
            ended_ns: crate::Instant::now().as_ns(),
            connection: self.connection,
            spare: [0; 4],
        }
    }
}

impl ServerBody {
    /// The whole body if it came with the head: it can be written in one go.
    #[must_use]
    pub fn whole(&self) -> Option<&Bytes> {
        self.body.whole()
    }

    /// Drops the body unread; the response counts as sent whole when `self` is dropped.
    pub fn skip(&mut self) {
        self.body = Body::empty();
        self.ended = Ended::Complete;
    }

    /// Ends the exchange with what the server knows better than the body: that the connection failed, say.
    pub fn end(mut self, ended: Ended, bytes: u64) {
        self.ended = ended;
        self.bytes = bytes;
    }
}

impl ServerBody {
    /// After 101 was sent: the connection is from now on that of whoever answered so, with `unread`, what was read of it behind the
    /// request. The exchange has ended then.
    ///
    /// # Errors
    /// When nobody answered 101, or whoever did is gone; the connection is closed.
    pub fn hand_over(mut self, conn: Connection, unread: &[u8]) -> Result<()> {
        let Some(exchange) = self.exchange else {
            return Err(Error::new("the exchange has ended"));
        };
        let host = host();
        let connection = conn.handle();
        // SAFETY: Numbers, and bytes that are borrowed for the call.
        let code = unsafe {
            let unread = Slice::new(unread);
            (host.http.exchange_hand_over)(host.instance, exchange, connection, unread)
        };
        Error::check(code, "cannot hand the connection over")?;
        conn.into_raw();
        self.ended = Ended::Complete;
        Ok(())
    }
}

impl http_body::Body for ServerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(context);
        match &frame {
            Poll::Ready(None) => this.ended = Ended::Complete,
            Poll::Ready(Some(Err(_))) => this.ended = Ended::Failed,
            Poll::Ready(Some(Ok(frame))) => {
                this.bytes += frame.data_ref().map_or(0, Buf::remaining) as u64;
                if this.body.is_end_stream() {
                    this.ended = Ended::Complete;
                }
            }
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ServerBody {
    fn drop(&mut self) {
        let Some(exchange) = self.exchange.take() else { return };
        end_exchange(exchange, self.status, self.ended, self.bytes);
    }
}

/// A response's head as the sink takes it.
struct Taken {
    status: StatusCode,
    headers: HeaderMap,
    body: TakenBody,
}

enum TakenBody {
    Whole(Bytes),
    /// To be pulled; the length as the ABI has it.
    Pulled(u64),
    /// A range of a file: offset and length.
    File(File, u64, u64),
}

impl Taken {
    fn into_response(self, exchange: Owned) -> ServerResponse {
        let exchange = exchange.into_raw();
        let (body, ended) = match self.body {
            TakenBody::Whole(bytes) if bytes.is_empty() => (Body::empty(), Ended::Complete),
            TakenBody::Whole(bytes) => (Body::full(bytes), Ended::Aborted),
            TakenBody::Pulled(length) => (Body::of_lent_exchange(exchange, length), Ended::Aborted),
            TakenBody::File(file, offset, length) => {
                (Body::file(file, offset, length), Ended::Aborted)
            }
        };
        let body = ServerBody {
            body,
            exchange: Some(exchange),
            status: self.status.as_u16(),
            bytes: 0,
            ended,
        };
        ServerResponse { status: self.status, headers: self.headers, body }
    }
}

type Beginning<B> = std::result::Result<(Owned, Option<Taken>), Refused<B>>;

fn begin<'a, F, B>(mut head: Head<'a, F>, body: B, context: &Context<'_>) -> Beginning<B>
where
    F: Iterator<Item = (&'a [u8], &'a [u8])>,
    B: http_body::Body + 'static,
    B::Error: std::fmt::Display,
{
    let fields: fields::FieldList =
        head.fields.by_ref().map(|(name, value)| fields::field(name, value)).collect();
    let empty = body.is_end_stream();
    let body_length = if empty { 0 } else { body.size_hint().exact().unwrap_or(LENGTH_UNKNOWN) };
    let abi_head = abi_head(&head, &fields, body_length);
    let mut kept = None;
    let body_source = if empty {
        kept = Some(body);
        BodySource::NONE
    } else {
        source::into_source(body)
    };
    let mut taking = Taking::default();
    let host = host();
    // SAFETY: The head and all that it points at live during the call, and so does the sink's data.
    let code = unsafe {
        let waker = waker::for_call(context);
        (host.http.exchange_start)(host.instance, &abi_head, body_source, taking.sink(), waker)
    };
    if code > 0 {
        return Ok((Owned::new(code as Handle), taking.taken));
    }
    // SAFETY: The source was made above for this `B`, and the host did not take it.
    let body = kept.unwrap_or_else(|| unsafe { source::take_back::<B>(body_source) });
    Err(Refused { reason: refusal(code), body: Some(body), unanswered: None })
}

fn end_exchange(exchange: Handle, status: u16, ended: Ended, bytes: u64) {
    let outcome = match ended {
        Ended::Complete => ENDED_COMPLETE,
        Ended::Aborted => ENDED_ABORTED,
        Ended::Failed => ENDED_FAILED,
    };
    let host = host();
    // SAFETY: Numbers only.
    unsafe { (host.http.exchange_end)(host.instance, exchange, status.into(), outcome, bytes) };
}

fn refusal(code: Code) -> Refusal {
    match code {
        code::NOT_FOUND => Refusal::NotFound,
        code::BUSY | code::LIMIT => Refusal::Busy,
        code::INVALID => Refusal::Invalid,
        code::TIMEOUT => Refusal::Timeout,
        code => {
            tracing::debug!("an exchange ended without a response: {}", io_error(code));
            Refusal::Failed
        }
    }
}

/// The head as the ABI has it, of what must outlive the call that it is made for.
fn abi_head<F>(head: &Head<'_, F>, fields: &[Field], body_length: u64) -> RequestHead {
    let optional =
        |text: Option<&str>| text.map_or(Slice::NONE, |text| Slice::new(text.as_bytes()));
    RequestHead {
        method: Slice::new(head.method.as_bytes()),
        scheme: Slice::new(if head.tls { b"https" } else { b"http" }),
        authority: optional(head.authority),
        path: Slice::new(head.path.as_bytes()),
        query: optional(head.query),
        fields: fields.as_ptr(),
        field_count: fields.len(),
        version: head.version,
        flags: if head.takes_switch { REQUEST_TAKES_UPGRADE } else { 0 },
        body_length,
        mount_length: 0,
        remote: head.remote.map_or(SocketAddress::NONE, address::to_abi),
        local: head.local.map_or(SocketAddress::NONE, address::to_abi),
        connection: head.connection,
        spare: [0; 4],
    }
}

/// What [`start_whole`] is given.
type WriteWhole<'a> = dyn FnMut(&Whole<'_>) -> Option<u64> + 'a;

/// Where a response's head goes, during a call of the host.
#[derive(Default)]
struct Taking<'a> {
    /// Whoever wants to write a response that comes whole.
    write: Option<&'a mut WriteWhole<'a>>,
    /// It was written: its status, and how many bytes of its body will be sent.
    written: Option<(u16, u64)>,
    /// The file that goes with what was written, with the range of it.
    file: Option<(File, u64, u64)>,
    taken: Option<Taken>,
}

impl Taking<'_> {
    /// The sink, good for as long as `self` is not moved.
    fn sink(&mut self) -> HeadSink {
        HeadSink { data: (&raw mut *self).cast(), head: take_head }
    }
}

/// The permit that came with a response.
///
/// # Safety
/// The head must be the argument of the running call.
unsafe fn reuse(head: &ResponseHead) -> Option<Reuse> {
    let handle = Some(head.permit_handle).filter(|handle| *handle != NO_HANDLE).map(Owned::new)?;
    // SAFETY: The caller's promise.
    let permit = unsafe { head.permit.as_ref() }?;
    let is_list = !permit.fields.is_null() && permit.field_count <= DEPENDENCIES_MAX;
    let names: &[Slice] = match permit.field_count {
        0 => &[],
        // SAFETY: Not null, and the caller's promise.
        count if is_list => unsafe { std::slice::from_raw_parts(permit.fields, count) },
        _ => return None,
    };
    // SAFETY: As above.
    let depends_on = names.iter().map(|name| unsafe { bytes_of(*name) }.into()).collect();
    Some(Reuse { handle, depends_on })
}

unsafe extern "C" fn take_head(data: *mut c_void, head: *const ResponseHead) -> Code {
    guard(|| {
        // SAFETY: `data` comes from `Taking::sink`, whose borrow outlives the host's call that this one is made from; the
        // head is the host's for this call.
        let (taking, head) = unsafe { (&mut *data.cast::<Taking<'_>>(), &*head) };
        let Some(status) =
            u16::try_from(head.status).ok().and_then(|status| StatusCode::from_u16(status).ok())
        else {
            return code::INVALID;
        };
        // SAFETY: As above.
        let fields = unsafe { fields::list(head.fields, head.field_count) };
        // SAFETY: As above.
        let reuse = RefCell::new(unsafe { reuse(head) });
        let file = if head.body == BODY_FILE {
            match File::taken(head.file) {
                Ok(file) => Some((file, head.offset, head.length)),
                Err(_) => return code::FAILED,
            }
        } else {
            None
        };
        let whole = match head.body {
            BODY_EMPTY => Some(WholeBody::Bytes(b"")),
            // SAFETY: As above.
            BODY_BYTES => Some(WholeBody::Bytes(unsafe { bytes_of(head.bytes) })),
            BODY_FILE => Some(WholeBody::File(head.length)),
            _ => None,
        };
        if let (Some(body), Some(write)) = (whole, &mut taking.write)
            && let Some(bytes) = write(&Whole { status, body, fields, reuse })
        {
            taking.written = Some((status.as_u16(), bytes));
            taking.file = file;
            return code::READY;
        }
        // SAFETY: As above.
        let headers = unsafe { fields::copy(fields) };
        let body = match (whole, file) {
            (Some(WholeBody::Bytes(bytes)), _) => TakenBody::Whole(Bytes::copy_from_slice(bytes)),
            (_, Some((file, offset, length))) => TakenBody::File(file, offset, length),
            _ => TakenBody::Pulled(head.length),
        };
        taking.taken = Some(Taken { status, headers, body });
        code::READY
    })
}
