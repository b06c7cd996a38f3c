//! The world of one plugin under test: handles, tasks, virtual time.

use std::{
    cell::{Cell as StdCell, RefCell},
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::c_void,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice},
    net::{Service, Session},
    service::{Command, Responder},
    task::{Job, Task, Thread},
};

use super::{
    exchange::{Exchange, RouteEntry},
    files::OpenFile,
    pipe::End,
    wake::{Cell, Kept, SHARED, wake_slot},
};

/// What a handle stands for.
#[derive(Clone)]
pub(super) enum Entry {
    Task(Rc<TaskEntry>),
    Timer(Rc<Timer>),
    Job(Rc<Running>),
    Connection(Rc<Connection>),
    Listener(Rc<Listener>),
    Lookup(Vec<SocketAddr>),
    Folder(std::path::PathBuf),
    File(Rc<OpenFile>),
    Service(Rc<ServiceEntry>),
    Command(Rc<CommandEntry>),
    Metric(Rc<MetricEntry>),
    Responder(Rc<ResponderEntry>),
    Call(Rc<Call>),
    Route(Rc<RouteEntry>),
    Observer(Rc<super::exchange::ObserverEntry>),
    Exchange(Rc<Exchange>),
}

pub(super) struct TaskEntry {
    pub(super) task: StdCell<Option<Task>>,
    cell: Arc<Cell>,
    pub(super) outcome: StdCell<Option<Code>>,
    polling: StdCell<bool>,
    aborted: StdCell<bool>,
    waiter: RefCell<Option<Kept>>,
}

pub(super) struct Timer {
    pub(super) deadline: StdCell<u64>,
    pub(super) waker: RefCell<Option<Kept>>,
}

/// A job or a thread.
pub(super) struct Running {
    pub(super) shared: Arc<Finished>,
    pub(super) join: RefCell<Option<std::thread::JoinHandle<()>>>,
    pub(super) give_back: RefCell<Option<Box<dyn FnOnce()>>>,
    pub(super) stop: RefCell<Option<Box<dyn FnOnce()>>>,
}

#[derive(Default)]
pub(super) struct Finished {
    pub(super) code: Mutex<Option<Code>>,
    pub(super) waker: Mutex<Option<Kept>>,
}

pub(super) struct Connection {
    pub(super) end: End,
    pub(super) id: u64,
    pub(super) listener: u32,
    pub(super) parked: StdCell<Option<u64>>,
    /// A session's connection that is new, resumed or was posted to.
    pub(super) due: RefCell<VecDeque<(u32, Vec<u8>)>>,
    /// The task of the running turn.
    pub(super) turn: StdCell<Handle>,
    /// Served by sessions.
    pub(super) session: StdCell<bool>,
    pub(super) hangup_told: StdCell<bool>,
    pub(super) drain_told: StdCell<bool>,
}

#[derive(Default)]
pub(super) struct Listener {
    pub(super) address: Option<SocketAddr>,
    pub(super) waiting: RefCell<Vec<End>>,
    pub(super) waker: RefCell<Option<Kept>>,
}

pub(super) enum ServiceEntry {
    Service(Service),
    Session(Session),
}

pub(super) struct CommandEntry {
    pub(super) name: String,
    pub(super) command: Command,
}

pub(super) struct MetricEntry {
    pub(super) name: String,
    pub(super) word: Box<std::sync::atomic::AtomicU64>,
}

pub(super) struct ResponderEntry {
    pub(super) service: String,
    pub(super) version: u32,
    pub(super) responder: Responder,
}

/// A call of a service or a run of a command.
#[derive(Default)]
pub(super) struct Call {
    pub(super) pieces: RefCell<VecDeque<Vec<u8>>>,
    pub(super) task: StdCell<Handle>,
    pub(super) reader: RefCell<Option<Kept>>,
    pub(super) writer: RefCell<Option<Kept>>,
}

