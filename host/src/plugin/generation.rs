//! A generation: one loaded image of an instance, and everything that the host keeps for it.

#![allow(unsafe_code)] // Calls the hooks of the library's life.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
    sync::Arc,
};

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, InstanceId, Slice, Table},
    root::{Hooks, Root},
    task::Task,
};
use slab::Slab;
use tokio::sync::{Notify, Semaphore};

use crate::{
    config::limits::Limits,
    net::connections::Owner,
    plugin::{
        callbacks,
        failure::Failure,
        frame,
        future::PluginFuture,
        handles::Handles,
        instance::Instance,
        library::Library,
        manifest::{Capability, Manifest},
        off_loop::OffLoop,
        offer::{CommandEntry, Metric, ResponderEntry},
        permit::Permit,
        route::{ObserverEntry, Route},
        serve::Service,
        sink,
        unload::Unloaded,
        waker::{Cells, ForeignWakers},
        work::PluginThread,
    },
    sys::crash,
};

/// One image of a library at work for one instance.
pub struct Generation {
    /// Names it in every callback; never used twice.
    pub id: InstanceId,
    /// Counts the instance's generations, from 1.
    pub number: u32,
    /// Whose it is.
    pub instance: Rc<Instance>,
    owner: Rc<Owner>,
    /// What its library says of itself.
    pub manifest: Manifest,
    /// The limits in force for it.
    pub limits: Limits,
    /// Where it is in its life.
    pub phase: Cell<Phase>,
    /// Why it is pinned or failed, for people.
    pub reason: RefCell<Option<String>>,
    /// What the host keeps for it, by handle.
    pub handles: Handles,
    /// Its futures, whoever polls them.
    pub futures: RefCell<Slab<Rc<PluginFuture>>>,
    /// Its wakers: those of the host's that it holds.
    pub cells: Cells,
    /// Its wakers: those of its own that the host holds.
    pub foreign_wakers: Arc<ForeignWakers>,
    /// How many calls into it are on the stack.
    pub depth: Cell<u32>,
    /// What other threads may use.
    pub off_loop: Arc<OffLoop>,
    /// How many objects of the plugin's the host holds.
    pub owned: Cell<u32>,
    /// Jobs of it, waiting or running.
    pub jobs_running: Cell<u32>,
    /// Leave to be on the pool, of which there is less than the pool has threads: whatever one plugin's jobs wait for, those of
    /// others run.
    pub job_permits: Rc<Semaphore>,
    /// Threads that the host made for it and that still run.
    pub threads: RefCell<Vec<Rc<PluginThread>>>,
    /// Who serves the connections that come in by the instance's listeners.
    pub service: RefCell<Option<Rc<Service>>>,
    /// The services that it offers to other instances.
    pub responders: RefCell<Vec<Rc<ResponderEntry>>>,
    /// Its monitor commands.
    pub commands: RefCell<Vec<Rc<CommandEntry>>>,
    /// Its metrics, whose words the plugin may write to until it is unmapped.
    pub metrics: RefCell<Vec<Rc<Metric>>>,
    /// What it has given leave to answer again.
    pub permits: RefCell<Slab<Weak<Permit>>>,
    in_flight: Cell<u32>,
    requests: Cell<u64>,
    idle: Notify,
    is_cut_short: Cell<bool>,
    is_finishing: Cell<bool>,
    /// What became of it, once it was unloaded.
    outcome: RefCell<Option<Unloaded>>,
    /// Why the running call fails, until it has answered.
    said: RefCell<Option<String>>,
    root: *const Root,
    /// Set by `heap_release`: no code of the library may be called any more, whether it is mapped or not.
    is_emptied: Cell<bool>,
    /// It was never prepared, and no code of it is to run.
    is_dormant: Cell<bool>,
    /// Dropped last of all, by `take_library`.
    library: RefCell<Option<Library>>,
}

/// The phases of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Loaded, and not yet serving.
    Starting,
    /// The instance's current one.
    Running,
    /// Fenced off by its own faults: no new work reaches it.
    Quarantined,
    /// It finishes what is in flight.
    Draining,
    /// Nothing of it is left but its mapping, which cannot go yet.
    Pinned,
    /// Unmapped.
    Gone,
}

