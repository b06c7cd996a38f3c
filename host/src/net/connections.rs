//! The host's table of live connections: how many there may be, what the monitor shows of them, and the operator's `kill`.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    fmt, io,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;

use crate::{
    config::Limits,
    net::{address::Address, closing::Closing, entry::Entry, hangup::Hangups, lot::Lot},
    sys::crash,
};

/// All connections. A clone is the same table.
#[derive(Clone, Debug)]
pub struct Connections(Rc<Table>);

/// How many connections there may be, of the host or of one instance, and how many there are.
#[derive(Debug)]
pub struct Quota {
    /// The limit's name, for the log.
    name: &'static str,
    max: Cell<usize>,
    used: Cell<usize>,
    /// Those who wait for room.
    waiting: RefCell<Vec<Weak<Waiting>>>,
}

/// Somebody who waits for room, with the newest waker. It is gone with its owner, whoever still has no room for it.
#[derive(Debug, Default)]
pub struct Waiting(RefCell<Option<Waker>>);

/// Room for one connection, in the host's quota and in an instance's. Dropping it gives it back.
pub struct Place {
    table: Rc<Table>,
    seat: Cell<Option<Seat>>,
    /// In the table; [`NO_SLOT`] while it shows nothing.
    slot: Cell<u32>,
}

const NO_SLOT: u32 = u32::MAX;

/// Room for one connection in an instance's quota alone. Dropping it gives it back.
#[derive(Debug)]
pub struct Seat(Rc<Quota>);

/// Which generation of which instance serves a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The instance's name.
    pub instance: Rc<str>,
    /// The generation's number.
    pub generation: u64,
    /// The instance's, shared by its generations.
    pub traffic: Rc<Traffic>,
}

/// What went over those connections of one instance that are gone. A connection counts for itself until then.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
}

/// The connections of one instance, counted by what they are at, and what went over all that it ever had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// [`State::Connecting`] and [`State::Open`].
    pub active: u64,
    /// [`State::Parked`].
    pub parked: u64,
    /// [`State::Closing`].
    pub closing: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It goes out, and does not stand yet.
    Connecting,
    /// A task serves it.
    Open,
    /// It waits for its next turn, without a task.
    Parked,
    /// Nobody serves it any more; what the peer still sends is thrown away, so that the peer gets what was sent to it.
    Closing,
}

/// What the monitor shows of a connection.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// Its number; never used twice.
    pub id: u64,
    /// Who serves it.
    pub owner: Rc<Owner>,
    /// Which of the instance's `listen` addresses it came in by; [`crate::net::connection::NO_LISTENER`] for others.
    pub listener: u32,
    /// The peer.
    pub remote: Address,
    /// This side.
    pub local: Address,
    /// How long it has been there.
    pub age: Duration,
    /// How long no data has come or gone; none where the system does not keep that, as for Unix sockets.
    pub idle: Option<Duration>,
    /// Bytes read from it, since it was passed on if it was.
    pub bytes_in: u64,
    /// Bytes written to it, since it was passed on if it was.
    pub bytes_out: u64,
    /// What it is at.
    pub state: State,
}

#[derive(Debug)]
pub(super) struct Table {
    quota: Rc<Quota>,
    entries: RefCell<Slab<Weak<Entry>>>,
    id_last: Cell<u64>,
    begun: Cell<Instant>,
    /// The newest of this side's addresses that were asked for: a machine has few, and many connections have the same.
    locals: RefCell<VecDeque<Rc<Address>>>,
    pub(super) hangups: Hangups,
    pub(super) lot: Lot,
    pub(super) closing: Closing,
}

impl Connections {
    /// No connections; there may be `connections_max` of them. Their numbers begin with 1.
    #[must_use]
    pub fn new(limits: &Limits) -> Connections {
        let connections_max = usize::try_from(limits.connections_max).unwrap_or(usize::MAX);
        Connections(Rc::new(Table {
            quota: Quota::new("connections_max", connections_max),
            entries: RefCell::default(),
            id_last: Cell::new(0),
            begun: Cell::new(Instant::now()),
            locals: RefCell::default(),
            hangups: Hangups::default(),
            lot: Lot::default(),
            closing: Closing::new(limits),
        }))
    }

