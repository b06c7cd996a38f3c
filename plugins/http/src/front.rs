//! Ahead of hyper: plain requests are answered from the buffer that they were read into, as long as their answers come at once and
//! whole. Several that came together are answered in one write. For any other request hyper is made, and given its bytes untouched.
//!
//! A connection that waits for its next request is here, and has no hyper: it has nothing at all.

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll, ready},
};

use http::StatusCode;
use medusa_plugin_api::{
    File, Instant,
    server::{Begun, Ended, FileToSend, Head, Refusal, Report, Sending, Started, start_whole},
};

use crate::{
    alarm::Alarm,
    cache,
    connection::{Deadline, End, due},
    io::{note_stall, poll_read},
    plain::Plain,
    render,
    repeat::Repeat,
    server::{Place, Server},
    watch::Watch,
};

/// After so many requests of one read the others have a turn.
const REQUESTS_PER_TURN: u32 = 64;

/// After so many reads as well: a client that always sends the next request in time cannot hold the loop.
const READS_PER_TURN: u32 = 16;

/// After so many bytes of responses they are written, before more are made.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// What comes after the front.
pub(crate) enum Next {
    /// A request that is hyper's, whose bytes lie ahead.
    Hyper,
    End(End),
}

/// A plain request that the site was asked for already, and whose answer hyper has to send.
pub(crate) enum Asked {
    Started(Box<Started>),
    Refused(Refusal),
}

/// How far the requests of one read were answered.
enum Served {
    All,
    /// The rest waits for the next turn.
    Some,
    /// The rest is hyper's.
    HyperIsNext,
    /// All that the client wants to have answered.
    Last,
}

/// Responses that the client has not taken yet.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    at: usize,
    /// The body that follows them.
    file: Option<Outgoing>,
}

/// A body that is sent out of a file.
struct Outgoing {
    file: Rc<File>,
    offset: u64,
    length: u64,
    sent: u64,
    /// The exchange, unless the response is given again.
    exchange: Option<Sending>,
}

/// What became of one request.
enum Answered {
    /// It is written.
    Written,
    /// Its head is written.
    File(Outgoing),
    /// It is hyper's to answer.
    ByHyper(Asked),
}