impl Phase {
    /// The word of the monitor.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Quarantined => "quarantined",
            Phase::Draining => "draining",
            Phase::Pinned => "pinned",
            Phase::Gone => "gone",
        }
    }
}

impl Generation {
    /// Makes a generation of a library that was opened and whose root was checked.
    pub fn new(
        instance: &Rc<Instance>,
        library: Library,
        root: *const Root,
        manifest: Manifest,
    ) -> Rc<Generation> {
        let number = instance.next_generation();
        let registry = &instance.registry;
        let id = registry.next_id();
        crash::set_name(id, &instance.name);
        let limits = instance.limits();
        let off_loop = OffLoop::new(id, &instance.name, &limits, registry.posts.clone());
        let owner = Rc::new(Owner {
            instance: instance.name.as_str().into(),
            generation: u64::from(number),
            traffic: instance.traffic.clone(),
        });
        Rc::new(Generation {
            id,
            number,
            owner,
            instance: instance.clone(),
            manifest,
            limits,
            phase: Cell::new(Phase::Starting),
            reason: RefCell::default(),
            handles: Handles::of(off_loop.clone()),
            futures: RefCell::default(),
            cells: Cells::default(),
            foreign_wakers: Arc::default(),
            depth: Cell::new(0),
            off_loop,
            owned: Cell::new(0),
            jobs_running: Cell::new(0),
            job_permits: Rc::new(Semaphore::new(
                registry.pool.threads_max().saturating_sub(1).max(1),
            )),
            threads: RefCell::default(),
            service: RefCell::default(),
            responders: RefCell::default(),
            commands: RefCell::default(),
            metrics: RefCell::default(),
            permits: RefCell::default(),
            in_flight: Cell::new(0),
            requests: Cell::new(0),
            idle: Notify::new(),
            is_cut_short: Cell::new(false),
            is_finishing: Cell::new(false),
            outcome: RefCell::default(),
            said: RefCell::default(),
            root,
            is_emptied: Cell::new(false),
            is_dormant: Cell::new(false),
            library: RefCell::new(Some(library)),
        })
    }

    /// No hook of it is called, now or ever: it is mapped, and that is all.
    pub fn lie_dormant(&self) {
        self.is_dormant.set(true);
    }

    /// One more is in flight, until [`Generation::leave_flight`]; [`InFlight`] does both.
    pub fn enter_flight(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// One that entered is not in flight any more.
    pub fn leave_flight(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
        if self.in_flight.get() == 0 {
            self.idle.notify_waiters();
        }
    }

    /// Whether it gets the instance's new work.
    pub fn is_serving(&self) -> bool {
        self.phase.get() == Phase::Running
            && self.instance.current().is_some_and(|current| current.id == self.id)
    }

    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.instance.name
    }

    /// As the table of connections names it.
    pub fn owner(&self) -> &Rc<Owner> {
        &self.owner
    }

