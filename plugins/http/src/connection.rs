//! One connection from its first byte to its end. [`crate::front`] answers what is simple; for a request that is not, hyper is made, and
//! polled by hand, so that in the same turn it can be seen whether anything is in flight. Once nothing is, hyper is dropped again. No
//! timer is made per request.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use medusa_plugin_api::{Connection, Instant, Result, Wake, server::Rest};
use serde::{Deserialize, Serialize};

use crate::{
    alarm::Alarm,
    front::{self, Next},
    io::Io,
    linger,
    refusal::Refusal,
    server::{Place, Seat, Server},
    service::answer,
    switch,
    watch::{Leftover, Watch},
};

/// A connection that the draining finds idle gets this long for one more request, which is then answered with
/// `Connection: close`: a client that was about to send it could not know whether a request that is not answered may be sent
/// again. No setting: it is as long as a packet is under way, and an operator who wants less has `drain_ms_max`.
const LAST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// After so many requests that went through hyper, and came one upon the other, the others have a turn.
const REQUESTS_PER_TURN: u32 = 16;

/// What is kept of a connection while it rests between two requests.
#[derive(Serialize, Deserialize)]
pub(crate) struct Resting {
    /// Requests that were served.
    served: u64,
    /// `None` if it is new here.
    #[serde(skip)]
    seat: Option<Seat>,
    /// When it came to rest.
    #[serde(default = "Instant::now")]
    since: Instant,
    /// What it takes to another generation.
    #[serde(default)]
    carried: Option<Box<Carried>>,
}

/// What has come of a connection and was not served, when another generation took over.
#[derive(Serialize, Deserialize)]
struct Carried {
    /// Requests, and a part of one.
    unread: Bytes,
    /// When the head began that has come in part.
    head_since: Option<Instant>,
}

impl Default for Resting {
    fn default() -> Resting {
        Resting { served: 0, seat: None, since: Instant::now(), carried: None }
    }
}

/// How a connection ends, or comes to rest.
pub(crate) enum End {
    /// With nothing in flight and nothing to come soon.
    Rest,
    /// With nothing in flight, in another generation: what has come and was not served lies ahead.
    Move,
    /// In good order, after the last response.
    Done,
    /// In good order, with nothing in flight.
    Idle,
    /// With the connection in other hands.
    Switch,
    /// With a page of our own as the last response.
    Refuse(Refusal),
    /// With a reset: the client must not take what it has for a whole response.
    Abort,
}

/// What is to happen if nothing else does.
#[derive(Clone, Copy)]
pub(crate) enum Deadline {
    CloseIdle,
    Rest,
    RefuseHead,
    RefuseBody,
    /// The request in service stays unanswered; what came before is not to be harmed.
    CloseUnanswered,
    Abort,
}

/// One turn of a connection: it is new, or has something after a rest.
pub(crate) async fn turn(
    conn: Connection,
    resting: Resting,
    wake: Wake,
    server: &Rc<Server>,
) -> Result<Rest<Resting>> {
    match wake {
        // Nothing is in flight.
        Wake::Hangup | Wake::Deadline => return Ok(Rest::Close),
        Wake::Drain => {
            if server.is_moving() {
                // It was to go to a generation that cannot take it, and would be kept from being served for ever.
                server.drain();
            }
            if resting.carried.is_some() {
                return serve(conn, resting, server).await;
            }
            let until = Instant::now() + LAST_REQUEST_WAIT;
            return Ok(Rest::Park(conn, resting, Some(until)));
        }
        Wake::Resumed => {
            let seat = Some(resting.seat.unwrap_or_else(|| server.welcome()));
            let resting = Resting { seat, ..resting };
            if resting.carried.is_none() {
                let until = resting.since + idle_most(server, resting.served);
                return Ok(Rest::Park(conn, resting, Some(until)));
            }
            return serve(conn, resting, server).await;
        }
        Wake::Readable | Wake::Posted(_) => {}
    }
    serve(conn, resting, server).await
}