/// Answers plain requests until something else is to be done.
pub(crate) async fn serve(watch: &Rc<Watch>, place: &Place, alarm: &mut Alarm) -> Next {
    let (mut unsent, mut repeat) = (Unsent::default(), Repeat::default());
    let (mut is_hyper_next, mut is_over) = (false, false);
    let served_at_first = watch.served_in_all();
    poll_fn(|context| {
        if place.keep_waker(context.waker()) {
            alarm.reset();
        }
        let now = Instant::of_poll(context);
        for _ in 0..READS_PER_TURN {
            match unsent.poll(watch, context) {
                Poll::Ready(Ok(())) if is_over => return Poll::Ready(Next::End(End::Done)),
                Poll::Ready(Ok(())) if watch.can_move() => {
                    return Poll::Ready(Next::End(End::Move));
                }
                Poll::Ready(Ok(())) if is_hyper_next => return Poll::Ready(Next::Hyper),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::End(End::Abort)),
                Poll::Pending => return wait(watch, alarm, now, context),
            }
            if watch.is_cold && watch.served_in_all() > served_at_first {
                // What comes next brings the connection's next turn.
                watch.read_blocked.set(true);
                if watch.can_rest() {
                    return Poll::Ready(Next::End(End::Rest));
                }
            }
            match turn(watch, &mut unsent, &mut repeat, now, context) {
                Poll::Ready(Ok(Some(Served::All))) => {}
                Poll::Ready(Ok(Some(Served::HyperIsNext))) => is_hyper_next = true,
                Poll::Ready(Ok(Some(Served::Last))) => {
                    watch.is_leaving.set(true);
                    is_over = true;
                }
                Poll::Ready(Ok(Some(Served::Some))) => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                // The client ends its half, or is gone: with nothing in flight that is all.
                Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(Next::End(End::Done)),
                Poll::Pending => return wait(watch, alarm, now, context),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Has the alarm wake the task when the next deadline passes, if it has not.
fn wait(watch: &Watch, alarm: &mut Alarm, now: Instant, context: &mut Context<'_>) -> Poll<Next> {
    let end = match due(watch, alarm, now, context) {
        None => return Poll::Pending,
        Some(Deadline::Rest) => End::Rest,
        Some(Deadline::Abort) => End::Abort,
        // Nothing but idling and sending takes time here.
        Some(_) => End::Idle,
    };
    Poll::Ready(Next::End(end))
}

/// Reads once, and answers what has come; `None` at the end of the input.
fn turn(
    watch: &Rc<Watch>,
    unsent: &mut Unsent,
    repeat: &mut Repeat,
    now: Instant,
    context: &mut Context<'_>,
) -> Poll<io::Result<Option<Served>>> {
    let mut scratch = watch.server.scratch.borrow_mut();
    let read = poll_read(watch, context, &mut scratch);
    watch.read_blocked.set(read.is_pending());
    let count = match read {
        Poll::Ready(Ok(0)) => return Poll::Ready(Ok(None)),
        Poll::Ready(Ok(count)) => count,
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        Poll::Pending => return Poll::Pending,
    };
    let mut out = watch.server.out.borrow_mut();
    out.clear();
    watch.server.date.borrow_mut().refresh(now);
    let (used, served) = {
        let (bytes, file) = (&mut scratch[..count], &mut unsent.file);
        answer_all(watch, bytes, &mut out, file, repeat, now, context)
    };
    if used < count {
        watch.put_back(&scratch[used..count]);
    }
    if used > 0 {
        watch.head_begun.set(None);
        watch.active_at.set(now);
    }
    drop(scratch);
    let begun = unsent.begin(watch, &out, context);
    if out.capacity() > 4 * OUTPUT_BYTES_MAX {
        *out = Vec::new();
    }
    begun.map_ok(|()| Some(served))
}

/// Answers the plain requests that `bytes` begin with. Answers how many bytes those are.
fn answer_all(
    watch: &Rc<Watch>,
    bytes: &mut [u8],
    out: &mut Vec<u8>,
    file: &mut Option<Outgoing>,
    repeat: &mut Repeat,
    now: Instant,
    context: &mut Context<'_>,
) -> (usize, Served) {
    let mut used = 0;
    for _ in 0..REQUESTS_PER_TURN {
        if used == bytes.len() {
            return (used, Served::All);
        }
        if out.len() >= OUTPUT_BYTES_MAX {
            return (used, Served::Some);
        }
        let rest = &mut bytes[used..];
        // The last response on a connection says so, which is hyper's to do.
        let is_last =
            watch.server.is_draining() || watch.served_in_all() + 1 >= watch.server.requests_max;
        if is_last {
            return (used, Served::HyperIsNext);
        }
        let (answered, length, is_leaving) = match answer_repeated(watch, repeat, rest, out, now) {
            Some((answered, length)) => (answered, length, false),
            None => {
                repeat.note(rest);
                let plain = Plain::parse(rest, &watch.server.limits);
                let Some(plain) = plain else { return (used, Served::HyperIsNext) };
                let answered = answer(watch, &plain, rest, out, repeat, now, context);
                (answered, plain.length, plain.is_last)
            }
        };
        match answered {
            Answered::Written => {}
            Answered::File(outgoing) => *file = Some(outgoing),
            Answered::ByHyper(asked) => {
                watch.asked.replace(Some(asked));
                return (used, Served::HyperIsNext);
            }
        }
        watch.served_before.set(watch.served_before.get() + 1);
        used += length;
        if is_leaving {
            return (used, Served::Last);
        }
        if file.is_some() {
            // What comes after it is looked at once it is sent.
            return (used, Served::All);
        }
    }
    (used, if used == bytes.len() { Served::All } else { Served::Some })
}

/// Answers one request, or has somebody else do it.
fn answer(
    watch: &Rc<Watch>,
    plain: &Plain,
    bytes: &[u8],
    out: &mut Vec<u8>,
    repeat: &mut Repeat,
    now: Instant,
    context: &mut Context<'_>,
) -> Answered {
    let server = &*watch.server;
    let path = plain.path(bytes);
    if server.health.as_deref() == Some(path) {
        let before = out.len();
        render::local(out, server, plain.is_head, "text/plain; charset=utf-8", b"ok\n");
        render::close_if(plain.is_last, out, before);
        server.metrics.request();
        server.metrics.response(StatusCode::OK);
        return Answered::Written;
    }
    if !plain.is_head
        && let Some(answered) = answer_again(watch, plain, bytes, out, repeat, now)
    {
        return answered;
    }
    repeat.forget();
    let head = Head {
        method: plain.method(),
        tls: false,
        authority: plain.host(bytes),
        path,
        query: plain.query(bytes),
        fields: plain.fields(bytes),
        version: 11,
        takes_switch: false,
        remote: watch.info.remote,
        local: watch.info.local,
        connection: watch.info.id,
    };
    let before = out.len();
    let mut written = None;
    let begun = start_whole(head, context, |response| {
        let rendered = render::whole(out, server, plain.is_head, response)?;
        written = Some((rendered, response.status, response.take_reuse()));
        Some(rendered.body_bytes as u64)
    });
    let to_send = match begun {
        Ok(Begun::Written) => None,
        Ok(Begun::File(to_send)) => Some(to_send),
        Ok(Begun::Started(started)) => return Answered::ByHyper(Asked::Started(started)),
        Err(refusal) => return Answered::ByHyper(Asked::Refused(refusal)),
    };
    let Some((rendered, status, reuse)) = written else { return Answered::Written };
    server.metrics.request();
    server.metrics.response(status);
    let (body_bytes, outgoing) = match to_send {
        None => (rendered.body_bytes, None),
        Some(to_send) if plain.is_head => {
            to_send.exchange.end(Ended::Complete, 0);
            (0, None)
        }
        Some(to_send) => read_or_send(to_send, out, context),
    };
    let length = body_bytes as u64 + outgoing.as_ref().map_or(0, |outgoing| outgoing.length);
    server.metrics.bytes(length);
    if let Some(reuse) = reuse.filter(|_| !plain.is_head) {
        let file = outgoing.as_ref().map(|it| (it.file.clone(), it.offset, it.length));
        let (wire, date_at) = (out[before..].into(), rendered.date_at);
        let used_at = Cell::new(now);
        let answer = cache::Answer { status, wire, date_at, body_bytes, file, reuse, used_at };
        server.cache.borrow_mut().keep(plain, bytes, answer);
    }
    render::close_if(plain.is_last, out, before);
    outgoing.map_or(Answered::Written, Answered::File)
}

/// Gives an answer again that was given before, if whoever gave it allows it.
fn answer_again(
    watch: &Watch,
    plain: &Plain,
    bytes: &[u8],
    out: &mut Vec<u8>,
    repeat: &mut Repeat,
    now: Instant,
) -> Option<Answered> {
    let server = &*watch.server;
    let found = server.cache.borrow_mut().find(plain, bytes, now)?;
    // The giver is called, and may do anything.
    let Some(is_observed) = found.reuse.use_once() else {
        server.cache.borrow_mut().forget(&found);
        return None;
    };
    let before = out.len();
    let answered = give(server, &found, out);
    render::close_if(plain.is_last, out, before);
    if is_observed {
        report(watch, plain, bytes, &found);
    }
    if !plain.is_last {
        repeat.keep(plain.length, &found, now);
    }
    Some(answered)
}

/// Gives the answer to the connection's last request again, if this is the same one. Answers as well how many bytes that is.
fn answer_repeated(
    watch: &Watch,
    repeat: &Repeat,
    bytes: &mut [u8],
    out: &mut Vec<u8>,
    now: Instant,
) -> Option<(Answered, usize)> {
    let (found, length) = repeat.find(bytes, now)?;
    let is_observed = found.reuse.use_once()?;
    let answered = give(&watch.server, &found, out);
    if is_observed && let Some(plain) = Plain::parse(bytes, &watch.server.limits) {
        report(watch, &plain, bytes, &found);
    }
    Some((answered, length))
}

/// Writes an answer that is given again, and counts it.
fn give(server: &Server, found: &cache::Answer, out: &mut Vec<u8>) -> Answered {
    found.write(out, server.date.borrow().text());
    server.metrics.request();
    server.metrics.response(found.status);
    server.metrics.bytes(found.length());
    match &found.file {
        None => Answered::Written,
        Some((file, offset, length)) => {
            let (file, offset, length) = (file.clone(), *offset, *length);
            Answered::File(Outgoing { file, offset, length, sent: 0, exchange: None })
        }
    }
}

/// Tells the observers of an answer that is given again.
fn report(watch: &Watch, plain: &Plain, bytes: &[u8], answer: &cache::Answer) {
    let report = Report {
        method: plain.method(),
        authority: plain.host(bytes),
        path: plain.path(bytes),
        query: plain.query(bytes),
        referer: plain.field(bytes, b"referer"),
        user_agent: plain.field(bytes, b"user-agent"),
        remote: watch.info.remote,
        status: answer.status.as_u16(),
        bytes: answer.length(),
        version: 11,
        connection: watch.info.id,
        started: Instant::now(),
    };
    if let Err(error) = report.send_for(&answer.reuse) {
        tracing::debug!(connection = watch.info.id, "{error}");
    }
}

/// Reads a short body behind its head, if it is in memory. Answers how many bytes those are, or what is to be sent.
fn read_or_send(
    to_send: FileToSend,
    out: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> (usize, Option<Outgoing>) {
    let FileToSend { mut file, offset, length, exchange } = to_send;
    let start = out.len();
    let short = usize::try_from(length).ok().filter(|length| *length <= render::BODY_BYTES_MAX);
    if let Some(short) = short {
        out.resize(start + short, 0);
        let mut filled = 0;
        while filled < short {
            let at = offset + filled as u64;
            match file.poll_read_at(context, at, &mut out[start + filled..]) {
                Poll::Ready(Ok(count)) if count > 0 => filled += count,
                _ => break,
            }
        }
        if filled == short {
            exchange.end(Ended::Complete, length);
            return (short, None);
        }
        // It has to be read from the disk, or is shorter than it was: found out where it is sent.
        out.truncate(start);
    }
    let exchange = Some(exchange);
    (0, Some(Outgoing { file: Rc::new(file), offset, length, sent: 0, exchange }))
}

impl Unsent {
    /// Writes `out`, and keeps what the client does not take at once.
    fn begin(
        &mut self,
        watch: &Watch,
        out: &[u8],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if out.is_empty() {
            return Poll::Ready(Ok(()));
        }
        watch.dirty.set(self.file.is_some());
        let written = match watch.poll_write_vectored(context, &[IoSlice::new(out)]) {
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => 0,
        };
        self.bytes.extend_from_slice(&out[written..]);
        Poll::Ready(Ok(()))
    }

    /// Writes the rest.
    fn poll(&mut self, watch: &Watch, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.bytes.len() {
            watch.dirty.set(true);
            let rest = IoSlice::new(&self.bytes[self.at..]);
            let written = watch.poll_write_vectored(context, &[rest]);
            note_stall(watch, written.is_pending());
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.at += written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
            watch.active_at.set(Instant::now());
        }
        if self.at > 0 {
            (self.bytes, self.at) = (Vec::new(), 0);
        }
        if let Some(outgoing) = &mut self.file {
            ready!(outgoing.poll(watch, context))?;
            if let Some(exchange) = outgoing.exchange.take() {
                exchange.end(Ended::Complete, outgoing.length);
            }
            self.file = None;
        }
        watch.dirty.set(false);
        Poll::Ready(Ok(()))
    }
}

impl Outgoing {
    /// Sends the rest.
    fn poll(&mut self, watch: &Watch, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.length {
            let (at, left) = (self.offset + self.sent, self.length - self.sent);
            let sent = watch.poll_send_file(context, &self.file, at, left);
            note_stall(watch, sent.is_pending());
            match ready!(sent)? {
                // The head has promised more than there is now.
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                sent => self.sent += sent,
            }
            watch.active_at.set(Instant::now());
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.end(Ended::Aborted, self.sent);
        }
    }
}