    /// Requests that were brought to it.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Panics of it, caught or not.
    pub fn panics(&self) -> u64 {
        self.off_loop.panics.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Calls into it that took longer than `stall_ms`.
    pub fn stalls(&self) -> u64 {
        self.off_loop.stalls.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Counts a request that was brought to it.
    pub fn count_request(&self) {
        self.requests.set(self.requests.get() + 1);
        self.instance.count_request();
    }

    /// Whether the manifest asks for a capability. If not, the log says so.
    pub fn may(&self, capability: Capability) -> bool {
        let granted = self.manifest.capabilities.contains(&capability);
        if !granted {
            let capability = format!("{capability:?}").to_lowercase();
            tracing::warn!(
                instance = self.name(),
                "the plugin's manifest does not ask for the capability `{capability}`, \
                so the call is denied; add it to `export_plugin!(…, capabilities = […])`"
            );
        }
        granted
    }

    /// Logs that a limit was met, and gives the code for it.
    pub fn limited(&self, limit: &str) -> Code {
        tracing::warn!(
            instance = self.name(),
            limit,
            "a limit was reached; `{limit}` in the configuration raises it"
        );
        code::LIMIT
    }

    /// Keeps the plugin's word on why the running call fails.
    pub fn set_said(&self, reason: String) {
        *self.said.borrow_mut() = Some(reason);
    }

    /// The plugin's word on the call that has just answered.
    pub fn take_said(&self) -> Option<String> {
        self.said.take()
    }

    /// What a hook's code means, with the plugin's own word on it.
    ///
    /// # Errors
    /// Any but `READY`, as a sentence.
    pub fn outcome(&self, doing: &str, code: Code) -> Result<(), String> {
        match Failure::of(self, code) {
            None if code == code::READY => Ok(()),
            None => Err(format!("the plugin answered {code} to {doing}, which means nothing")),
            Some(failure) => Err(failure.sentence(doing)),
        }
    }

    /// What its heap holds: blocks, bytes, the most bytes there were. `None` if it keeps no count, or has no heap any more.
    pub fn heap(&self) -> Option<(u64, u64, u64)> {
        use std::sync::atomic::Ordering::Relaxed;
        if !self.is_callable() {
            return None;
        }
        // SAFETY: The root and its counters are statics of the library, which is mapped while its code may be called.
        let heap = unsafe { (*self.root).heap.as_ref() }?;
        Some((heap.blocks.load(Relaxed), heap.bytes.load(Relaxed), heap.bytes_peak.load(Relaxed)))
    }

    /// How much work is in flight: connections served, requests, calls, jobs.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Waits until nothing is in flight, or until the drain is cut short.
    pub async fn drained(&self) {
        self.until(|| self.in_flight.get() == 0 || self.is_cut_short.get()).await;
    }

    /// Ends its drain: what is in flight is cut.
    pub fn cut_short(&self) {
        self.is_cut_short.set(true);
        self.stirred();
    }

    /// Notes that its end has begun. Answers whether it had before.
    pub fn begin_finish(&self) -> bool {
        self.is_finishing.replace(true)
    }

    /// Waits for the end of its unload, and tells it.
    pub async fn unloaded(&self) -> Unloaded {
        self.until(|| self.outcome.borrow().is_some()).await;
        self.outcome.borrow().clone().expect("it was just seen to be there")
    }

    /// Its unload has ended so, for now or for good.
    pub fn set_unloaded(&self, outcome: Unloaded) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.stirred();
    }

    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let stirred = self.idle.notified();
            if is_so() {
                return;
            }
            stirred.await;
        }
    }

    /// Wakes whoever waits for a change of it to look again.
    pub fn stirred(&self) {
        self.idle.notify_waiters();
    }

    /// Waits until something has changed that may let it be unmapped: a job or a thread has ended, say.
    pub async fn stir(&self) {
        tokio::select! {
            () = self.idle.notified() => {}
            () = self.instance.registry.threads_ended.notified() => {}
        }
    }

    /// Has requests find its routes, and its observers hear; all of them or, if they do not fit, none. They take the places of
    /// those of the generation `replacing`, which finds no new work any more.
    ///
    /// # Errors
    /// There is no room for all of them; nothing has changed then.
    pub fn mount(&self, replacing: Option<&Generation>) -> Result<(), String> {
        let routes = self.handles.all::<Route>();
        let observers = self.handles.all::<ObserverEntry>();
        let wanted = routes.len() + observers.len() - self.mounted();
        let freed = replacing.map_or(0, Generation::mounted);
        let room = self.instance.registry.sites.room(wanted, freed);
        let mut room = room.map_err(|full| full.to_string())?;
        routes.iter().for_each(|(_, route)| route.mount(&mut room));
        observers.iter().for_each(|(_, observer)| observer.mount(&mut room));
        if let Some(old) = replacing {
            old.unmount();
        }
        Ok(())
    }

    /// How many of its routes and observers are mounted.
    fn mounted(&self) -> usize {
        let (routes, observers) =
            (self.handles.all::<Route>(), self.handles.all::<ObserverEntry>());
        routes.iter().filter(|(_, route)| route.mount.is_taken()).count()
            + observers.iter().filter(|(_, observer)| observer.mount.is_taken()).count()
    }

    /// Has no new request find its routes, and its observers hear no more.
    pub fn unmount(&self) {
        self.handles.all::<Route>().iter().for_each(|(_, route)| route.unmount());
        self.unmount_observers();
    }

    /// Has nobody answer in its place any more.
    pub fn revoke_permits(&self) {
        // Not borrowed while they go, for each takes itself out.
        let permits: Vec<Rc<Permit>> =
            self.permits.borrow().iter().filter_map(|(_, it)| it.upgrade()).collect();
        permits.iter().for_each(|permit| permit.revoke());
    }

    /// Has its observers hear no more.
    pub fn unmount_observers(&self) {
        self.handles.all::<ObserverEntry>().iter().for_each(|(_, observer)| observer.unmount());
    }

    /// Whether its code may be called. A library that was closed may be unmapped even where that could not be verified.
    fn is_callable(&self) -> bool {
        !self.is_emptied.get() && self.library.borrow().is_some()
    }

    /// Looks at the library, while there is one.
    pub fn with_library<R>(&self, look: impl FnOnce(&Library) -> R) -> Option<R> {
        self.library.borrow().as_ref().map(look)
    }

    /// Takes the library out, to be closed.
    pub fn take_library(&self) -> Option<Library> {
        self.library.take()
    }

    /// Puts it back if it could not be closed.
    pub fn put_library(&self, library: Library) {
        *self.library.borrow_mut() = Some(library);
    }

    /// Cancels every future, and drops every handle. Called when no code of the plugin is on the stack.
    pub fn cut(&self) {
        loop {
            let futures: Vec<_> =
                self.futures.borrow().iter().map(|(_, future)| future.clone()).collect();
            if futures.is_empty() {
                break;
            }
            futures.iter().for_each(|future| future.cancel());
        }
    }
}

