//! Sessions: connections that rest in the parking lot between their turns, and of which then nothing is left here but a place.
//!
//! A turn is polled where the lot tells of the connection. If it has to wait, and only then, it becomes a task.

#![allow(unsafe_code)] // Calls the hooks of sessions.

mod durable;
mod moving;
mod resting;
mod succession;
mod way_back;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake as TaskWake, Waker},
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    net::{
        PARK_RESUME, ParkSpec, SessionHooks, WAKE_DEADLINE, WAKE_DRAIN, WAKE_HANGUP, WAKE_POSTED,
        WAKE_READABLE, WAKE_RESUMED,
    },
    task::Task,
};
use tokio::{sync::Notify, task::AbortHandle};

use crate::{
    net::{
        connection::Connection,
        lot::{Attendant, Why},
    },
    plugin::{
        frame,
        future::PluginFuture,
        generation::{Generation, Phase},
        hand_over, handles,
        serve::Service,
    },
};

use self::{resting::Notes, way_back::Probation};
pub use self::{
    resting::{Read, RestingRecords},
    succession::{Inherited, SessionRecord},
    way_back::Record,
};

/// How many turns a session may have one after another before others have theirs.
const TURNS_MAX: usize = 32;

/// The sessions of a service.
pub struct Sessions {
    hooks: Table<SessionHooks>,
    /// By the place of their handles in the table of handles.
    all: RefCell<Vec<Option<Rc<Session>>>>,
    /// Of the last turn that never had to wait, for the next.
    relay: Cell<Option<Arc<Relay>>>,
    /// What waits until every session that was handed over knows of it.
    held_back: RefCell<Option<Vec<(Handle, Wake)>>>,
    /// Of a generation on probation; few are for long.
    probation: RefCell<Option<Box<Probation>>>,
    /// Nothing waits for the way back any more.
    settled: Notify,
    /// The host is about to replace itself: no turn begins, and none is followed by a rest.
    is_frozen: Cell<bool>,
    /// Those that were written down before the pause of the host's replacing itself.
    notes: Box<RefCell<Notes>>,
    /// The log was told that a record is too long.
    is_too_long: Cell<bool>,
}

/// One session. There may be very many that rest.
pub struct Session {
    service: Rc<Service>,
    handle: Handle,
    connection: Rc<Connection>,
    /// Set by `conn_park` during a turn: 0 for no deadline, [`RESUMES`] if it does not rest, [`NOT_PARKED`] before.
    until_ns: Cell<u64>,
    /// `None` for none.
    #[expect(
        clippy::box_collection,
        reason = "a queue is four words, and most sessions never have one"
    )]
    posts: Cell<Option<Box<VecDeque<Vec<u8>>>>>,
    /// The task that a turn has become.
    driver: Cell<Option<AbortHandle>>,
    is_resting: Cell<bool>,
    /// It was told that its generation drains, once.
    is_told: Cell<bool>,
    /// It was handed over while it rested, and has not been told.
    is_resumed: Cell<bool>,
    /// It is being handed over: what is posted to it meanwhile is for whoever goes on with it.
    is_leaving: Cell<bool>,
    /// It has parked as one that is as good as new while it rests.
    is_as_new: Cell<bool>,
    /// It has parked, and would rest if its service were not frozen.
    is_held: Cell<bool>,
}

const NOT_PARKED: u64 = u64::MAX;
const RESUMES: u64 = u64::MAX - 1;

/// What `conn_park` asks for.
fn until_ns(spec: &ParkSpec) -> u64 {
    if spec.flags & PARK_RESUME != 0 { RESUMES } else { spec.deadline_ns.min(RESUMES - 1) }
}

/// A waker that stays the same when a turn becomes a task: what was set up in its first poll, a timer say, wakes the task.
#[derive(Default)]
struct Relay(Mutex<Option<Waker>>);

impl Relay {
    fn set(&self, waker: Option<&Waker>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = waker.cloned();
    }
}