/// Serves a connection that is new, or has something after a rest, until its next rest.
async fn serve(conn: Connection, resting: Resting, server: &Rc<Server>) -> Result<Rest<Resting>> {
    let park_after = server.timeouts.park_after;
    let is_cold = resting.seat.is_none() || Instant::now() >= resting.since + park_after;
    let watch = Rc::new(Watch::new(conn, server.clone(), resting.served, is_cold)?);
    if let Some(carried) = resting.carried {
        watch.put_back(&carried.unread);
        watch.head_begun.set(carried.head_since);
        // It gets no more time by having gone from one generation to another.
        watch.active_at.set(resting.since);
    }
    let Some(seat) = resting.seat.or_else(|| server.join()) else {
        linger::refuse(&watch, Refusal::TooManyConnections).await?;
        return Ok(Rest::Close);
    };
    let place = seat.take_place();
    // The seat is held until the client has gone: a client that does not go counts as one.
    match drive(&watch, &place).await {
        End::Rest | End::Move => return Ok(rest(&watch, place)),
        // Dropped, it is closed in good order. The host would read on if there were anything to read.
        End::Done if watch.is_heard_out() => {}
        End::Done => linger::close(&watch).await?,
        End::Idle => linger::close_idle(&watch).await?,
        End::Switch => switch::switch(&watch).await?,
        End::Refuse(refusal) => linger::refuse(&watch, refusal).await?,
        End::Abort => watch.abort(),
    }
    Ok(Rest::Close)
}

fn rest(watch: &Watch, place: Place) -> Rest<Resting> {
    let Some(conn) = watch.take() else { return Rest::Close };
    let until = idle_until(watch);
    let unread = watch.ahead.take();
    let carried = (!unread.is_empty())
        .then(|| Box::new(Carried { unread: unread.into_bytes(), head_since: watch.head_since() }));
    let (served, seat) = (watch.served_in_all(), place.leave());
    // Where it goes on, it has rested as long as it was idle.
    let since = if watch.server.is_moving() { watch.active_at.get() } else { Instant::now() };
    let resting = Resting { served, seat, since, carried };
    match resting.carried {
        None => Rest::Park(conn, resting, Some(until)),
        Some(_) => Rest::Resume(conn, resting),
    }
}

/// Serves the connection until it is to end, or to rest.
async fn drive(watch: &Rc<Watch>, place: &Place) -> End {
    let mut alarm = Alarm::default();
    let mut requests = 0_u32;
    loop {
        match front::serve(watch, place, &mut alarm).await {
            Next::End(end) => return end,
            Next::Hyper => {}
        }
        watch.begin_hyper();
        // Boxed, for it is large, and most turns never come here.
        match Box::pin(drive_hyper(watch, place, &mut alarm)).await {
            None => {}
            Some(End::Rest) if !watch.is_cold => {}
            Some(end) => return end,
        }
        requests += 1;
        if requests.is_multiple_of(REQUESTS_PER_TURN) {
            others_first().await;
        }
    }
}

