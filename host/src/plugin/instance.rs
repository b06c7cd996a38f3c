//! An instance: a plugin under a configured name, its listeners, and its generations.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    os::fd::{AsFd, AsRawFd, RawFd},
    rc::Rc,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinHandle};

use crate::{
    config::{self, limits::Limits},
    net::{Accepting, Address, Listener, Quota, connections::Traffic},
    plugin::{
        generation::{Generation, Phase},
        lifecycle,
        manifest::PluginKind,
        probation::Probation,
        registry::Registry,
        restart::Health,
        serve::Service,
    },
    status::{
        DurationFigures,
        durations::{Counted, Durations},
    },
};

/// A plugin under a name of its own.
pub struct Instance {
    /// Unique in the registry.
    pub name: String,
    /// Where it belongs.
    pub registry: Rc<Registry>,
    /// What is configured.
    pub spec: RefCell<Rc<config::Instance>>,
    /// How many connections it may have, and has.
    pub quota: Rc<Quota>,
    /// How long the loop was in its code each time, if that is counted.
    pub polls: Option<Durations>,
    /// Of a server of HTTP: how long its requests took.
    latency: OnceCell<Durations>,
    /// What went over its connections.
    pub traffic: Rc<Traffic>,
    /// Held by whoever loads, upgrades or unloads it.
    pub turn: tokio::sync::Mutex<()>,
    /// Its faults lately, and what was done about them.
    pub health: RefCell<Health>,
    /// What it goes back to if its current generation has too many faults.
    probation: RefCell<Option<Rc<Probation>>>,
    current: RefCell<Option<Rc<Generation>>>,
    generations: RefCell<Vec<Rc<Generation>>>,
    listeners: RefCell<Vec<Bound>>,
    last_generation: Cell<u32>,
    requests: Cell<u64>,
    /// Panics of generations that are gone.
    panics_before: Cell<u64>,
    /// The current generation or its service has changed.
    changed: Notify,
}

/// What an instance has counted since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    generations: u32,
    requests: u64,
    panics: u64,
    #[serde(default)]
    restarts: u64,
    /// Over connections that are gone.
    #[serde(default)]
    bytes_in: u64,
    #[serde(default)]
    bytes_out: u64,
    #[serde(default)]
    polls: Option<Counted>,
    #[serde(default)]
    latency: Option<Counted>,
}

/// After so many connections of one listener the others have a turn: the first turn of each was taken where it was accepted.
const CONNECTIONS_PER_TURN: u64 = 64;

/// A listener at work.
struct Bound {
    listener: Rc<Listener>,
    /// The address as it is configured: the port may be 0.
    configured: Address,
    /// Its place among the instance's addresses.
    index: Rc<Cell<u32>>,
    accepted: Rc<Cell<u64>>,
    accepting: JoinHandle<()>,
}

/// A listener, and the address that is configured for it.
pub type Bind = (Address, Rc<Listener>);

impl Instance {
    /// An instance that is not loaded.
    pub fn new(registry: &Rc<Registry>, spec: Rc<config::Instance>) -> Rc<Instance> {
        let connections_max = lifecycle::quota_of(&spec);
        Rc::new(Instance {
            name: spec.name.clone(),
            registry: registry.clone(),
            spec: RefCell::new(spec),
            quota: Quota::new("connections_per_instance_max", connections_max),
            polls: registry.counters.then(Durations::default),
            latency: OnceCell::new(),
            traffic: Rc::default(),
            turn: tokio::sync::Mutex::default(),
            health: RefCell::default(),
            probation: RefCell::default(),
            current: RefCell::default(),
            generations: RefCell::default(),
            listeners: RefCell::default(),
            last_generation: Cell::new(0),
            requests: Cell::new(0),
            panics_before: Cell::new(0),
            changed: Notify::new(),
        })
    }

    /// The number of the next generation.
    pub fn next_generation(&self) -> u32 {
        self.last_generation.set(self.last_generation.get() + 1);
        self.last_generation.get()
    }

