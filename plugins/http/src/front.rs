//! Ahead of hyper: plain requests are answered from the buffer that they were read into, as long as their answers come at once and
//! whole. Several that came together are answered in one write. For any other request hyper is made, and given its bytes untouched.
//!
//! A connection that waits for its next request is here, and has no hyper: it has nothing at all.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll},
};

use http::StatusCode;
use medusa_plugin_api::{
    Instant,
    server::{Begun, Head, Refusal, Started, start_whole},
};

use crate::{
    alarm::Alarm,
    connection::{Deadline, End, due},
    io::{note_stall, poll_read},
    plain::Plain,
    render,
    server::Place,
    watch::Watch,
};

/// After so many requests of one read the others have a turn.
const REQUESTS_PER_TURN: u32 = 64;

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
}

/// Responses that the client has not taken yet.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    at: usize,
}

/// Answers plain requests until something else is to be done.
pub(crate) async fn serve(watch: &Rc<Watch>, place: &Place, alarm: &mut Alarm) -> Next {
    let mut unsent = Unsent::default();
    let mut is_hyper_next = false;
    let served_at_first = watch.served_in_all();
    poll_fn(|context| {
        if place.keep_waker(context.waker()) {
            alarm.reset();
        }
        let now = Instant::now();
        loop {
            match unsent.poll(watch, context) {
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
            match turn(watch, &mut unsent, now, context) {
                Poll::Ready(Ok(Some(Served::All))) => {}
                Poll::Ready(Ok(Some(Served::HyperIsNext))) => is_hyper_next = true,
                Poll::Ready(Ok(Some(Served::Some))) => {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                // The client ends its half, or is gone: with nothing in flight that is all.
                Poll::Ready(Ok(None) | Err(_)) => return Poll::Ready(Next::End(End::Done)),
                Poll::Pending => return wait(watch, alarm, now, context),
            }
        }
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
    let (used, served) = answer_all(watch, &mut scratch[..count], &mut out, context);
    if used < count {
        watch.put_back(&scratch[used..count]);
    }
    if used > 0 {
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
        let plain = if is_last { None } else { Plain::parse(rest, &watch.server.limits) };
        let Some(plain) = plain else { return (used, Served::HyperIsNext) };
        if let Err(asked) = answer(watch, &plain, rest, out, context) {
            watch.asked.replace(Some(asked));
            return (used, Served::HyperIsNext);
        }
        watch.served_before.set(watch.served_before.get() + 1);
        used += plain.length;
    }
    (used, if used == bytes.len() { Served::All } else { Served::Some })
}

/// Answers one request, or has somebody else do it.
fn answer(
    watch: &Rc<Watch>,
    plain: &Plain,
    bytes: &[u8],
    out: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Result<(), Asked> {
    let server = &*watch.server;
    let path = plain.path(bytes);
    if server.health.as_deref() == Some(path) {
        render::local(out, server, plain.is_head, "text/plain; charset=utf-8", b"ok\n");
        server.metrics.request();
        server.metrics.response(StatusCode::OK);
        return Ok(());
    }
    let head = Head {
        method: plain.method(),
        tls: false,
        authority: plain.host(bytes),
        path,
        query: plain.query(bytes),
        fields: plain.fields(bytes),
        version: 11,
        remote: watch.info.remote,
        local: watch.info.local,
        connection: watch.info.id,
    };
    let begun = start_whole(head, context, |response| {
        let bytes = render::whole(out, server, plain.is_head, response)?;
        server.metrics.response(response.status);
        server.metrics.bytes(bytes);
        Some(bytes)
    });
    match begun {
        Ok(Begun::Written) => {
            server.metrics.request();
            Ok(())
        }
        Ok(Begun::Started(started)) => Err(Asked::Started(started)),
        Err(refusal) => Err(Asked::Refused(refusal)),
    }
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
            *self = Unsent::default();
            watch.dirty.set(false);
        }
        Poll::Ready(Ok(()))
    }
}
