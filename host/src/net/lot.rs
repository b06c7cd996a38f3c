//! The parking lot: connections that wait for their next turn, with no task, no buffer and no place in the reactor.
//!
//! A second epoll instance holds their descriptors, and is in the reactor itself. What it reports is told to whoever attends to the
//! connection, inline; he parks it again when he is done. A deadline is a place in a wheel.

use std::{
    cell::{Cell, RefCell},
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::{Rc, Weak},
    time::{Duration, Instant},
};

use rustix::event::epoll;
use slab::Slab;
use tokio::{io::unix::AsyncFd, task::JoinHandle};

use crate::{
    net::{connection::Connection, wheel::Wheel},
    sys::reactor,
};

/// Who is told of a parked connection.
pub trait Attendant {
    /// A connection of his, by the number that he gave it, is no longer parked.
    fn woken(&self, number: u64, why: Why);
}

/// Why a connection is no longer parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is something to read, or the end of the input.
    Readable,
    /// The peer has gone altogether.
    Hangup,
    /// The deadline has passed.
    Deadline,
}

/// All parked connections.
#[derive(Default)]
pub(super) struct Lot(Rc<Inner>);

impl fmt::Debug for Lot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lot({})", self.0.spaces.borrow().len())
    }
}

#[derive(Default)]
struct Inner {
    spaces: RefCell<Slab<Occupant>>,
    /// Counts what was ever parked: an event of an earlier parking is told apart by it.
    parkings: Cell<u32>,
    wheel: RefCell<Option<Wheel>>,
    begun: Cell<Option<Instant>>,
    reactor: RefCell<Option<Reactor>>,
    ticking: Cell<bool>,
}

struct Occupant {
    attendant: Weak<dyn Attendant>,
    number: u64,
    /// Of the present parking; 0 while it is not parked.
    parking: u32,
    /// In ticks; 0 for never.
    deadline: u32,
    /// The tick at which the wheel comes to it; 0 for never.
    comes_up: u32,
    /// Its descriptor is known to the epoll instance.
    is_known: bool,
}

struct Reactor {
    epoll: Rc<AsyncFd<OwnedFd>>,
    /// Aborted when the lot goes.
    task: JoinHandle<()>,
}

/// The grain of deadlines: one is met that much late at the most.
const TICK: Duration = Duration::from_millis(50);
/// How many events are taken from the kernel in one call. After so many the loop turns.
const EVENTS_MAX: usize = 256;

/// Stands for no space.
pub(super) const NO_SPACE: u32 = u32::MAX;

/// A connection has a space, by its number, from the first time that it is to be parked to its end.
impl Lot {
    /// Takes from the system what it needs, so that no want of it later keeps a connection from resting. Must be called on a local runtime.
    pub(super) fn open(&self) -> io::Result<()> {
        self.0.epoll().map(drop)
    }

    /// A space for a connection that `attendant` knows by `number`. It is not parked yet.
    pub(super) fn enter(&self, attendant: Weak<dyn Attendant>, number: u64) -> u32 {
        let occupant =
            Occupant { attendant, number, parking: 0, deadline: 0, comes_up: 0, is_known: false };
        let key = self.0.spaces.borrow_mut().insert(occupant);
        // A process has fewer descriptors than that.
        u32::try_from(key).unwrap_or(NO_SPACE)
    }

    /// Has another be told of what happens in a space. `false` if there is none.
    pub(super) fn reassign(&self, key: u32, attendant: &Weak<dyn Attendant>, number: u64) -> bool {
        let mut spaces = self.0.spaces.borrow_mut();
        let Some(occupant) = spaces.get_mut(key as usize) else { return false };
        (occupant.attendant, occupant.number) = (attendant.clone(), number);
        true
    }

    /// Parks the connection, whose space it is, until something happens to it, or until `deadline`.
    pub(super) fn park(
        &self,
        key: u32,
        connection: &Connection,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let lot = &self.0;
        let epoll = lot.epoll()?;
        let stream = connection.rest()?;
        let mut spaces = lot.spaces.borrow_mut();
        let Some(occupant) = spaces.get_mut(key as usize) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let parking = lot.next_parking();
        let data = epoll::EventData::new_u64(u64::from(parking) << 32 | u64::from(key));
        let events = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        match occupant.is_known {
            true => epoll::modify(epoll.get_ref(), stream.as_fd(), data, events)?,
            false => epoll::add(epoll.get_ref(), stream.as_fd(), data, events)?,
        }
        occupant.is_known = true;
        occupant.parking = parking;
        occupant.deadline = deadline.map_or(0, |deadline| lot.tick_of(deadline));
        let is_earlier = occupant.comes_up == 0 || occupant.deadline < occupant.comes_up;
        if occupant.deadline > 0 && is_earlier {
            occupant.comes_up = lot.await_tick(occupant.deadline, key);
        }
        Ok(())
    }

    /// It is not parked any more: somebody else has something for it.
    pub(super) fn unpark(&self, key: u32) {
        // The event that is asked for may still come; it will be of an earlier parking.
        if let Some(occupant) = self.0.spaces.borrow_mut().get_mut(key as usize) {
            occupant.parking = 0;
        }
    }

