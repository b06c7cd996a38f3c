//! The registry: every instance of the host, and what they share.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::AtomicU64},
    time::Instant,
};

use medusa_abi::data::InstanceId;
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use crate::{
    config::Config,
    net::{Connections, KeptSockets, Resolver},
    plugin::{
        generation::Generation, instance::Instance, off_loop::Post, offer::ResponderEntry,
        own::OwnService, pool::Pool, route::Sites,
    },
    sys::clock,
};

/// What the host runs.
pub struct Registry {
    /// The loop's clock.
    pub clock: Clock,
    /// The threads for plugins' blocking jobs.
    pub pool: Rc<Pool>,
    /// The threads for the host's own: files, names, libraries that are read. No code of a plugin runs there, so that no plugin can
    /// keep the others from their files, nor the operator from loading and unloading.
    pub host_pool: Rc<Pool>,
    /// Whose routes are whose.
    pub sites: Sites,
    /// Every live connection.
    pub connections: Connections,
    /// Listening sockets that the service manager keeps.
    pub sockets: KeptSockets,
    /// Looks names up.
    pub resolver: Resolver,
    /// Calls into plugins that took too long.
    pub stalls: Arc<AtomicU64>,
    /// Whether polls and the latency of requests are counted.
    pub counters: bool,
    /// Where other threads put posts.
    pub posts: UnboundedSender<Post>,
    /// A thread that a plugin had started by itself has ended.
    pub threads_ended: Notify,
    /// What there is has changed: instances, what they listen on, the configuration.
    pub changed: Notify,
    /// The host's own services, once whoever answers them is there.
    pub own_services: OnceCell<Vec<OwnService>>,
    config: RefCell<Rc<Config>>,
    instances: RefCell<BTreeMap<String, Rc<Instance>>>,
    last_id: Cell<InstanceId>,
}

/// The monotonic clock of the ABI: nanoseconds since the host's start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// The same moment as the system counts it: asked directly, it costs half.
    start_ns: u64,
}

impl Clock {
    /// A clock that begins now.
    fn begin() -> Clock {
        Clock { start_ns: clock::monotonic_ns(), start: Instant::now() }
    }

    /// A clock that began at `start_ns` of the system's, in another image of the host.
    pub fn since(start_ns: u64) -> Clock {
        let now_ns = clock::monotonic_ns();
        let gone = std::time::Duration::from_nanos(now_ns.saturating_sub(start_ns));
        let start = Instant::now().checked_sub(gone).unwrap_or_else(Instant::now);
        Clock { start_ns, start }
    }

    /// When it began, as the system counts it.
    pub fn start_ns(&self) -> u64 {
        self.start_ns
    }

    /// When it began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// Now.
    pub fn now_ns(&self) -> u64 {
        clock::monotonic_ns().saturating_sub(self.start_ns)
    }

    /// The moment that `ns` means. One too far away to be told is a century away.
    pub fn instant(&self, ns: u64) -> tokio::time::Instant {
        const CENTURY_NS: u64 = 100 * 365 * 86_400 * 1_000_000_000;
        let ns = ns.min(CENTURY_NS);
        (self.start + std::time::Duration::from_nanos(ns)).into()
    }
}

impl Registry {
    /// A registry without instances. `deliver` is to be awaited on the loop for as long as it serves.
    pub fn new(
        config: Rc<Config>,
        pool: Rc<Pool>,
        host_pool: Rc<Pool>,
        stalls: Arc<AtomicU64>,
        clock: Option<Clock>,
    ) -> (Rc<Registry>, UnboundedReceiver<Post>) {
        let (posts, deliver) = unbounded_channel();
        let limits = &config.limits;
        let registry = Registry {
            clock: clock.unwrap_or_else(Clock::begin),
            resolver: Resolver::new(
                host_pool.clone(),
                usize::try_from(limits.lookups_max).unwrap_or(usize::MAX),
            ),
            stalls,
            counters: config.counters,
            pool,
            host_pool,
            sites: Sites::new(usize::try_from(limits.http_routes_max).unwrap_or(usize::MAX)),
            connections: Connections::new(limits),
            sockets: KeptSockets::default(),
            posts,
            threads_ended: Notify::new(),
            changed: Notify::new(),
            own_services: OnceCell::new(),
            instances: RefCell::default(),
            last_id: Cell::new(0),
            config: RefCell::new(config),
        };
        (Rc::new(registry), deliver)
    }

    /// The configuration in force.
    pub fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    /// Another configuration is in force from now on.
    pub fn set_config(&self, config: Rc<Config>) {
        *self.config.borrow_mut() = config;
        self.changed.notify_one();
    }

    /// Brings posts to their generations.
    pub async fn deliver(self: Rc<Self>, mut posts: UnboundedReceiver<Post>) {
        while let Some(post) = posts.recv().await {
            if let Some(generation) = self.generation(post.to) {
                generation.off_loop.delivered(post.bytes.len());
                // Once its handles were closed it is stopped, or about to be, and is called for nothing more.
                if !generation.handles.is_closed() {
                    generation.posted(&post.bytes);
                }
            }
        }
    }

    /// A number for a new generation.
    pub fn next_id(&self) -> InstanceId {
        self.last_id.set(self.last_id.get() + 1);
        self.last_id.get()
    }

    /// Has the numbers of generations go on after `id`: what this process was before knows others by lower ones.
    pub fn set_last_id(&self, id: InstanceId) {
        self.last_id.set(id.max(self.last_id.get()));
    }

    /// The instance of that name.
    pub fn instance(&self, name: &str) -> Option<Rc<Instance>> {
        self.instances.borrow().get(name).cloned()
    }

    /// All instances, by name.
    pub fn instances(&self) -> Vec<Rc<Instance>> {
        self.instances.borrow().values().cloned().collect()
    }

    /// Adds an instance.
    pub fn insert(&self, instance: Rc<Instance>) {
        self.instances.borrow_mut().insert(instance.name.clone(), instance);
    }

    /// Forgets an instance that has no generation left.
    pub fn remove(&self, name: &str) {
        self.instances.borrow_mut().remove(name);
        self.changed.notify_one();
    }

    /// The generation of that id, if it is still mapped.
    pub fn generation(&self, id: InstanceId) -> Option<Rc<Generation>> {
        let instances = self.instances.borrow();
        instances
            .values()
            .flat_map(|instance| instance.generations())
            .find(|generation| generation.id == id)
    }

    /// The host's own service of that name.
    pub fn own_service(&self, service: &str) -> Option<&OwnService> {
        self.own_services.get()?.iter().find(|own| own.name == service)
    }

    /// The service of that name, at the instance `target` or at whichever offers it.
    pub fn responder(&self, target: Option<&str>, service: &str) -> Option<Rc<ResponderEntry>> {
        let instances = self.instances.borrow();
        let asked = instances
            .values()
            .filter(|instance| target.is_none_or(|target| target == instance.name));
        asked.filter_map(|instance| instance.current()).find_map(|generation| {
            let responders = generation.responders.borrow();
            responders.iter().find(|responder| responder.service == service).cloned()
        })
    }
}