pub(super) struct World {
    pub(super) name: String,
    entries: RefCell<BTreeMap<Handle, Entry>>,
    next: StdCell<Handle>,
    pub(super) now_ns: StdCell<u64>,
    pub(super) is_draining: StdCell<bool>,
    /// Sessions that rest are to go over to the next version, and have no turn before.
    pub(super) is_handing_over: StdCell<bool>,
    pub(super) failure: RefCell<Option<String>>,
    pub(super) names: RefCell<HashMap<String, Vec<SocketAddr>>>,
    /// Listeners of the plugin and of the test.
    pub(super) ports: RefCell<HashMap<SocketAddr, Rc<Listener>>>,
    /// Jobs and threads whose memory is not given back yet.
    pub(super) running: RefCell<Vec<Rc<Running>>>,
    pub(super) next_connection: StdCell<u64>,
    pub(super) posted: unsafe extern "C" fn(Slice) -> Code,
    pub(super) site: RefCell<Option<super::Site>>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// The world of this thread.
pub(super) fn world() -> Option<Rc<World>> {
    WORLD.with_borrow(Clone::clone)
}

impl World {
    pub(super) fn new(name: &str, posted: unsafe extern "C" fn(Slice) -> Code) -> Rc<World> {
        Rc::new(World {
            name: name.to_owned(),
            entries: RefCell::default(),
            next: StdCell::new(1),
            now_ns: StdCell::new(1_000_000_000),
            is_draining: StdCell::new(false),
            is_handing_over: StdCell::new(false),
            failure: RefCell::default(),
            names: RefCell::default(),
            ports: RefCell::default(),
            running: RefCell::default(),
            next_connection: StdCell::new(1),
            posted,
            site: RefCell::default(),
        })
    }

    pub(super) fn enter(self: &Rc<World>) {
        WORLD.set(Some(self.clone()));
    }

    pub(super) fn leave() {
        drop(WORLD.take());
    }

    pub(super) fn insert(&self, entry: Entry) -> Handle {
        let handle = self.next.get();
        self.next.set(handle + 1);
        self.entries.borrow_mut().insert(handle, entry);
        handle
    }

    pub(super) fn get(&self, handle: Handle) -> Option<Entry> {
        self.entries.borrow().get(&handle).cloned()
    }

    /// Whether there is one that is so.
    pub(super) fn any(&self, is: impl Fn(&Entry) -> bool) -> bool {
        self.entries.borrow().values().any(is)
    }

    pub(super) fn entries(&self) -> Vec<(Handle, Entry)> {
        self.entries.borrow().iter().map(|(handle, entry)| (*handle, entry.clone())).collect()
    }

    /// Drops what a handle stands for.
    pub(super) fn remove(&self, handle: Handle) -> Code {
        let Some(entry) = self.entries.borrow_mut().remove(&handle) else { return code::STALE };
        match entry {
            // Forgotten, not stopped: it stays until it ends.
            Entry::Task(task) if task.outcome.get().is_none() => {
                self.entries.borrow_mut().insert(handle, Entry::Task(task));
            }
            Entry::Exchange(exchange) => exchange.cancel(self),
            Entry::Call(call) => {
                self.abort(call.task.get());
            }
            Entry::Service(service) => match *service {
                // SAFETY: The hooks of what was registered, given back once.
                ServiceEntry::Service(service) => unsafe {
                    service.hooks.get().map(|hooks| (hooks.drop)(service.data));
                },
                // SAFETY: As above.
                ServiceEntry::Session(session) => unsafe {
                    session.hooks.get().map(|hooks| (hooks.drop)(session.data));
                },
            },
            // SAFETY: As above.
            Entry::Command(entry) => unsafe {
                entry.command.hooks.get().map(|hooks| (hooks.drop)(entry.command.data));
            },
            // SAFETY: As above.
            Entry::Responder(entry) => unsafe {
                entry.responder.hooks.get().map(|hooks| (hooks.drop)(entry.responder.data));
            },
            // SAFETY: As above.
            Entry::Route(entry) => unsafe {
                entry.handler.hooks.get().map(|hooks| (hooks.drop)(entry.handler.data));
            },
            // SAFETY: As above.
            Entry::Observer(entry) => unsafe {
                entry.0.hooks.get().map(|hooks| (hooks.drop)(entry.0.data));
            },
            Entry::Listener(listener) => {
                self.ports.borrow_mut().retain(|_, other| !Rc::ptr_eq(other, &listener));
            }
            _ => {}
        }
        code::READY
    }

    pub(super) fn spawn(&self, task: Task) -> Handle {
        let handle = self.next.get();
        let entry = TaskEntry {
            task: StdCell::new(Some(task)),
            cell: Cell::of_task(handle),
            outcome: StdCell::new(None),
            polling: StdCell::new(false),
            aborted: StdCell::new(false),
            waiter: RefCell::new(None),
        };
        self.insert(Entry::Task(Rc::new(entry)));
        SHARED.lock().ready.push_back(handle);
        handle
    }