    /// Gives the space up.
    pub(super) fn leave(&self, key: u32) {
        let occupant = self.0.spaces.borrow_mut().try_remove(key as usize);
        drop(occupant);
    }
}

impl Inner {
    fn next_parking(&self) -> u32 {
        let next = self.parkings.get().wrapping_add(1).max(1);
        self.parkings.set(next);
        next
    }

    fn epoll(self: &Rc<Self>) -> io::Result<Rc<AsyncFd<OwnedFd>>> {
        let mut reactor = self.reactor.borrow_mut();
        if let Some(reactor) = &*reactor {
            return Ok(reactor.epoll.clone());
        }
        let epoll = Rc::new(reactor::readable(epoll::create(epoll::CreateFlags::CLOEXEC)?)?);
        let task = tokio::task::spawn_local(attend(epoll.clone(), Rc::downgrade(self)));
        *reactor = Some(Reactor { epoll: epoll.clone(), task });
        Ok(epoll)
    }

    fn begun(&self) -> Instant {
        self.begun.get().unwrap_or_else(|| {
            let now = Instant::now();
            self.begun.set(Some(now));
            now
        })
    }

    /// The first tick that is not before a moment; above zero.
    fn tick_of(&self, moment: Instant) -> u32 {
        let ticks = moment.saturating_duration_since(self.begun()).as_nanos() / TICK.as_nanos();
        // They last for six years, and a deadline after that is none.
        u32::try_from(ticks).unwrap_or(u32::MAX - 1).saturating_add(1)
    }

    /// The last tick that has passed.
    fn now(&self) -> u32 {
        self.tick_of(Instant::now()) - 1
    }

    fn await_tick(self: &Rc<Self>, tick: u32, key: u32) -> u32 {
        let mut wheel = self.wheel.borrow_mut();
        let wheel = wheel.get_or_insert_with(|| Wheel::new(self.now()));
        if !self.ticking.replace(true) {
            tokio::task::spawn_local(turn_wheel(Rc::downgrade(self)));
        }
        wheel.insert(tick, key)
    }

    /// Takes a connection out of its parking. `None` if that was over already.
    fn wake(&self, key: u32, parking: u32) -> Option<(Rc<dyn Attendant>, u64)> {
        let mut spaces = self.spaces.borrow_mut();
        let occupant = spaces.get_mut(key as usize).filter(|it| it.parking == parking)?;
        occupant.parking = 0;
        Some((occupant.attendant.upgrade()?, occupant.number))
    }

    /// The wheel has come to a space. Answers the parking whose deadline has passed.
    fn come_up(self: &Rc<Self>, tick: u32, key: u32, now: u32) -> Option<u32> {
        let mut spaces = self.spaces.borrow_mut();
        // Entries of a space that was given up, or that were overtaken by an earlier one, mean nothing.
        let occupant = spaces.get_mut(key as usize).filter(|it| it.comes_up == tick)?;
        occupant.comes_up = 0;
        if occupant.deadline == 0 || occupant.parking == 0 {
            // Parked anew, it is entered anew.
            return None;
        }
        if occupant.deadline > now {
            occupant.comes_up = self.await_tick(occupant.deadline, key);
            return None;
        }
        Some(occupant.parking)
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn attend(epoll: Rc<AsyncFd<OwnedFd>>, lot: Weak<Inner>) {
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        // Only a runtime that shuts down fails here.
        let Ok(mut guard) = epoll.readable().await else { return };
        if let Err(error) = take(epoll.as_fd(), &mut events) {
            tracing::error!("cannot ask which parked connections are wanted: {error}");
            return;
        }
        if events.len() < EVENTS_MAX {
            guard.clear_ready();
        }
        drop(guard);
        for event in events.drain(..) {
            let Some(lot) = lot.upgrade() else { return };
            // The event is packed.
            let (data, flags) = ({ event.data }.u64(), { event.flags });
            let (key, parking) = (data as u32, (data >> 32) as u32);
            let gone = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            let why = if flags.intersects(gone) { Why::Hangup } else { Why::Readable };
            if let Some((attendant, number)) = lot.wake(key, parking) {
                attendant.woken(number, why);
            }
        }
        tokio::task::yield_now().await;
    }
}

fn take(epoll: BorrowedFd<'_>, events: &mut Vec<epoll::Event>) -> rustix::io::Result<()> {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(&now)) {
        Err(rustix::io::Errno::INTR) => Ok(()),
        other => other.map(drop),
    }
}

/// Turns the wheel for as long as something is on it.
async fn turn_wheel(lot: Weak<Inner>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut due = Vec::new();
    loop {
        ticks.tick().await;
        let Some(lot) = lot.upgrade() else { return };
        let now = lot.now();
        {
            let mut wheel = lot.wheel.borrow_mut();
            let Some(wheel) = wheel.as_mut().filter(|wheel| !wheel.is_empty()) else {
                // Whoever parks next begins anew.
                *wheel = None;
                lot.ticking.set(false);
                return;
            };
            wheel.advance(now, &mut due);
        }
        for (tick, key) in due.drain(..) {
            if let Some(parking) = lot.come_up(tick, key, now)
                && let Some((attendant, number)) = lot.wake(key, parking)
            {
                attendant.woken(number, Why::Deadline);
            }
        }
    }
}