    /// Takes from the system now what resting connections and hang-ups are watched with: when no descriptor is left it would be too late.
    /// Must be called on a local runtime; where it was not, it is done when it is needed.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(&self) -> io::Result<()> {
        self.0.lot.open()?;
        self.0.hangups.open()
    }

    /// The host's own quota, to ask or to change.
    #[must_use]
    pub fn quota(&self) -> &Rc<Quota> {
        &self.0.quota
    }

    /// Has the numbers go on after `id`: for a host that goes on where another one left off.
    pub fn set_id_last(&self, id: u64) {
        self.0.id_last.set(id.max(self.id_last()));
    }

    /// How long it has been since the ages began to count.
    #[must_use]
    pub fn age_ms(&self) -> u64 {
        self.0.age_ms()
    }

    /// Has ages count from `begun`: for a host that goes on where another one left off.
    pub fn set_begun(&self, begun: Instant) {
        self.0.begun.set(begun);
    }

    /// The number of the newest connection.
    #[must_use]
    pub fn id_last(&self) -> u64 {
        self.0.id_last.get()
    }

    /// Room for a connection of an instance with `quota`, or the quota that is used up.
    ///
    /// # Errors
    /// The host or the instance has as many connections as it may.
    pub fn place(&self, quota: &Rc<Quota>) -> Result<Place, QuotaFull> {
        self.0.quota.room()?;
        let seat = quota.seat()?;
        self.0.quota.used.set(self.0.quota.used.get() + 1);
        let (table, seat) = (self.0.clone(), Cell::new(Some(seat)));
        Ok(Place { table, seat, slot: Cell::new(NO_SLOT) })
    }

    /// As [`Connections::place`], and waits for room; `waiting` is the caller's own.
    pub fn poll_place(
        &self,
        cx: &mut Context<'_>,
        quota: &Rc<Quota>,
        waiting: &Rc<Waiting>,
    ) -> Poll<Place> {
        if let Ok(place) = self.place(quota) {
            return Poll::Ready(place);
        }
        waiting.0.replace(Some(cx.waker().clone()));
        for quota in [&self.0.quota, quota] {
            if quota.is_full() {
                quota.wait(waiting);
            }
        }
        Poll::Pending
    }

    /// All connections, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<ConnectionStatus> {
        let mut list: Vec<_> = self.alive().iter().map(|entry| status(entry)).collect();
        list.sort_by_key(|status| status.id);
        list
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.entries.borrow().len()
    }

    /// The connections in at most `count` places of the table from place `from` on, in no order, and the place to go on from; `None`
    /// at the end. From 0 to the end, that shows each connection once that is there all the while, however long the pauses.
    #[must_use]
    pub fn part(&self, from: usize, count: usize) -> (Vec<ConnectionStatus>, Option<usize>) {
        let (entries, end) = {
            let entries = self.0.entries.borrow();
            let end = from.saturating_add(count).min(entries.capacity());
            let alive = (from..end).filter_map(|place| entries.get(place)?.upgrade());
            (alive.collect::<Vec<_>>(), (end < entries.capacity()).then_some(end))
        };
        (entries.iter().map(|entry| status(entry)).collect(), end)
    }

    /// Tells of each connection who serves it, and by which of the instance's addresses it came in.
    pub fn each_owner(&self, mut tell: impl FnMut(&Owner, u32)) {
        for (_, entry) in self.0.entries.borrow().iter() {
            if let Some(entry) = entry.upgrade() {
                tell(&entry.owner.borrow(), entry.listener.get());
            }
        }
    }

    /// Counts the connections of each of these instances, in one pass over all that there are.
    #[must_use]
    pub fn tallies(&self, instances: &[&Rc<Traffic>]) -> Vec<Tally> {
        let gone = |traffic: &&Rc<Traffic>| Tally {
            bytes_in: traffic.bytes_in.get(),
            bytes_out: traffic.bytes_out.get(),
            ..Tally::default()
        };
        let mut tallies: Vec<_> = instances.iter().map(gone).collect();
        let places: HashMap<_, _> = instances.iter().map(|it| Rc::as_ptr(it)).zip(0..).collect();
        for (_, entry) in self.0.entries.borrow().iter() {
            let Some(entry) = entry.upgrade() else { continue };
            let place = places.get(&Rc::as_ptr(&entry.owner.borrow().traffic));
            let Some(tally) = place.and_then(|place: &usize| tallies.get_mut(*place)) else {
                continue;
            };
            match entry.state.get() {
                State::Connecting | State::Open => tally.active += 1,
                State::Parked => tally.parked += 1,
                State::Closing => tally.closing += 1,
            }
            tally.bytes_in += entry.bytes_in.get();
            tally.bytes_out += entry.bytes_out.get();
        }
        tallies
    }

    /// What there is to say of connection `id`.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<ConnectionStatus> {
        self.alive().iter().find(|entry| entry.id == id).map(|entry| status(entry))
    }

    /// Ends connection `id`, whoever serves it: its calls answer [`std::io::ErrorKind::Other`] with ECANCELED from now on. False if
    /// there is no such connection.
    #[must_use]
    pub fn kill(&self, id: u64) -> bool {
        let entry = self.alive().into_iter().find(|entry| entry.id == id);
        entry.inspect(|entry| entry.kill()).is_some()
    }

    fn alive(&self) -> Vec<Rc<Entry>> {
        self.0.entries.borrow().iter().filter_map(|(_, entry)| entry.upgrade()).collect()
    }
}