    pub(super) fn abort(&self, handle: Handle) -> Code {
        let Some(Entry::Task(task)) = self.get(handle) else { return code::STALE };
        if task.polling.get() {
            task.aborted.set(true);
        } else if task.outcome.get().is_none() {
            task.finish(code::CANCELLED);
        }
        code::READY
    }

    pub(super) fn poll_task(&self, handle: Handle, waker: Option<Kept>) -> Code {
        let Some(Entry::Task(task)) = self.get(handle) else { return code::STALE };
        match task.outcome.get() {
            Some(code @ (code::PANICKED | code::CANCELLED)) => code,
            Some(_) => code::READY,
            None => {
                *task.waiter.borrow_mut() = waker;
                code::PENDING
            }
        }
    }

    pub(super) fn outcome(&self, handle: Handle) -> Option<Code> {
        match self.get(handle) {
            Some(Entry::Task(task)) => task.outcome.get(),
            _ => Some(code::STALE),
        }
    }

    /// Polls one task once.
    pub(super) fn poll_once(&self, handle: Handle) {
        let Some(Entry::Task(entry)) = self.get(handle) else { return };
        let Some(task) = entry.task.get() else { return };
        if entry.polling.replace(true) {
            return;
        }
        let context = entry.cell.context(self.now_ns.get());
        // SAFETY: The task is the plugin's, not dropped yet, and polled from here only.
        let code = unsafe { task.hooks.get().map(|hooks| (hooks.poll)(task.data, &context)) };
        entry.polling.set(false);
        match code.unwrap_or(code::INVALID) {
            code::PENDING if entry.aborted.get() => entry.finish(code::CANCELLED),
            code::PENDING => {}
            code => entry.finish(code),
        }
    }

    /// Lets everything run that can, without moving the time.
    pub(super) fn run_ready(self: &Rc<World>) {
        /// A plugin that wakes itself for ever is not idle at any time.
        const POLLS_MAX: usize = 1_000_000;
        for _ in 0..POLLS_MAX {
            let (task, post) = {
                let mut state = SHARED.lock();
                (state.ready.pop_front(), state.posts.pop_front())
            };
            let mut busy = task.is_some() || post.is_some();
            if let Some(task) = task {
                self.poll_once(task);
            }
            if let Some(post) = post {
                // SAFETY: The bytes are borrowed for the call.
                unsafe { (self.posted)(Slice::new(&post)) };
            }
            busy |= self.reap() | super::net::take_turns(self) | self.fire_timers();
            if !busy {
                return;
            }
        }
        panic!("the plugin did not come to rest after {POLLS_MAX} polls");
    }

    /// Runs until `done` answers something, moving the time on whenever nothing else happens.
    ///
    /// # Panics
    /// When nothing will ever happen, or does for an hour of virtual time.
    pub(super) fn run_until<R>(
        self: &Rc<World>,
        what: &str,
        mut done: impl FnMut() -> Option<R>,
    ) -> R {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let end = self.now_ns.get() + HOUR_NS;
        loop {
            let wakes = SHARED.lock().wakes;
            self.run_ready();
            if let Some(result) = done() {
                return result;
            }
            if self.has_jobs() && SHARED.wait(wakes) {
                continue;
            }
            match self.next_deadline() {
                Some(deadline) if deadline <= end => self.now_ns.set(deadline),
                Some(_) => panic!("{what}: nothing came of it in an hour of virtual time"),
                // A thread may still post.
                None if !self.running.borrow().is_empty() && SHARED.wait(wakes) => {}
                None => panic!("{what}: it waits for something that will never happen"),
            }
        }
    }

    /// Whether a job runs, which will end by itself. (A thread need not.)
    pub(super) fn has_jobs(&self) -> bool {
        self.running.borrow().iter().any(|running| running.stop.borrow().is_none())
    }

    pub(super) fn advance(self: &Rc<World>, target: u64) {
        self.run_ready();
        while let Some(deadline) = self.next_deadline().filter(|deadline| *deadline <= target) {
            self.now_ns.set(deadline.max(self.now_ns.get()));
            self.run_ready();
        }
        self.now_ns.set(target);
        self.run_ready();
    }