impl TaskWake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Without a task the turn is in its first poll, and is polled again in any case.
        if let Some(waker) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }
}

/// Why a session has a turn.
enum Wake {
    Readable,
    Hangup,
    Deadline,
    Drain,
    Resumed,
    Posted(Vec<u8>),
}

/// What has become of a turn that was begun.
enum Tried {
    Over(Code),
    Waits(Rc<PluginFuture>, Arc<Relay>),
}

impl Sessions {
    /// No sessions yet.
    pub fn new(hooks: Table<SessionHooks>) -> Sessions {
        Sessions {
            hooks,
            all: RefCell::default(),
            relay: Cell::new(None),
            held_back: RefCell::new(None),
            probation: RefCell::new(None),
            settled: Notify::new(),
            is_frozen: Cell::new(false),
            notes: Box::default(),
            is_too_long: Cell::new(false),
        }
    }

    /// Begins a session with its first turn.
    pub fn begin(&self, service: &Rc<Service>, handle: Handle, connection: Rc<Connection>) {
        let session = Session::new(service, handle, connection);
        self.insert(session.clone());
        session.have_turn(self, Wake::Readable);
    }

    /// A connection that the plugin has by other means becomes a session, and rests.
    pub fn adopt(
        &self,
        service: &Rc<Service>,
        handle: Handle,
        connection: Rc<Connection>,
        spec: &ParkSpec,
    ) {
        let session = Session::new(service, handle, connection);
        session.until_ns.set(until_ns(spec));
        session.keep(self, spec);
        self.insert(session.clone());
        // Not at once: code of the plugin is on the stack.
        tokio::task::spawn_local(async move {
            let service = session.service.clone();
            if let Some(sessions) =
                service.sessions().filter(|all| all.find(session.handle).is_some())
                && let Some(next) = session.after_turn(sessions, code::READY, false)
            {
                session.have_turn(sessions, next);
            }
        });
    }

    /// The session's connection is another's from now on: its turn goes on, and has nothing to end.
    pub fn let_go(&self, handle: Handle) {
        if let Some(session) = self.remove(handle) {
            // Whatever it has asked for before.
            session.until_ns.set(NOT_PARKED);
        }
    }

    /// A parked connection is wanted.
    pub fn woken(&self, handle: Handle, why: Why) {
        let Some(session) = self.find(handle) else { return };
        session.rise();
        if session.is_resumed.get() {
            // It has another turn first; if it rests again after that, this comes again.
            return;
        }
        session.have_turn(
            self,
            match why {
                Why::Readable => Wake::Readable,
                Why::Hangup => Wake::Hangup,
                Why::Deadline => Wake::Deadline,
            },
        );
    }

    /// `conn_park`: the connection rests when its turn ends, until the deadline at the latest (0: for ever).
    /// False if it is no session's.
    pub fn park(&self, handle: Handle, spec: &ParkSpec) -> bool {
        let Some(session) = self.find(handle) else { return false };
        session.until_ns.set(until_ns(spec));
        session.keep(self, spec);
        true
    }

    /// `conn_post`: wakes a session with bytes, when whoever posts has come to an end.
    pub fn post(&self, handle: Handle, bytes: &[u8]) -> Code {
        let Some(session) = self.find(handle) else { return code::STALE };
        // A bound for a peer that reads nothing: the poster is told.
        let max = session.generation().limits.posts_per_connection_max;
        let mut posts = session.posts.take().unwrap_or_default();
        let is_full = posts.len() as u64 >= max;
        if !is_full {
            posts.push_back(bytes.to_vec());
        }
        session.posts.set(Some(posts));
        if is_full {
            return code::BUSY;
        }
        session.stir();
        code::READY
    }

    /// Has every session that rests look whether there is something for it.
    pub fn stir(&self) {
        self.list().iter().for_each(|session| session.stir());
    }