    /// What it has counted, for another image of the host to go on with.
    pub fn counts(&self) -> Counts {
        let (bytes_in, bytes_out) = self.traffic.of_gone();
        Counts {
            generations: self.last_generation.get(),
            requests: self.requests.get(),
            panics: self.panics(),
            restarts: self.health.borrow().restarts(),
            bytes_in,
            bytes_out,
            polls: self.polls.as_ref().map(Durations::counted),
            latency: self.latency.get().map(Durations::counted),
        }
    }

    /// Goes on counting where another image of the host left off.
    pub fn set_counts(&self, counts: &Counts) {
        self.last_generation.set(counts.generations);
        self.requests.set(counts.requests);
        self.panics_before.set(counts.panics);
        self.health.borrow_mut().set_restarts(counts.restarts);
        self.traffic.add(counts.bytes_in, counts.bytes_out);
        if let (Some(polls), Some(counted)) = (&self.polls, &counts.polls) {
            polls.resume(counted);
        }
        if let Some(counted) = &counts.latency {
            self.latency.get_or_init(Durations::default).resume(counted);
        }
    }

    /// The limits that are configured for it.
    pub fn limits(&self) -> Limits {
        self.spec.borrow().limits.clone()
    }

    /// The generation that gets new work.
    pub fn current(&self) -> Option<Rc<Generation>> {
        self.current.borrow().clone()
    }

    /// Makes another generation the one that gets new work, or none.
    pub fn set_current(&self, generation: Option<Rc<Generation>>) {
        *self.current.borrow_mut() = generation;
        // That was of the one before.
        self.set_probation(None);
        self.changed.notify_waiters();
        self.registry.changed.notify_one();
    }

    /// The probation of its current generation.
    pub fn probation(&self) -> Option<Rc<Probation>> {
        self.probation.borrow().clone()
    }

    /// Its current generation is on probation from now on, or no more.
    pub fn set_probation(&self, probation: Option<Rc<Probation>>) {
        *self.probation.borrow_mut() = probation;
    }

    /// All that are mapped, oldest first.
    pub fn generations(&self) -> Vec<Rc<Generation>> {
        self.generations.borrow().clone()
    }

    /// A generation was mapped.
    pub fn add_generation(&self, generation: Rc<Generation>) {
        self.generations.borrow_mut().push(generation);
    }

    /// A generation was unmapped.
    pub fn remove_generation(&self, generation: &Rc<Generation>) {
        self.panics_before.set(self.panics_before.get() + generation.panics());
        self.generations.borrow_mut().retain(|other| !Rc::ptr_eq(other, generation));
    }

    /// Whether the instance that it extends, if any, is not running.
    pub fn is_waiting(&self) -> bool {
        let spec = self.spec.borrow();
        let attach = spec.attach.as_ref();
        attach.is_some_and(|attach| {
            self.registry.instance(attach).is_none_or(|other| other.current().is_none())
        })
    }

    /// Counts a request that was brought to it.
    pub fn count_request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Counts how long a request took that ended then, or ends now, if that is counted.
    pub fn count_latency(&self, started_ns: u64, ended_ns: Option<u64>) {
        if self.registry.counters {
            let ended_ns = ended_ns.unwrap_or_else(|| self.registry.clock.now_ns());
            let took_ns = ended_ns.saturating_sub(started_ns);
            self.latency.get_or_init(Durations::default).record(took_ns);
        }
    }

    /// How long its requests took, if it is a server of HTTP and that is counted.
    pub fn latency(&self) -> Option<DurationFigures> {
        let is_server = |it: Rc<Generation>| it.manifest.kind == PluginKind::HttpServer;
        let none_yet = self.registry.counters && self.current().is_some_and(is_server);
        let counted = self.latency.get().map(Durations::figures);
        counted.or_else(|| none_yet.then(DurationFigures::default))
    }

    /// Requests that were brought to it, by all its generations.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Panics of all its generations.
    pub fn panics(&self) -> u64 {
        let of = |generation: &Rc<Generation>| generation.panics();
        self.panics_before.get() + self.generations.borrow().iter().map(of).sum::<u64>()
    }

    /// Its listeners' addresses, in the order of the configuration.
    pub fn listeners(&self) -> Vec<Rc<Listener>> {
        self.listeners.borrow().iter().map(|bound| bound.listener.clone()).collect()
    }

