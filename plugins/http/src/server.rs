//! What the connections of one instance share: settings, limits, metrics, and who is to hear of the draining.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::Waker,
    time::Duration,
};

use http::HeaderValue;
use hyper::server::conn::http1;
use medusa_plugin_api::{Error, Instant, Result, build_id};

use crate::{
    cache::Cache,
    config::Settings,
    framing::Limits,
    metrics::Metrics,
    render::{self, Date},
};

/// Bytes that are read at once.
pub(crate) const READ_BYTES: usize = 64 * 1024;

/// The build's name, for tests that alternate builds.
const BUILD: &str = build_id!();

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) head: Duration,
    pub(crate) body: Duration,
    pub(crate) idle: Duration,
    pub(crate) park_after: Duration,
    pub(crate) send: Duration,
    pub(crate) ended: Duration,
}

/// One instance of the server.
pub(crate) struct Server {
    pub(crate) http1: http1::Builder,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) requests_max: u64,
    pub(crate) drain_bytes_max: u64,
    connections_max: usize,
    connections: Cell<usize>,
    /// The value of the field `server`.
    pub(crate) name: Option<HeaderValue>,
    /// The path of the health check.
    pub(crate) health: Option<String>,
    pub(crate) metrics: Metrics,
    /// Where bytes are read to before they are judged. One for all connections: it is empty between two turns.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Where responses are made. One for all, as above.
    pub(crate) out: RefCell<Vec<u8>>,
    pub(crate) date: RefCell<Date>,
    /// Answers that may be given again.
    pub(crate) cache: RefCell<Cache>,
    draining_since: Cell<Option<Instant>>,
    /// Another generation has taken over, and connections go to it.
    is_moving: Cell<bool>,
    /// The host is about to replace itself.
    is_frozen: Cell<bool>,
    /// Those who are to be woken when the draining begins; a free place is `None`.
    places: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

/// That a connection is among those that its instance may have, and counts.
pub(crate) struct Seat(Rc<Server>);

/// The place of a connection among those that are to be woken when the draining begins. One that rests has none: the host tells it.
pub(crate) struct Place {
    seat: Option<Seat>,
    index: usize,
}

impl Server {
    /// Nothing listens yet.
    ///
    /// # Errors
    /// When a setting makes no sense.
    pub(crate) fn new(settings: &Settings, metrics: Metrics) -> Result<Rc<Server>> {
        let limits = Limits {
            head_bytes_max: settings.head_bytes_max.as_usize(),
            target_bytes_max: settings.target_bytes_max.as_usize(),
            fields_max: usize::try_from(settings.fields_max).unwrap_or(usize::MAX),
            body_bytes_max: settings.body_bytes_max.bytes(),
        };
        let name = HeaderValue::from_str(&settings.server).map_err(|_| {
            let name = &settings.server;
            Error::new(format!(
                "server cannot stand in a header field: {name:?}; use visible ASCII letters"
            ))
        })?;
        Ok(Rc::new(Server {
            http1: builder(&limits),
            limits,
            timeouts: Timeouts {
                head: settings.head_timeout,
                body: settings.body_timeout,
                idle: settings.idle_timeout,
                park_after: settings.park_after,
                send: settings.send_timeout,
                ended: settings.ended_timeout,
            },
            requests_max: settings.requests_max,
            drain_bytes_max: settings.drain_bytes_max.bytes(),
            connections_max: usize::try_from(settings.connections_max).unwrap_or(usize::MAX),
            connections: Cell::new(0),
            name: Some(name).filter(|name| !name.is_empty()),
            health: Some(settings.health.clone()).filter(|path| !path.is_empty()),
            metrics,
            scratch: RefCell::new(vec![0; READ_BYTES].into()),
            out: RefCell::default(),
            date: RefCell::new(Date::new()),
            cache: RefCell::new(Cache::new(settings.cache_bytes_max.as_usize())),
            draining_since: Cell::new(None),
            is_moving: Cell::new(false),
            is_frozen: Cell::new(false),
            places: RefCell::default(),
            free: RefCell::default(),
        }))
    }

    /// The value of `server-build`, in builds for tests.
    pub(crate) fn build(&self) -> Option<HeaderValue> {
        self.has_build().then(|| HeaderValue::from_static(BUILD))
    }