/// Ends this turn, and asks for another.
async fn others_first() {
    let mut is_first = true;
    poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

/// Lets hyper work until the connection is to end, or has nothing in flight; `None` where the next request has come already.
async fn drive_hyper(watch: &Rc<Watch>, place: &Place, alarm: &mut Alarm) -> Option<End> {
    let service = service_fn(|request| answer(request, watch.clone()));
    let connection = watch.server.http1.serve_connection(Io(watch.clone()), service);
    let mut connection = connection;
    let mut presence = Presence::default();
    let end = poll_fn(|context| {
        if place.keep_waker(context.waker()) {
            alarm.reset();
        }
        loop {
            let was_dirty = watch.dirty.get();
            if let Poll::Ready(result) = Pin::new(&mut connection).poll(context) {
                return Poll::Ready(Some(ended(watch, result)));
            }
            if was_dirty && !watch.dirty.get() && watch.in_service.get() {
                // hyper has a request that it could not answer before the last response was out, and has not noticed that it is.
                continue;
            }
            if watch.is_switching() {
                return Poll::Ready(Some(End::Switch));
            }
            let now = Instant::now();
            presence.note(watch, now);
            if let Some(end) = end_when_answered(watch) {
                return Poll::Ready(Some(end));
            }
            if drain_leftover(watch, context) {
                continue;
            }
            if watch.can_move() {
                return Poll::Ready(Some(End::Move));
            }
            if watch.served.get() > 0 && watch.has_next() {
                return Poll::Ready(None);
            }
            if watch.served.get() > 0 && watch.can_rest() {
                return Poll::Ready(Some(End::Rest));
            }
            if is_abandoned(watch, now, context) {
                return Poll::Ready(Some(End::Abort));
            }
            match due(watch, alarm, now, context) {
                None => return Poll::Pending,
                Some(Deadline::CloseIdle) => return Poll::Ready(Some(End::Idle)),
                Some(Deadline::Rest) => return Poll::Ready(Some(End::Rest)),
                Some(Deadline::RefuseHead) => {
                    return Poll::Ready(Some(End::Refuse(Refusal::HeadTimeout)));
                }
                Some(Deadline::CloseUnanswered) => return Poll::Ready(Some(End::Done)),
                Some(Deadline::Abort) => return Poll::Ready(Some(End::Abort)),
                Some(Deadline::RefuseBody) => watch.refuse_body(Refusal::BodyTimeout),
            }
        }
    });
    let end = end.await;
    if matches!(end, Some(End::Move)) {
        // What hyper has read and not begun comes before what it has not read.
        watch.put_back(&connection.into_parts().read_buf);
    }
    end
}

/// Finds out when a connection last got on, at the price of one look at the clock per turn.
#[derive(Default)]
struct Presence {
    served: u64,
    frames: u64,
    was_busy: bool,
}

impl Presence {
    fn note(&mut self, watch: &Watch, now: Instant) {
        let is_busy = !watch.is_idle();
        let (served, frames) = (watch.served.get(), watch.frames.get());
        if (self.was_busy && !is_busy) || (self.served, self.frames) != (served, frames) {
            watch.active_at.set(now);
        }
        *self = Presence { served, frames, was_busy: is_busy };
    }
}

/// What hyper's end means.
fn ended(watch: &Watch, result: hyper::Result<()>) -> End {
    let has_rest = watch.reply_open.get() || watch.dirty.get();
    let Err(error) = result else { return if has_rest { End::Abort } else { End::Done } };
    tracing::debug!(connection = watch.info.id, "the connection ends: {error}");
    if error.is_parse() && !has_rest {
        let is_long = error.is_parse_too_large();
        return End::Refuse(if is_long { Refusal::HeadTooLong } else { Refusal::Malformed });
    }
    // A response that broke off must not be taken for a whole one; those before it must not be lost for less.
    if has_rest || error.is_user() { End::Abort } else { End::Done }
}

/// Whether the connection is to end because something was refused behind what is answered by now, or because nothing can
/// come any more. Half a head says only that its client thought better of it (RFC 9112 section 8).
fn end_when_answered(watch: &Watch) -> Option<End> {
    if !watch.is_idle() || !watch.is_answered() {
        return None;
    }
    if let Some(refused) = watch.refused.get() {
        return Some(if refused.in_body { End::Done } else { End::Refuse(refused.refusal) });
    }
    watch.ended_at.get().filter(|_| watch.ahead.borrow().is_empty()).map(|_| End::Done)
}

/// Reads what a handler left of a request's body, so that the connection can be used again, or lets go of it when that harms
/// no response. Answers whether hyper is to be polled for it.
fn drain_leftover(watch: &Watch, context: &mut Context<'_>) -> bool {
    let mut slot = watch.leftover.borrow_mut();
    let Some(leftover) = slot.take() else { return false };
    let (leftover, has_moved) = match leftover {
        Leftover::Draining { body, bytes_left } => drain(watch, body, bytes_left, context),
        Leftover::GivenUp(body) => (Some(Leftover::GivenUp(body)), false),
    };
    match leftover {
        Some(Leftover::GivenUp(_)) if watch.is_idle() => true,
        leftover => {
            *slot = leftover;
            has_moved
        }
    }
}

/// Reads what is there of a body. Answers what is left of it then, and whether it is less.
fn drain(
    watch: &Watch,
    mut body: Incoming,
    mut bytes_left: u64,
    context: &mut Context<'_>,
) -> (Option<Leftover>, bool) {
    let mut has_moved = false;
    loop {
        let frame = match Pin::new(&mut body).poll_frame(context) {
            Poll::Pending => return (Some(Leftover::Draining { body, bytes_left }), has_moved),
            Poll::Ready(frame) => frame,
        };
        has_moved = true;
        let Some(Ok(frame)) = frame else {
            watch.upload_open.set(false);
            return (None, true);
        };
        if body.is_end_stream() {
            // Once the response is out as well, hyper would not say so before the next request.
            watch.upload_open.set(false);
            return (None, true);
        }
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match bytes_left.checked_sub(length) {
            Some(rest) => bytes_left = rest,
            None => return (Some(watch.give_up(body)), true),
        }
    }
}

/// The deadline that has passed, if it has; else the alarm is set for it.
pub(crate) fn due(
    watch: &Watch,
    alarm: &mut Alarm,
    now: Instant,
    context: &mut Context<'_>,
) -> Option<Deadline> {
    let (at, deadline) = deadline(watch)?;
    alarm.is_due(at, now, context).then_some(deadline)
}

/// What is to happen, and when, if nothing else does before. While a handler thinks and its client waits, nothing is.
fn deadline(watch: &Watch) -> Option<(Instant, Deadline)> {
    let timeouts = &watch.server.timeouts;
    if watch.is_stalled.get() {
        return Some((watch.moved_at.get() + timeouts.send, Deadline::Abort));
    }
    if watch.upload_open.get() && watch.read_blocked.get() && watch.refused.get().is_none() {
        return Some((watch.moved_at.get() + timeouts.body, Deadline::RefuseBody));
    }
    let active_at = watch.active_at.get();
    if let Some(ended_at) = watch.ended_at.get() {
        let until = active_at.max(ended_at) + timeouts.ended;
        if watch.in_service.get() {
            return Some((until, Deadline::CloseUnanswered));
        }
        if watch.reply_open.get() {
            return Some((until, Deadline::Abort));
        }
    }
    if !watch.is_idle() || !watch.is_answered() {
        return None;
    }
    if watch.framing.borrow().in_head() {
        let since = watch.head_since.get().max(active_at);
        return Some((since + timeouts.head, Deadline::RefuseHead));
    }
    let idle_until = idle_until(watch);
    let rest_at = active_at + timeouts.park_after;
    if rest_at < idle_until && watch.can_rest() {
        return Some((rest_at, Deadline::Rest));
    }
    let until = match watch.server.draining_since() {
        // A connection may come after the draining began: it was accepted before.
        Some(since) => idle_until.min(since.max(watch.opened) + LAST_REQUEST_WAIT),
        None => idle_until,
    };
    Some((until, Deadline::CloseIdle))
}

/// How long it may ask for nothing: its first request has to come as soon as a head has to be whole.
fn idle_until(watch: &Watch) -> Instant {
    watch.active_at.get() + idle_most(&watch.server, watch.served_in_all())
}

/// How long a connection on which so many requests were served may ask for nothing.
fn idle_most(server: &Server, served: u64) -> Duration {
    if served == 0 { server.timeouts.head } else { server.timeouts.idle }
}

/// Whether the client is known to have gone while its request is with the handler, or while the response is silent. Output
/// that waits would tell by itself.
fn is_abandoned(watch: &Watch, now: Instant, context: &mut Context<'_>) -> bool {
    let is_silent = watch.reply_open.get() && !watch.is_stalled.get();
    if !watch.in_service.get() && !is_silent {
        return false;
    }
    if !watch.upload_open.get() && !watch.server.is_draining() {
        watch.poll_ahead(context, now);
    }
    watch.poll_hangup(context).is_ready()
}
