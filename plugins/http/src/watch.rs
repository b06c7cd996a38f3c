//! What the parts of one connection know of each other: its input and output, hyper, the request in flight.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
};

use http::StatusCode;
use hyper::body::Incoming;
use medusa_plugin_api::{
    Connection, ConnectionInfo, File, Instant, Result,
    server::{Report, ServerResponse},
};

use crate::{
    ahead::Ahead,
    framing::{Framing, Refused},
    front::Asked,
    refusal::Refusal,
    server::{READ_BYTES, Server},
};

/// How much is read while a handler thinks or a response is silent.
const AHEAD_BYTES: usize = 1024;

/// The state of one connection, shared by [`crate::io::Io`], the service and the driver.
pub(crate) struct Watch {
    pub(crate) server: Rc<Server>,
    /// `None` once it was aborted.
    conn: RefCell<Option<Connection>>,
    pub(crate) info: ConnectionInfo,
    pub(crate) framing: RefCell<Framing>,
    pub(crate) opened: Instant,
    /// Requests that were served without this hyper: by the front, and by those before.
    pub(crate) served_before: Cell<u64>,
    /// What the site was asked by the front, for hyper's first request to go on with.
    pub(crate) asked: RefCell<Option<Asked>>,
    /// The connection is new, or rested for long before this turn, and will rest again: it is not read from once it has been answered,
    /// for that would have it wait in the reactor. One that asks again soon is in a conversation.
    pub(crate) is_cold: bool,
    /// What was refused. Input is not read any more.
    pub(crate) refused: Cell<Option<Refused>>,
    /// A request is with its handler, which has not answered.
    pub(crate) in_service: Cell<bool>,
    /// The body of a response has not been sent whole.
    pub(crate) reply_open: Cell<bool>,
    /// The body of a request has not been read whole.
    pub(crate) upload_open: Cell<bool>,
    /// Bytes of it that its handler has not taken; 0 if the request did not say how long it is.
    pub(crate) upload_left: Cell<u64>,
    /// The body of a request was left unread and is too long to be drained: no other request can follow it.
    pub(crate) given_up: Cell<bool>,
    /// The client has said that this request is its last.
    pub(crate) is_leaving: Cell<bool>,
    /// Hyper has all of a request that asks for another protocol, and is given nothing behind it before that is answered.
    pub(crate) is_held: Cell<bool>,
    /// That request was answered 101: hyper hears no more of it.
    pub(crate) switched: RefCell<Option<ServerResponse>>,
    /// The client waits for 100, which has not been sent.
    pub(crate) continue_due: Cell<bool>,
    /// Hyper was given what is to be sent and has not been flushed since.
    pub(crate) due: Cell<bool>,
    /// Output was written and not flushed.
    pub(crate) dirty: Cell<bool>,
    /// The last attempt to read had to wait.
    pub(crate) read_blocked: Cell<bool>,
    /// Requests that came to hyper's service.
    pub(crate) served: Cell<u64>,
    /// Output waits for the client to read.
    pub(crate) is_stalled: Cell<bool>,
    /// Frames of responses' bodies that hyper was given.
    pub(crate) frames: Cell<u64>,
    /// When the connection came, or was last seen to get on: with a request, with a frame, or to the end of a response.
    pub(crate) active_at: Cell<Instant>,
    /// When the head began that is not whole yet.
    pub(crate) head_since: Cell<Instant>,
    /// The same of the head that the bytes ahead end in, where another generation has seen it begin.
    pub(crate) head_begun: Cell<Option<Instant>>,
    /// When a body last got on, or output began to wait.
    pub(crate) moved_at: Cell<Instant>,
    /// Input that came while hyper was not reading, or behind its request.
    pub(crate) ahead: RefCell<Ahead>,
    /// When the client was seen to have ended its half, or to have gone.
    pub(crate) ended_at: Cell<Option<Instant>>,
    pub(crate) leftover: RefCell<Option<Leftover>>,
}

/// A body that its handler left unread.
pub(crate) enum Leftover {
    /// It is read to its end, or given up after so many more bytes.
    Draining { body: Incoming, bytes_left: u64 },
    /// It is kept until the response is out: where the request asks for an upgrade, hyper lets go of what it has to send
    /// once it sees that nobody wants the body.
    GivenUp(Incoming),
}