/// The hooks of its life, in the order of DESIGN: each enters the plugin, and none panics.
impl Generation {
    fn hook(self: &Rc<Self>, doing: &str, hook: impl FnOnce(&Hooks) -> Code) -> Result<(), String> {
        if self.is_dormant.get() {
            return Ok(());
        }
        if !self.is_callable() {
            return Err(format!("the plugin is gone, so that it cannot be called for {doing}"));
        }
        // SAFETY: The root and its hooks are statics of the library, which is mapped while its code may be called; the loader
        // has checked that the table is not null and is as long as this host's smallest minor says.
        let hooks = unsafe { (*self.root).hooks.get() };
        let hooks = hooks.expect("the loader refuses a root without hooks");
        let code = frame::enter(self, || hook(hooks));
        self.outcome(doing, code)
    }

    async fn run(
        self: &Rc<Self>,
        doing: &str,
        hook: fn(&Hooks) -> unsafe extern "C" fn(*mut Task) -> Code,
    ) -> Result<(), String> {
        if self.is_dormant.get() {
            return Ok(());
        }
        let mut task = Task::NONE;
        // SAFETY: The hook writes a task into the place that it is given, which outlives the call.
        self.hook(doing, |hooks| unsafe { hook(hooks)(&mut task) })?;
        let future = Step(PluginFuture::new(self, task, doing.to_owned()).told());
        let code = std::future::poll_fn(|context| future.0.poll(context)).await;
        match future.0.failure() {
            Some(failure) => Err(failure.sentence(doing)),
            None => self.outcome(doing, code),
        }
    }

    /// Gives it the host and its configuration.
    ///
    /// # Errors
    /// Why the plugin does not want to run.
    pub fn prepare(self: &Rc<Self>, config: &[u8]) -> Result<(), String> {
        // SAFETY: The callbacks are static, the configuration is borrowed for the call.
        self.hook("prepare", |hooks| unsafe {
            (hooks.prepare)(Table::new(&callbacks::HOST), self.id, Slice::new(config))
        })
    }