    /// Whether responses have `server-build`.
    pub(crate) fn has_build(&self) -> bool {
        !BUILD.is_empty()
    }

    /// Writes the fields that every response has, but for the date.
    pub(crate) fn write_fields(&self, out: &mut Vec<u8>) {
        if let Some(name) = &self.name {
            render::field(out, b"server", name.as_bytes());
        }
        if self.has_build() {
            render::field(out, b"server-build", BUILD.as_bytes());
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining_since.get().is_some()
    }

    /// Drops the answers that nobody was given for so long.
    pub(crate) fn drop_unused(&self, duration: Duration) {
        self.cache.borrow_mut().drop_unused(duration, Instant::now());
    }

    /// When the draining began, if it has.
    pub(crate) fn draining_since(&self) -> Option<Instant> {
        self.draining_since.get()
    }

    /// From now on each connection ends with its next response, or soon if none is asked for.
    pub(crate) fn drain(&self) {
        self.draining_since.set(Some(Instant::now()));
        self.is_moving.set(false);
        self.stir();
    }

    /// From now on each connection goes to the generation that has taken over, as soon as nothing is in flight on it.
    pub(crate) fn hand_over(&self) {
        self.is_moving.set(true);
        self.stir();
    }

    /// Has each connection park as soon as nothing is in flight on it, for the host is about to replace itself; or go on as ever.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.is_frozen.set(is_frozen);
        self.stir();
    }

    /// Whether connections go to another generation, or another program of the host, as soon as they can.
    pub(crate) fn is_moving(&self) -> bool {
        self.is_moving.get() || self.is_frozen.get()
    }

    /// Has every connection look what has changed.
    fn stir(&self) {
        self.cache.borrow_mut().clear();
        for waker in self.places.borrow().iter().flatten() {
            waker.wake_by_ref();
        }
    }

    /// A seat for a connection that was handed over: it has one already, as its client sees it.
    pub(crate) fn welcome(self: &Rc<Server>) -> Seat {
        self.connections.set(self.connections.get() + 1);
        self.metrics.connected();
        Seat(self.clone())
    }

    /// A seat for one more connection, unless there are as many as there may be.
    pub(crate) fn join(self: &Rc<Server>) -> Option<Seat> {
        if self.connections.get() >= self.connections_max {
            return None;
        }
        Some(self.welcome())
    }
}

/// hyper as this server uses it. What takes time is timed by [`crate::connection`].
fn builder(limits: &Limits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        // A client that has ended its half is answered; whether it is still there at all is asked by other means.
        .half_close(true)
        .header_read_timeout(None)
        // More than a head may have, so that it is the framing that refuses, with a page.
        .max_buf_size(limits.head_bytes_max.saturating_add(2 * READ_BYTES));
    // hyper keeps room for 100 on the stack; for more it would allocate at each request.
    if limits.fields_max > 100 {
        http1.max_headers(limits.fields_max);
    }
    http1
}

impl Seat {
    /// A place for the time in which the connection does not rest.
    pub(crate) fn take_place(self) -> Place {
        let server = &self.0;
        let index = server.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut places = server.places.borrow_mut();
            places.push(None);
            places.len() - 1
        });
        Place { seat: Some(self), index }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.metrics.disconnected();
    }
}

impl Place {
    /// Remembers who is to be woken. Answers whether that has changed.
    pub(crate) fn keep_waker(&self, waker: &Waker) -> bool {
        let Some(Seat(server)) = &self.seat else { return false };
        let mut places = server.places.borrow_mut();
        match &mut places[self.index] {
            Some(kept) if kept.will_wake(waker) => false,
            kept => {
                *kept = Some(waker.clone());
                true
            }
        }
    }

    /// The connection rests: nothing is left but its seat.
    pub(crate) fn leave(mut self) -> Option<Seat> {
        self.give_up()
    }

    fn give_up(&mut self) -> Option<Seat> {
        let seat = self.seat.take()?;
        let waker = seat.0.places.borrow_mut()[self.index].take();
        drop(waker);
        seat.0.free.borrow_mut().push(self.index);
        Some(seat)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.give_up());
    }
}