impl Watch {
    /// The watch over a connection that is new, or has rested after so many requests.
    ///
    /// # Errors
    /// When it is gone already.
    pub(crate) fn new(
        conn: Connection,
        server: Rc<Server>,
        served_before: u64,
        is_cold: bool,
    ) -> Result<Watch> {
        let now = Instant::now();
        Ok(Watch {
            framing: RefCell::new(Framing::new(server.limits)),
            server,
            info: conn.info()?,
            conn: RefCell::new(Some(conn)),
            opened: now,
            served_before: Cell::new(served_before),
            asked: RefCell::new(None),
            is_cold,
            refused: Cell::new(None),
            in_service: Cell::new(false),
            reply_open: Cell::new(false),
            upload_open: Cell::new(false),
            upload_left: Cell::new(0),
            given_up: Cell::new(false),
            is_leaving: Cell::new(false),
            is_held: Cell::new(false),
            switched: RefCell::new(None),
            continue_due: Cell::new(false),
            due: Cell::new(false),
            dirty: Cell::new(false),
            read_blocked: Cell::new(false),
            is_stalled: Cell::new(false),
            served: Cell::new(0),
            frames: Cell::new(0),
            active_at: Cell::new(now),
            head_since: Cell::new(now),
            head_begun: Cell::new(None),
            moved_at: Cell::new(now),
            ahead: RefCell::default(),
            ended_at: Cell::new(None),
            leftover: RefCell::new(None),
        })
    }

    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|conn| conn.poll_read(context, buffer))
    }

    pub(crate) fn poll_write_vectored(
        &self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.with(|conn| conn.poll_write_vectored(context, pieces, false))
    }

    pub(crate) fn poll_send_file(
        &self,
        context: &mut Context<'_>,
        file: &File,
        offset: u64,
        length: u64,
    ) -> Poll<io::Result<u64>> {
        self.with(|conn| conn.poll_send_file(context, file, offset, length))
    }

    pub(crate) fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|conn| conn.poll_flush(context))
    }

    /// Ready when the client has gone altogether.
    pub(crate) fn poll_hangup(&self, context: &mut Context<'_>) -> Poll<()> {
        match &*self.conn.borrow() {
            Some(conn) => pin!(conn.hangup()).poll(context),
            None => Poll::Ready(()),
        }
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |context: &mut Context<'_>| {
                self.poll_write_vectored(context, &[IoSlice::new(bytes)])
            };
            match poll_fn(write).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }

    /// Ends our half.
    pub(crate) async fn shutdown(&self) -> io::Result<()> {
        poll_fn(|context| self.with(|conn| conn.poll_shutdown(context))).await
    }

    /// Nothing is in flight, and nothing that has come is unserved: the connection could rest.
    pub(crate) fn can_rest(&self) -> bool {
        self.is_free()
            && self.ahead.borrow().is_empty()
            && self.read_blocked.get()
            && self.ended_at.get().is_none()
            && !self.server.is_draining()
    }

    /// Nothing is in flight, and the next request has come, or some of it.
    pub(crate) fn has_next(&self) -> bool {
        self.is_free() && !self.ahead.borrow().is_empty()
    }

    /// Nothing is in flight, here or in hyper, and nothing stands in the way of another request.
    fn is_free(&self) -> bool {
        self.is_idle()
            && self.is_answered()
            && self.is_between()
            && !self.due.get()
            && self.refused.get().is_none()
            && self.leftover.borrow().is_none()
    }

    /// Nothing is in flight, and another generation has taken over: the connection goes there, with what has come and was not served.
    pub(crate) fn can_move(&self) -> bool {
        self.server.is_moving()
            && self.is_idle()
            && !self.due.get()
            && self.asked.borrow().is_none()
            && self.refused.get().is_none()
            && self.ended_at.get().is_none()
            && self.leftover.borrow().is_none()
    }

    /// When the head began that has come in part, if one has.
    pub(crate) fn head_since(&self) -> Option<Instant> {
        let in_head = self.framing.borrow().in_head();
        in_head.then(|| self.head_since.get()).or(self.head_begun.get())
    }

    /// Requests that were served on this connection.
    pub(crate) fn served_in_all(&self) -> u64 {
        self.served_before.get() + self.served.get()
    }

    /// A new hyper begins, with nothing in flight: what is counted of a hyper is counted anew.
    pub(crate) fn begin_hyper(&self) {
        self.served_before.set(self.served_in_all());
        self.served.set(0);
        self.framing.replace(Framing::new(self.server.limits));
        self.is_held.set(false);
    }

    /// Gives bytes back that were read, and are somebody else's to read.
    pub(crate) fn put_back(&self, bytes: &[u8]) {
        self.ahead.borrow_mut().put_back(bytes);
    }

    /// Takes the connection out, to rest.
    pub(crate) fn take(&self) -> Option<Connection> {
        self.conn.take()
    }

    /// Resets the connection.
    pub(crate) fn abort(&self) {
        if let Some(conn) = self.conn.take() {
            conn.abort();
        }
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut Connection) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *self.conn.borrow_mut() {
            Some(conn) => act(conn),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// While a handler thinks or a response is on its way, hyper does not read. This does, so that the end of input is seen;
    /// whatever else comes is kept for whoever reads next.
    pub(crate) fn poll_ahead(&self, context: &mut Context<'_>, now: Instant) {
        let mut ahead = self.ahead.borrow_mut();
        if self.ended_at.get().is_some() || ahead.len() >= READ_BYTES {
            return;
        }
        let mut bytes = [0; AHEAD_BYTES];
        match self.poll_read(context, &mut bytes) {
            Poll::Ready(Ok(count)) if count > 0 => ahead.push(&bytes[..count]),
            Poll::Ready(_) => self.ended_at.set(Some(now)),
            Poll::Pending => {}
        }
    }

    /// Tells the observers of a request that is no exchange.
    pub(crate) fn send(&self, report: &Report<'_>) {
        if let Err(error) = report.send() {
            tracing::debug!(connection = self.info.id, "{error}");
        }
    }

    /// Tells the observers of a request of which nothing more is known than what was answered.
    pub(crate) fn report_unread(&self, status: StatusCode, bytes: u64) {
        self.send(&Report {
            method: "",
            authority: None,
            path: "",
            query: None,
            referer: None,
            user_agent: None,
            remote: self.info.remote,
            status: status.as_u16(),
            bytes,
            version: 11,
            connection: self.info.id,
            started: Instant::now(),
        });
    }

    /// Nothing is in flight: no request, no body either way, no unsent byte. Only true in the same turn of the loop, after
    /// hyper was polled and had to wait.
    pub(crate) fn is_idle(&self) -> bool {
        !(self.in_service.get()
            || self.reply_open.get()
            || self.upload_open.get()
            || self.dirty.get())
    }

    /// The connection is to speak another protocol, and all that came before is out.
    pub(crate) fn is_switching(&self) -> bool {
        let is_out = !(self.reply_open.get() || self.due.get() || self.dirty.get());
        is_out && self.switched.borrow().is_some()
    }

    /// Every head that has come whole was served; hyper may hold back some for a turn.
    pub(crate) fn is_answered(&self) -> bool {
        self.framing.borrow().heads() == self.served.get()
    }

    /// All that has come is requests that were served: no further one, and no part of one.
    pub(crate) fn is_caught_up(&self) -> bool {
        self.is_answered() && self.is_between() && self.ahead.borrow().is_empty()
    }

    /// Of the next head nothing has gone on to hyper.
    fn is_between(&self) -> bool {
        let framing = self.framing.borrow();
        !framing.in_head() && !framing.in_line()
    }

    /// The response in the making is the last one on this connection.
    pub(crate) fn is_last(&self) -> bool {
        self.served_in_all() >= self.server.requests_max
            || self.continue_due.get()
            || self.given_up.get()
            || self.refused.get().is_some_and(|refused| refused.in_body)
            || (self.server.is_draining() && self.is_caught_up())
    }

    /// Nothing more can come that a reset could answer: the client keeps its word, or has ended its half.
    pub(crate) fn is_heard_out(&self) -> bool {
        let is_read = !self.upload_open.get()
            && !self.given_up.get()
            && self.refused.get().is_none()
            && self.leftover.borrow().is_none();
        is_read && (self.ended_at.get().is_some() || (self.is_leaving.get() && self.is_caught_up()))
    }

    /// The rest of a request's body will not be read. No other request can follow it.
    pub(crate) fn give_up(&self, body: Incoming) -> Leftover {
        self.upload_open.set(false);
        self.given_up.set(true);
        Leftover::GivenUp(body)
    }

    /// If nobody reads the rest of the request's body, it is too long to be drained.
    pub(crate) fn is_upload_too_long(&self) -> bool {
        self.upload_open.get() && self.upload_left.get() > self.server.drain_bytes_max
    }

    /// What is wrong with the body of the request in flight.
    pub(crate) fn refused_body(&self) -> Option<Refusal> {
        self.refused.get().filter(|refused| refused.in_body).map(|refused| refused.refusal)
    }

    /// The body of the request in flight is not read any more.
    pub(crate) fn refuse_body(&self, refusal: Refusal) {
        self.refused.set(Some(Refused { at: 0, refusal, in_body: true }));
    }
}