    /// Its listeners, and how many connections came in by each.
    pub fn accepted(&self) -> Vec<(Rc<Listener>, u64)> {
        self.listeners
            .borrow()
            .iter()
            .map(|bound| (bound.listener.clone(), bound.accepted.get()))
            .collect()
    }

    /// For each of these addresses the listener that has it already, if there is one.
    pub fn kept(&self, entries: &[config::Listen]) -> Vec<Option<Rc<Listener>>> {
        let mut has: Vec<Bind> = self.bound();
        // An address that is named is found before the system's choice is given to whoever leaves it to the system.
        let mut kept: Vec<_> =
            entries.iter().map(|entry| take_named(&mut has, &entry.address)).collect();
        for (entry, kept) in entries.iter().zip(&mut kept) {
            let at = || has.iter().position(|(configured, _)| *configured == entry.address);
            if kept.is_none()
                && let Some(at) = at()
            {
                *kept = Some(has.remove(at).1);
            }
        }
        kept
    }

    /// Its listeners, with the addresses that are configured for them.
    pub fn bound(&self) -> Vec<Bind> {
        let listeners = self.listeners.borrow();
        listeners.iter().map(|bound| (bound.configured.clone(), bound.listener.clone())).collect()
    }

    /// The addresses that it listens on, as they are configured, with the descriptors of their sockets. Those of the service manager's
    /// own are left out.
    pub fn sockets(&self) -> Vec<(String, RawFd)> {
        let listeners = self.listeners.borrow();
        let own = listeners.iter().filter(|bound| !bound.listener.is_managers());
        own.map(|bound| (bound.configured.to_string(), bound.listener.as_fd().as_raw_fd()))
            .collect()
    }

    /// Has nobody accept any more in this process, which has forked: the sockets are the other one's.
    pub fn abandon_listeners(&self) {
        for bound in self.listeners.borrow().iter() {
            bound.accepting.abort();
        }
    }

    /// Listens on these addresses from now on: those that are bound here, and those that it listens on already, whose listeners
    /// go on as if nothing had happened. All others are closed. They live until [`Instance::close_listeners`], whatever becomes
    /// of the generations.
    pub async fn listen(self: &Rc<Self>, entries: &[config::Listen], mut bound: Vec<Bind>) {
        let kept = self.kept(entries);
        let backlog = self.limits().listen_backlog();
        let mut before = self.listeners.take();
        let mut after = Vec::with_capacity(entries.len());
        for ((config::Listen { address, .. }, kept), index) in entries.iter().zip(kept).zip(0..) {
            let is_it = |bound: &Bound| kept.as_ref().is_some_and(|it| bound.is_of(it));
            if let Some(at) = before.iter().position(is_it) {
                let mut kept = before.remove(at);
                kept.configured = address.clone();
                kept.index.set(index);
                kept.listener.set_backlog(backlog);
                after.push(kept);
            } else if let Some(at) = bound.iter().position(|(bound, _)| bound == address) {
                after.push(self.begin(bound.remove(at), index));
            }
        }
        *self.listeners.borrow_mut() = after;
        self.registry.changed.notify_one();
        self.defer();
        close(before).await;
    }

    /// Has nothing to do with a listener any more, which is not closed for it: connections wait in the kernel for whoever takes it.
    pub async fn let_go(&self, listener: &Rc<Listener>) {
        let gone: Vec<_> =
            self.listeners.borrow_mut().extract_if(.., |bound| bound.is_of(listener)).collect();
        self.registry.changed.notify_one();
        close(gone).await;
    }

    /// Has each listener tell of connections at once, or only when the client has said something: as its entry of `listen` says, or else
    /// as the kind of the current generation is.
    pub fn defer(&self) {
        let Some(generation) = self.current() else { return };
        // The client speaks first in HTTP; of other protocols nothing is known.
        let by_kind = generation.manifest.kind == PluginKind::HttpServer;
        let is_turned_away = generation.phase.get() == Phase::Quarantined;
        let spec = self.spec.borrow();
        for bound in self.listeners.borrow().iter() {
            let entry = spec.listen.get(bound.index.get() as usize);
            let is_deferred = entry.and_then(|entry| entry.deferred).unwrap_or(by_kind);
            bound.listener.set_deferred(is_deferred && !is_turned_away);
        }
    }