    /// Ends every session. Called when no code of the plugin is on the stack.
    pub fn end(&self) {
        self.drop_records();
        for session in self.list() {
            session.end(self);
            if let Some(driver) = session.driver.take() {
                driver.abort();
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.borrow().iter().flatten().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.borrow().iter().all(Option::is_none)
    }

    /// Those that rest.
    pub fn resting(&self) -> Vec<Rc<Session>> {
        let all = self.all.borrow();
        all.iter().flatten().filter(|session| session.is_resting()).cloned().collect()
    }

    fn insert(&self, session: Rc<Session>) {
        let (mut all, place) = (self.all.borrow_mut(), handles::place(session.handle));
        if all.len() <= place {
            all.resize(place + 1, None);
        }
        all[place] = Some(session);
    }

    /// The plugin drops what it keeps of a session.
    fn forget(&self, service: &Service, handle: Handle) {
        let object = &service.object;
        if object.is_given_back() {
            return;
        }
        frame::enter(object.generation(), || {
            // SAFETY: As in `begin_turn`.
            unsafe { self.hooks.get() }
                .map(|hooks| unsafe { (hooks.forget)(object.data(), handle) })
        });
    }

    fn find(&self, handle: Handle) -> Option<Rc<Session>> {
        let all = self.all.borrow();
        all.get(handles::place(handle))?.as_ref().filter(|it| it.handle == handle).cloned()
    }

    fn list(&self) -> Vec<Rc<Session>> {
        self.all.borrow().iter().flatten().cloned().collect()
    }

    /// Takes a session out; nothing if it is not there any more.
    fn remove(&self, handle: Handle) -> Option<Rc<Session>> {
        let mut all = self.all.borrow_mut();
        all.get_mut(handles::place(handle))?.take_if(|it| it.handle == handle)
    }

    fn relay(&self) -> Arc<Relay> {
        self.relay.take().unwrap_or_default()
    }

    /// Keeps the relay of a turn that is over, unless the turn has left a waker somewhere.
    fn give_back(&self, mut relay: Arc<Relay>) {
        if Arc::get_mut(&mut relay).is_some() {
            self.relay.set(Some(relay));
        }
    }
}

impl Session {
    /// A session that has begun, and is in flight.
    fn new(service: &Rc<Service>, handle: Handle, connection: Rc<Connection>) -> Rc<Session> {
        let attendant: Rc<dyn Attendant> = service.clone();
        connection.attend(Rc::downgrade(&attendant), handle);
        service.object.generation().enter_flight();
        Rc::new(Session {
            service: service.clone(),
            handle,
            connection,
            until_ns: Cell::new(NOT_PARKED),
            posts: Cell::new(None),
            driver: Cell::new(None),
            is_resting: Cell::new(false),
            is_told: Cell::new(false),
            is_resumed: Cell::new(false),
            is_leaving: Cell::new(false),
            is_as_new: Cell::new(false),
            is_held: Cell::new(false),
        })
    }

    /// Its record is about to be written.
    pub fn begin_leaving(&self) {
        self.is_leaving.set(true);
    }

    /// It does not leave after all.
    pub fn stay(self: &Rc<Self>) {
        self.is_leaving.set(false);
        self.stir();
    }

    /// Who serves it.
    pub fn service(&self) -> &Rc<Service> {
        &self.service
    }

    /// Its connection.
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Whether it rests.
    pub fn is_resting(&self) -> bool {
        self.is_resting.get()
    }

    fn generation(&self) -> &Rc<Generation> {
        self.service.object.generation()
    }

    /// It does not rest any more.
    fn rise(&self) {
        self.is_resting.set(false);
        if let Some(sessions) = self.service.sessions() {
            sessions.notes.borrow_mut().forget(self.handle);
        }
        self.connection.unpark();
        self.connection.set_parked(false);
    }

    /// Gives it a turn soon, if it rests and there is something for it.
    fn stir(self: &Rc<Self>) {
        if !self.is_resting.get() || self.is_resumed.get() || self.is_leaving.get() {
            return;
        }
        if let Some(wake) = self.next() {
            self.rise();
            // Not at once: code of the plugin may be on the stack.
            self.turn_soon(wake);
        }
    }

    /// What there is for it beside its connection.
    fn next(&self) -> Option<Wake> {
        if let Some(mut posts) = self.posts.take() {
            let first = posts.pop_front();
            if !posts.is_empty() {
                self.posts.set(Some(posts));
            }
            if let Some(bytes) = first {
                return Some(Wake::Posted(bytes));
            }
        }
        let drains = self.generation().phase.get() == Phase::Draining;
        (drains && !self.is_told.replace(true)).then_some(Wake::Drain)
    }

    /// Has a turn, unless others are to have theirs first.
    fn have_turn(self: &Rc<Self>, sessions: &Sessions, wake: Wake) {
        if let Some(held_back) = &mut *sessions.held_back.borrow_mut() {
            held_back.push((self.handle, wake));
            return;
        }
        self.turn(sessions, wake);
    }

    /// Has turns until it rests, has to wait, or ends.
    fn turn(self: &Rc<Self>, sessions: &Sessions, first: Wake) {
        let mut wake = first;
        for _ in 0..TURNS_MAX {
            let is_last = matches!(wake, Wake::Hangup);
            let code = match frame::charge(self.generation(), || self.try_turn(sessions, &wake)) {
                None => return,
                Some(Tried::Over(code)) => code,
                Some(Tried::Waits(future, relay)) => {
                    return self.go_on_as_task(future, relay, is_last);
                }
            };
            match self.after_turn(sessions, code, is_last) {
                Some(next) => wake = next,
                None => return,
            }
            // It was one of those that are told of their hand-over, and some still are not.
            if sessions.held_back.borrow().is_some() {
                break;
            }
        }
        // Others have their turns first.
        self.turn_soon(wake);
    }

    /// Has a turn when the loop comes to it.
    fn turn_soon(self: &Rc<Self>, wake: Wake) {
        let session = self.clone();
        tokio::task::spawn_local(async move {
            let service = session.service.clone();
            // It may have ended meanwhile, and its plugin be about to go.
            if let Some(sessions) =
                service.sessions().filter(|all| all.find(session.handle).is_some())
            {
                session.have_turn(sessions, wake);
            }
        });
    }

    /// Begins a turn, and polls it once. `None` if the session has ended by it.
    fn try_turn(self: &Rc<Self>, sessions: &Sessions, wake: &Wake) -> Option<Tried> {
        let Some(future) = self.begin_turn(sessions, wake)? else {
            return Some(Tried::Over(code::READY));
        };
        let relay = sessions.relay();
        let waker = Waker::from(relay.clone());
        Some(match future.poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(code) => {
                drop(waker);
                sessions.give_back(relay);
                Tried::Over(code)
            }
            Poll::Pending => Tried::Waits(future, relay),
        })
    }

    /// Calls the plugin. `None` if the session has ended by it; a turn that was over at once has no future.
    fn begin_turn(
        self: &Rc<Self>,
        sessions: &Sessions,
        wake: &Wake,
    ) -> Option<Option<Rc<PluginFuture>>> {
        self.until_ns.set(NOT_PARKED);
        let (why, posted): (u32, &[u8]) = match wake {
            Wake::Readable => (WAKE_READABLE, &[]),
            Wake::Hangup => (WAKE_HANGUP, &[]),
            Wake::Deadline => (WAKE_DEADLINE, &[]),
            Wake::Drain => (WAKE_DRAIN, &[]),
            Wake::Resumed => (WAKE_RESUMED, &[]),
            Wake::Posted(bytes) => (WAKE_POSTED, bytes),
        };
        let mut task = Task::NONE;
        let code = frame::enter(self.generation(), || {
            let data = self.service.object.data();
            // SAFETY: The hooks are statics of a library that is mapped while the service's object lives; the posted bytes are
            // borrowed for the call, and `task` outlives it.
            unsafe { sessions.hooks.get() }.map_or(code::INVALID, |hooks| unsafe {
                (hooks.turn)(data, self.handle, why, Slice::new(posted), &mut task)
            })
        });
        if code < 0 {
            self.fail(sessions, code);
            return None;
        }
        let is_over = task.hooks.as_ptr().is_null();
        Some((!is_over).then(|| PluginFuture::new(self.generation(), task, "session")))
    }

    /// The turn has to wait.
    fn go_on_as_task(self: &Rc<Self>, future: Rc<PluginFuture>, relay: Arc<Relay>, is_last: bool) {
        self.drive(is_last, async move {
            let mut is_known = false;
            let code = poll_fn(|context| {
                // For what was set up before this was a task, whose waker stays the same. What is set up from now on wakes the task itself.
                if !std::mem::replace(&mut is_known, true) {
                    relay.set(Some(context.waker()));
                }
                future.poll(context)
            });
            let code = code.await;
            relay.set(None);
            code
        });
    }

    fn drive(self: &Rc<Self>, is_last: bool, turn: impl Future<Output = Code> + 'static) {
        let session = self.clone();
        let driver = tokio::task::spawn_local(async move {
            let code = turn.await;
            session.driver.take();
            let service = session.service.clone();
            let Some(sessions) = service.sessions() else { return };
            if let Some(next) = session.after_turn(sessions, code, is_last) {
                session.have_turn(sessions, next);
            }
        });
        self.driver.set(Some(driver.abort_handle()));
    }

    /// A turn is over: what the next one is for, if it has one at once.
    fn after_turn(self: &Rc<Self>, sessions: &Sessions, code: Code, is_last: bool) -> Option<Wake> {
        if code != code::READY {
            self.fail(sessions, code);
            return None;
        }
        // Nothing can wake a session whose peer has gone, but its going.
        if self.until_ns.get() == NOT_PARKED || is_last {
            self.end(sessions);
            return None;
        }
        if hand_over::go_over(self) {
            return None;
        }
        if sessions.is_frozen.get() {
            self.is_held.set(true);
            return None;
        }
        self.go_on(sessions)
    }

    /// What is next for one that has parked: a turn, or a rest.
    fn go_on(self: &Rc<Self>, sessions: &Sessions) -> Option<Wake> {
        if self.until_ns.get() == RESUMES {
            // Nobody takes it: it is told to come to an end where it is, and goes on if there is no need to.
            let is_draining = self.generation().phase.get() == Phase::Draining;
            return Some(if is_draining { Wake::Drain } else { Wake::Resumed });
        }
        let next = self.next().or_else(|| self.connection.has_unread().then_some(Wake::Readable));
        if next.is_none() {
            self.rest(sessions);
        }
        next
    }

    fn rest(self: &Rc<Self>, sessions: &Sessions) {
        let clock = &self.generation().instance.registry.clock;
        let deadline = match self.until_ns.get() {
            0 => None,
            deadline_ns => Some(clock.instant(deadline_ns).into_std()),
        };
        match self.connection.park(deadline) {
            Ok(()) => {
                self.is_resting.set(true);
                self.connection.set_parked(true);
                self.connection.rests();
                // What came meanwhile.
                self.stir();
            }
            Err(error) => {
                tracing::debug!(
                    instance = self.generation().name(),
                    "a connection cannot be parked: {error}"
                );
                self.end(sessions);
            }
        }
    }

    /// It has failed in a turn.
    fn fail(&self, sessions: &Sessions, code: Code) {
        if code != code::PANICKED || !sessions.strand(self) {
            self.end(sessions);
        }
    }

    /// Ends it: the plugin drops what it keeps of it, and the connection is closed.
    fn end(&self, sessions: &Sessions) {
        if sessions.remove(self.handle).is_none() {
            return;
        }
        self.connection.unpark();
        sessions.forget(&self.service, self.handle);
        drop(self.generation().handles.remove(self.handle));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.generation().leave_flight();
    }
}

impl Attendant for Service {
    fn woken(&self, number: u64, why: Why) {
        if let Some(sessions) = self.sessions() {
            sessions.woken(number, why);
        }
    }
}