    /// The earliest timer that somebody waits for, or deadline of a parked connection.
    fn next_deadline(&self) -> Option<u64> {
        let entries = self.entries.borrow();
        let deadlines = entries.values().filter_map(|entry| match entry {
            Entry::Timer(timer) => timer.waker.borrow().is_some().then(|| timer.deadline.get()),
            Entry::Connection(conn) => conn.parked.get().filter(|deadline| *deadline != 0),
            _ => None,
        });
        deadlines.min()
    }

    fn fire_timers(&self) -> bool {
        let now = self.now_ns.get();
        let mut fired = false;
        for (_, entry) in self.entries() {
            if let Entry::Timer(timer) = entry
                && timer.deadline.get() <= now
                && timer.waker.borrow().is_some()
            {
                wake_slot(&timer.waker);
                fired = true;
            }
        }
        fired
    }

    /// Gives back the memory of jobs and threads that have ended.
    pub(super) fn reap(&self) -> bool {
        let ended: Vec<_> = {
            let mut running = self.running.borrow_mut();
            running.extract_if(.., |running| running.code().is_some()).collect()
        };
        for running in &ended {
            running.finish();
        }
        !ended.is_empty()
    }
}

impl TaskEntry {
    fn finish(&self, code: Code) {
        self.outcome.set(Some(code));
        if let Some(task) = self.task.take() {
            // SAFETY: The task is dropped once, for it was taken, and outside of its own poll.
            unsafe { task.hooks.get().map(|hooks| (hooks.drop)(task.data)) };
        }
        wake_slot(&self.waiter);
    }
}

/// A pointer of the plugin's on its way to another thread.
struct Sent(*mut c_void);

// SAFETY: The ABI says that jobs and threads run off the loop.
unsafe impl Send for Sent {}

impl Running {
    pub(super) fn job(job: Job) -> Rc<Running> {
        let data = Sent(job.data);
        let hooks = job.hooks;
        let run = move || {
            let data = data;
            // SAFETY: Run once, on this thread; dropped after it.
            unsafe { hooks.get().map_or(code::INVALID, |hooks| (hooks.run)(data.0)) }
        };
        let give_back = move || {
            // SAFETY: The job has run.
            unsafe { hooks.get().map(|hooks| (hooks.drop)(job.data)) };
        };
        Running::start(run, Box::new(give_back), None)
    }

    pub(super) fn thread(thread: Thread) -> Rc<Running> {
        let data = Sent(thread.data);
        let hooks = thread.hooks;
        let run = move || {
            let data = data;
            // SAFETY: Run once, on this thread; dropped after it was joined.
            unsafe { hooks.get().map_or(code::INVALID, |hooks| (hooks.run)(data.0)) }
        };
        let give_back = move || {
            // SAFETY: The thread was joined.
            unsafe { hooks.get().map(|hooks| (hooks.drop)(thread.data)) };
        };
        let stop = move || {
            // SAFETY: The thread was not given back yet.
            unsafe { hooks.get().map(|hooks| (hooks.stop)(thread.data)) };
        };
        Running::start(run, Box::new(give_back), Some(Box::new(stop)))
    }

    fn start(
        run: impl FnOnce() -> Code + Send + 'static,
        give_back: Box<dyn FnOnce()>,
        stop: Option<Box<dyn FnOnce()>>,
    ) -> Rc<Running> {
        let shared = Arc::new(Finished::default());
        let finished = shared.clone();
        let join = std::thread::spawn(move || {
            let code = run();
            *finished.code.lock().unwrap_or_else(PoisonError::into_inner) = Some(code);
            SHARED.notify();
        });
        Rc::new(Running {
            shared,
            join: RefCell::new(Some(join)),
            give_back: RefCell::new(Some(give_back)),
            stop: RefCell::new(stop),
        })
    }

    pub(super) fn code(&self) -> Option<Code> {
        *self.shared.code.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn finish(&self) {
        if let Some(join) = self.join.take() {
            // Its panics were caught inside.
            let _ = join.join();
        }
        if let Some(give_back) = self.give_back.take() {
            give_back();
        }
        let waker = self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(super) fn poll(&self, waker: Option<Kept>) -> Code {
        // Only once the memory was given back: the outcome is what the plugin looks at then.
        if self.give_back.borrow().is_none() {
            return match self.code() {
                Some(code::PANICKED) => code::PANICKED,
                _ => code::READY,
            };
        }
        *self.shared.waker.lock().unwrap_or_else(PoisonError::into_inner) = waker;
        code::PENDING
    }
}