    /// Starts it; it registers what it offers.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn start(self: &Rc<Self>) -> Result<(), String> {
        self.run("start", |hooks| hooks.start).await
    }

    /// Has it give up what only one generation can hold.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn release(self: &Rc<Self>) -> Result<(), String> {
        self.run("release", |hooks| hooks.release).await
    }

    /// Has it take what only one generation can hold.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn acquire(self: &Rc<Self>) -> Result<(), String> {
        self.run("acquire", |hooks| hooks.acquire).await
    }

    /// Its kept state; empty if there is none.
    ///
    /// # Errors
    /// Why it could not be had.
    pub fn export_state(self: &Rc<Self>) -> Result<Vec<u8>, String> {
        let mut state = Vec::new();
        let sink: ByteSink = sink::into_vec(&mut state);
        // SAFETY: The sink is valid for the call.
        self.hook("export_state", |hooks| unsafe { (hooks.export_state)(sink) })?;
        Ok(state)
    }

    /// Takes another generation's kept state.
    ///
    /// # Errors
    /// Why it could not.
    pub fn import_state(self: &Rc<Self>, version: u32, state: &[u8]) -> Result<(), String> {
        // SAFETY: The state is borrowed for the call.
        self.hook("import_state", |hooks| unsafe {
            (hooks.import_state)(version, Slice::new(state))
        })
    }

    /// Tells it to come to an end by `deadline_ns`.
    pub fn drain(self: &Rc<Self>, deadline_ns: u64) {
        // SAFETY: The hook takes an integer.
        self.report("drain", self.hook("drain", |hooks| unsafe { (hooks.drain)(deadline_ns) }));
    }

    /// Whether its table of hooks has the one at this offset, which older ones lack, and it may be called.
    fn has_hook(&self, offset: usize) -> bool {
        if !self.is_callable() {
            return false;
        }
        // SAFETY: The root and its table are statics of the library, which is mapped while its code may be called; only the size
        // is read.
        let size = unsafe { (*self.root).hooks.as_ptr().cast::<usize>().as_ref() };
        size.is_some_and(|size| *size >= offset + size_of::<usize>())
    }

    /// Asks it whether it can do its work.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn health(self: &Rc<Self>) -> Result<(), String> {
        if !self.has_hook(std::mem::offset_of!(Hooks, health)) {
            return Ok(());
        }
        self.run("health", |hooks| hooks.health).await
    }

    /// Tells it that the host is about to replace itself, or goes on after all.
    pub fn freeze(self: &Rc<Self>, is_frozen: bool) {
        if self.has_hook(std::mem::offset_of!(Hooks, freeze)) {
            // SAFETY: The hook takes an integer.
            let told = self.hook("freeze", |hooks| unsafe { (hooks.freeze)(is_frozen.into()) });
            self.report("freeze", told);
        }
    }

    /// Tells it that another takes over, and its sessions go there.
    pub fn handed_over(self: &Rc<Self>) {
        if !self.has_hook(std::mem::offset_of!(Hooks, handed_over)) {
            return;
        }
        // SAFETY: The hook takes nothing.
        self.report(
            "handed_over",
            self.hook("handed_over", |hooks| unsafe { (hooks.handed_over)() }),
        );
    }

    /// Delivers posted bytes.
    pub fn posted(self: &Rc<Self>, bytes: &[u8]) {
        // SAFETY: The bytes are borrowed for the call.
        self.report(
            "posted",
            self.hook("posted", |hooks| unsafe { (hooks.posted)(Slice::new(bytes)) }),
        );
    }

    /// Has it drop what it still holds.
    pub fn stop(self: &Rc<Self>) {
        // SAFETY: The hook takes nothing.
        self.report("stop", self.hook("stop", |hooks| unsafe { (hooks.stop)() }));
    }

    /// Has it free what is left of its heap. Nothing of it may be called after this.
    pub fn heap_release(self: &Rc<Self>) {
        // SAFETY: The hook takes nothing.
        self.report(
            "heap_release",
            self.hook("heap_release", |hooks| unsafe { (hooks.heap_release)() }),
        );
        self.is_emptied.set(true);
    }

    fn report(&self, doing: &str, outcome: Result<(), String>) {
        if let Err(reason) = outcome {
            tracing::warn!(instance = self.name(), generation = self.number, doing, "{reason}");
        }
    }
}

/// A step of a generation's life: whoever no longer waits for it has it cancelled.
struct Step(Rc<PluginFuture>);

impl Drop for Step {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Proof that work of a generation is in flight: while one is held, a drain waits.
pub struct InFlight(Rc<Generation>);

impl InFlight {
    /// One more in flight.
    pub fn new(generation: &Rc<Generation>) -> InFlight {
        generation.enter_flight();
        InFlight(generation.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.leave_flight();
    }
}