impl Traffic {
    /// Bytes read from connections that are gone, and written to them.
    #[must_use]
    pub fn of_gone(&self) -> (u64, u64) {
        (self.bytes_in.get(), self.bytes_out.get())
    }

    /// A connection is gone over which so much went.
    pub fn add(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.set(self.bytes_in.get() + bytes_in);
        self.bytes_out.set(self.bytes_out.get() + bytes_out);
    }
}

impl Quota {
    /// Room for `max` connections; `name` is the limit's.
    #[must_use]
    pub fn new(name: &'static str, max: usize) -> Rc<Quota> {
        Rc::new(Quota {
            name,
            max: Cell::new(max),
            used: Cell::new(0),
            waiting: RefCell::default(),
        })
    }

    /// How many connections there are.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// How many there may be.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max.get()
    }

    /// Changes how many there may be. Those that are there stay.
    pub fn set_max(&self, max: usize) {
        self.max.set(max);
        self.wake();
    }

    /// Room for one connection that has its room in the host's quota already.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub fn seat(self: &Rc<Self>) -> Result<Seat, QuotaFull> {
        self.room()?;
        self.used.set(self.used.get() + 1);
        Ok(Seat(self.clone()))
    }

    fn room(&self) -> Result<(), QuotaFull> {
        if self.is_full() {
            return Err(QuotaFull { name: self.name, max: self.max.get() });
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.used.get() >= self.max.get()
    }

    fn wait(&self, waiting: &Rc<Waiting>) {
        let mut all = self.waiting.borrow_mut();
        all.retain(|other| other.strong_count() > 0);
        if !all.iter().any(|other| std::ptr::eq(other.as_ptr(), Rc::as_ptr(waiting))) {
            all.push(Rc::downgrade(waiting));
        }
    }

    fn wake(&self) {
        if self.is_full() || self.waiting.borrow().is_empty() {
            return;
        }
        for waiting in self.waiting.take() {
            let waker = waiting.upgrade().and_then(|waiting| waiting.0.take());
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn release(&self) {
        self.used.set(self.used.get() - 1);
        self.wake();
    }
}

impl Place {
    pub(super) fn table(&self) -> &Rc<Table> {
        &self.table
    }

    /// Shows `entry`, which is this place's, in the table.
    pub(super) fn enter(&self, entry: &Rc<Entry>) {
        let slot = self.table.entries.borrow_mut().insert(Rc::downgrade(entry));
        // A process has fewer descriptors than that.
        self.slot.set(u32::try_from(slot).unwrap_or(NO_SLOT));
    }

    /// Takes a seat in another instance's quota, and gives up the one that it has.
    pub(super) fn move_to(&self, seat: Seat) {
        drop(self.seat.replace(Some(seat)));
    }

    /// Takes it out again.
    pub(super) fn leave(&self) {
        let slot = self.slot.replace(NO_SLOT);
        if slot != NO_SLOT {
            self.table.entries.borrow_mut().remove(slot as usize);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
        drop(self.seat.take());
        self.table.quota.release();
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("slot", &self.slot.get()).finish_non_exhaustive()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl Table {
    pub(super) fn next_id(&self) -> u64 {
        self.id_last.set(self.id_last.get() + 1);
        crash::set_id_last(self.id_last.get());
        self.id_last.get()
    }

    /// Since the table was made.
    pub(super) fn age_ms(&self) -> u64 {
        u64::try_from(self.begun.get().elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// An address of this side, which others have too.
    pub(super) fn shared(&self, address: Address) -> Rc<Address> {
        let mut locals = self.locals.borrow_mut();
        if let Some(shared) = locals.iter().find(|local| ***local == address) {
            return shared.clone();
        }
        if locals.len() == LOCALS_MAX {
            locals.pop_front();
        }
        let address = Rc::new(address);
        locals.push_back(address.clone());
        address
    }
}

/// How many addresses of this side are looked through: a search must not cost more than it saves.
const LOCALS_MAX: usize = 8;

fn status(entry: &Entry) -> ConnectionStatus {
    ConnectionStatus {
        id: entry.id,
        owner: entry.owner.borrow().clone(),
        listener: entry.listener.get(),
        remote: entry.remote(),
        local: entry.local().clone(),
        age: entry.age(),
        idle: entry.idle(),
        bytes_in: entry.bytes_in.get(),
        bytes_out: entry.bytes_out.get(),
        state: entry.state.get(),
    }
}

/// A quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaFull {
    /// The limit's name.
    pub name: &'static str,
    /// The limit.
    pub max: usize,
}

impl fmt::Display for QuotaFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "there are {} connections already; raise the limit {} for more",
            self.max, self.name
        )
    }
}

impl std::error::Error for QuotaFull {}

impl State {
    /// The word for it in the monitor.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::Open => "open",
            State::Parked => "parked",
            State::Closing => "closing",
        }
    }
}