    fn begin(self: &Rc<Self>, (configured, listener): Bind, index: u32) -> Bound {
        let accepted = Rc::<Cell<u64>>::default();
        let index = Rc::new(Cell::new(index));
        let (instance, on, place, count) =
            (self.clone(), listener.clone(), index.clone(), accepted.clone());
        let accepting =
            tokio::task::spawn_local(async move { instance.accept(&on, &place, &count).await });
        Bound { listener, configured, index, accepted, accepting }
    }

    /// Accepts nobody any more, from now on: who comes is another process's. The sockets stay until [`Instance::close_listeners`].
    pub fn accept_no_more(&self) {
        self.listeners.borrow().iter().for_each(|bound| bound.accepting.abort());
    }

    /// Stops listening. When this returns, the addresses are free.
    pub async fn close_listeners(&self) {
        let listeners = self.listeners.take();
        self.registry.changed.notify_one();
        close(listeners).await;
    }

    /// A connection is accepted only when there is somebody to serve it; until then it waits in the kernel's queue. While the instance
    /// is quarantined, it is closed at once.
    async fn accept(&self, listener: &Listener, index: &Cell<u32>, count: &Cell<u64>) {
        let mut served = 0_u64;
        loop {
            let (generation, _) = self.serving().await;
            let owner = generation.owner();
            let (connections, quota) = (&self.registry.connections, &self.quota);
            // Asked for at each poll: another configuration may give the listener another place.
            let accepted = poll_fn(|context| {
                let index = index.get();
                listener.poll_accept(context, Accepting { connections, quota, owner, index })
            });
            let accepted = accepted.await;
            // The one who serves can have changed while this waited.
            let (generation, service) = self.serving().await;
            match accepted {
                Ok(connection) => {
                    count.set(count.get() + 1);
                    connection.set_owner(generation.owner().clone());
                    match service {
                        Some(service) => service.serve(Rc::new(connection)),
                        // Its client is to know now, and not to wait for an operator.
                        None => drop(connection),
                    }
                    served += 1;
                    if served.is_multiple_of(CONNECTIONS_PER_TURN) {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    let address = listener.address();
                    tracing::error!(instance = self.name, %address, %error, "the listener is broken; nothing more comes in by it");
                    return;
                }
            }
        }
    }

    /// Whoever takes the next connection, and with what; one that is quarantined takes it with nothing.
    async fn serving(&self) -> (Rc<Generation>, Option<Rc<Service>>) {
        loop {
            let changed = self.changed.notified();
            if let Some(generation) = self.current() {
                let service = generation.service.borrow().clone();
                match generation.phase.get() {
                    Phase::Running if service.is_some() => return (generation, service),
                    Phase::Quarantined => return (generation, None),
                    _ => {}
                }
            }
            changed.await;
        }
    }

    /// Wakes those who wait for a service, which has come.
    pub fn stirred(&self) {
        self.changed.notify_waiters();
        self.registry.changed.notify_one();
    }
}

impl Bound {
    fn is_of(&self, listener: &Rc<Listener>) -> bool {
        Rc::ptr_eq(&self.listener, listener)
    }
}

/// Takes the listener that has an address out of those, if the address says which it is: port 0 does not.
pub fn take_named(listeners: &mut Vec<Bind>, address: &Address) -> Option<Rc<Listener>> {
    let is_named = !matches!(address, Address::Tcp(tcp) if tcp.port() == 0);
    let has =
        |(configured, listener): &Bind| configured == address || listener.address() == address;
    let at = listeners.iter().position(has).filter(|_| is_named)?;
    Some(listeners.remove(at).1)
}

/// Lets go of listeners, which closes those that nobody else has: only a task that has ended has let go of its socket.
async fn close(listeners: Vec<Bound>) {
    for Bound { accepting, .. } in listeners {
        accepting.abort();
        let _ = accepting.await;
    }
}
