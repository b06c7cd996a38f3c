//! The running host as the monitor's commands see and change it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    ptr,
    rc::Rc,
    time::{self, Duration},
};

use medusa_abi::service::METRIC_GAUGE;
use tokio::{sync::Notify, task::JoinSet};

use crate::{
    app::{check, figures, moves_file::MovesFile, routes, succession::Succession},
    config::{Config, Diagnostics, Instance},
    monitor::{
        command::Role,
        control::{
            ApplyOutcome, ApplyPlan, Asker, ConnectionStatus, Control, HostStatus, InstanceStatus,
            Later, ListenerStatus, MetricStatus, Pace, PluginCall, PluginCommand, Refusal,
            RoutePlace, RouteStatus, UnloadOutcome, UpgradeOutcome,
        },
    },
    net::connections,
    plugin::{
        attach,
        generation::{Generation, Phase},
        instance,
        library::file,
        lifecycle::{self, Refused},
        offer::Metric,
        probation,
        registry::Registry,
        unload::{self, Unloaded},
        upgrade,
    },
    status::InstanceFigures,
    sys::crash,
};

/// The host.
pub struct Host {
    /// What it runs.
    pub registry: Rc<Registry>,
    /// Held by whoever puts a configuration into force.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// The instances of the configuration that could not be loaded.
    failed: RefCell<BTreeMap<String, Failure>>,
    /// The instances that run, but not as the configuration says: that could not be put into force.
    behind: RefCell<BTreeSet<String>>,
    moves: MovesFile,
    begun: time::Instant,
    /// The configuration of the start: what only a restart changes is as it says.
    pub(super) began_with: Rc<Config>,
    /// Its going on as another program.
    pub succession: Succession,
    state: Cell<State>,
    stop: Notify,
}

/// So many places of the table of connections are looked at in one turn of the loop: about half a millisecond's work.
const CONNECTIONS_PER_TURN: usize = 256;

/// How long the host waits after `shutdown_ms_max` for what it has cut.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// How many connections each generation has; generations are told apart by the address of their owner, which they all keep.
pub(super) struct ConnectionsServed(HashMap<*const connections::Owner, u64>);

impl ConnectionsServed {
    /// Those that `generation` serves.
    fn by(&self, generation: &Generation) -> u64 {
        self.0.get(&Rc::as_ptr(generation.owner())).copied().unwrap_or_default()
    }
}

struct Failure {
    spec: Instance,
    reason: String,
}

/// Where the host is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The instances of the configuration are being loaded.
    Starting,
    /// They serve.
    Running,
    /// It is about to stop.
    Draining,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Running => "running",
            State::Draining => "draining",
        }
    }
}

impl Host {
    /// A host over a registry.
    pub fn new(registry: Rc<Registry>) -> Host {
        Host {
            moves: MovesFile::read(&registry.config().state_dir, &registry.sites),
            began_with: registry.config(),
            changing: tokio::sync::Mutex::default(),
            failed: RefCell::default(),
            behind: RefCell::default(),
            begun: registry.clock.start(),
            registry,
            succession: Succession::new(),
            state: Cell::new(State::Starting),
            stop: Notify::new(),
        }
    }

    /// Asks the host to stop, as the monitor does.
    pub(super) fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    /// Resolves when the monitor has asked the host to stop.
    pub async fn asked_to_stop(&self) {
        self.stop.notified().await;
    }

    /// The host is here in its life from now on; one that drains does so to its end.
    pub fn set_state(&self, state: State) {
        if self.state.get() != State::Draining {
            self.state.set(state);
            self.registry.changed.notify_one();
        }
    }

    /// Whether the instances of the configuration are still being loaded.
    pub(super) fn is_starting(&self) -> bool {
        self.state.get() == State::Starting
    }

    /// Refuses what would be left behind by a host that is about to stop.
    ///
    /// # Errors
    /// It is.
    pub(super) fn check_running(&self) -> Result<(), Refusal> {
        match self.state.get() {
            State::Draining => Err(Refusal(
                "the host is draining and about to stop; start it again, then try again".to_owned(),
            )),
            State::Starting | State::Running => Ok(()),
        }
    }

    /// Drains and unloads everything, within `shutdown_ms_max`: first what serves connections, then what extends it, since requests
    /// in flight may still need an extension. What is left when the time is over is cut.
    pub async fn unload_all(&self) {
        let limit = Duration::from_millis(self.registry.config().limits.shutdown_ms_max);
        let deadline = tokio::time::Instant::now() + limit;
        let all = async {
            for is_extension in [false, true] {
                let mut leaving = JoinSet::new();
                let instances = self.registry.instances();
                let group = instances
                    .into_iter()
                    .filter(|it| it.spec.borrow().attach.is_some() == is_extension);
                for instance in group {
                    leaving.spawn_local(async move { unload::leave(&instance, deadline).await });
                }
                while leaving.join_next().await.is_some() {}
            }
        };
        if tokio::time::timeout_at(deadline + STOP_WAIT, all).await.is_err() {
            tracing::warn!("not everything could be unloaded within shutdown_ms_max");
        }
    }

    /// What serves and what does not, in a line.
    pub fn summary(&self) -> String {
        let listeners = self.listeners().into_iter();
        let listen: Vec<_> =
            listeners.map(|it| format!("{} on {}", it.instance, it.address)).collect();
        let mut summary = match listen.len() {
            0 => "serving: no listeners".to_owned(),
            _ => format!("serving: {}", listen.join(", ")),
        };
        let failed: Vec<_> = self.failed.borrow().keys().cloned().collect();
        if !failed.is_empty() {
            summary += &format!("; failed: {}", failed.join(", "));
        }
        summary
    }

    /// The instances of the configuration that could not be loaded, and why.
    pub(super) fn failed(&self) -> Vec<(String, String)> {
        let failed = self.failed.borrow();
        failed.iter().map(|(name, failure)| (name.clone(), failure.reason.clone())).collect()
    }

    /// The reason why an instance of the configuration does not run.
    pub(super) fn remember_failure(&self, spec: &Instance, reason: &str) {
        let failure = Failure { spec: spec.clone(), reason: reason.to_owned() };
        self.failed.borrow_mut().insert(spec.name.clone(), failure);
    }

    /// It runs, or is not wanted any more. Answers whether there was a failure.
    pub(super) fn forget_failure(&self, name: &str) -> bool {
        self.behind.borrow_mut().remove(name);
        self.failed.borrow_mut().remove(name).is_some()
    }

    /// It goes on as it was, and not as it is configured.
    pub(super) fn stays_behind(&self, name: &str) {
        self.behind.borrow_mut().insert(name.to_owned());
    }

    /// Whether an instance that runs does not do so as it is configured.
    pub(super) fn is_behind(&self, name: &str) -> bool {
        self.behind.borrow().contains(name)
    }

    /// Whether an instance of the configuration could not be loaded.
    pub(super) fn has_failed(&self, name: &str) -> bool {
        self.failed.borrow().contains_key(name)
    }

    fn find(&self, name: &str) -> Result<Rc<instance::Instance>, Refusal> {
        self.registry.instance(name).ok_or_else(|| {
            let known = match self.registry.config().instance(name) {
                Some(_) => format!("; it is configured, `load {name}` starts it"),
                None => "; `plugins` shows those that there are".to_owned(),
            };
            Refusal(format!("there is no instance `{name}`{known}"))
        })
    }

    /// How many connections each generation has, by one look at each connection.
    pub(super) fn connections_served(&self) -> ConnectionsServed {
        let mut served = HashMap::new();
        self.registry.connections.each_owner(|owner, _| {
            *served.entry(ptr::from_ref(owner)).or_default() += 1;
        });
        ConnectionsServed(served)
    }

    /// The instances of the configuration that could not be loaded.
    pub(super) fn failures(&self) -> Vec<InstanceStatus> {
        self.failed.borrow().values().map(failed).collect()
    }

    /// What there is to say of one generation.
    pub(super) fn status(
        &self,
        generation: &Generation,
        served: &ConnectionsServed,
    ) -> InstanceStatus {
        let instance = &generation.instance;
        let spec = instance.spec.borrow().clone();
        let is_current = instance.current().is_some_and(|current| current.id == generation.id);
        let state = match generation.phase.get() {
            Phase::Running if instance.is_waiting() => "waiting",
            phase => phase.as_str(),
        };
        let listen = if is_current { instance.listeners() } else { Vec::new() };
        InstanceStatus {
            name: instance.name.clone(),
            library: spec.library.clone(),
            version: generation.manifest.version.clone(),
            generation: u64::from(generation.number),
            state: state.to_owned(),
            listen: listen.iter().map(|listener| listener.address().to_string()).collect(),
            connections: served.by(generation),
            requests: generation.requests(),
            heap_bytes: generation.heap().map_or(0, |(_, bytes, _)| bytes),
            panics: generation.panics(),
            stalls: generation.stalls(),
            restarts: instance.health.borrow().restarts(),
            attach: spec.attach.clone(),
            reason: generation
                .reason
                .borrow()
                .clone()
                .or_else(|| attach::waits_for(instance))
                .or_else(|| attach::reaches_nobody(generation))
                .or_else(|| probation::shown(generation)),
        }
    }

    async fn unload_instance(&self, name: String, pace: Pace) -> Result<UnloadOutcome, Refusal> {
        if self.forget_failure(&name) && self.registry.instance(&name).is_none() {
            // Of one that could not be loaded there is nothing but the note of it, unless an older generation is still there.
            let nothing = Unloaded::Unmapped { leaked_bytes: 0, leaked_blocks: 0 };
            return Ok(outcome(name, nothing, 0));
        }
        let instance = self.find(&name)?;
        let Some(current) = instance.current() else {
            return unload_again(&instance, pace).await;
        };
        let drain = match pace {
            Pace::Drain => Duration::from_millis(current.limits.drain_ms_max),
            Pace::Now => Duration::ZERO,
        };
        let unloaded = unload::unload(&instance, drain).await.map_err(refusal)?;
        let heap_bytes = current.heap().map_or(0, |(_, bytes, _)| bytes);
        Ok(outcome(name, unloaded, heap_bytes))
    }

    async fn upgrade_instance(
        &self,
        name: String,
        library: Option<PathBuf>,
    ) -> Result<UpgradeOutcome, Refusal> {
        self.check_running()?;
        let instance = self.find(&name)?;
        let library =
            library.unwrap_or_else(|| self.registry.config().library_file(&instance.spec.borrow()));
        let from =
            instance.current().map(|current| current.manifest.version.clone()).unwrap_or_default();
        Ok(match upgrade::upgrade(&instance, &library).await {
            Ok(done) => UpgradeOutcome {
                name,
                result: "upgraded".to_owned(),
                from: done.from,
                to: done.to,
                handed_over: done.handed_over,
                drained: done.drained,
                pause_us: done.pause_us,
                reason: None,
            },
            Err(reason) => UpgradeOutcome {
                name,
                result: "kept".to_owned(),
                to: from.clone(),
                from,
                reason: Some(reason.0),
                ..UpgradeOutcome::default()
            },
        })
    }

    async fn run_command(&self, call: PluginCall) -> Result<(), Refusal> {
        let generation = self.find(&call.instance)?.current();
        let generation =
            generation.ok_or_else(|| Refusal(format!("`{}` is not running", call.instance)))?;
        let command =
            generation.commands.borrow().iter().find(|command| command.name == call.name).cloned();
        let command = command.ok_or_else(|| {
            Refusal(format!("there is no command `{} {}`", call.instance, call.name))
        })?;
        let doing = format!("{} {}", call.instance, call.name);
        let run = command
            .run(&call.words, call.json)
            .map_err(|failure| Refusal(failure.sentence(&doing)))?;
        drop(command);
        loop {
            match std::future::poll_fn(|context| run.poll_next(context)).await {
                Ok(piece) => {
                    if call.out.text(&String::from_utf8_lossy(&piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(medusa_abi::code::END) => return Ok(()),
                Err(code) => return Err(Refusal(run.reason(&doing, code))),
            }
        }
    }
}

/// Unloads what is unloaded already: what still drains is cut if there is a hurry, what is pinned stays.
async fn unload_again(
    instance: &Rc<instance::Instance>,
    pace: Pace,
) -> Result<UnloadOutcome, Refusal> {
    let name = instance.name.clone();
    let generations = instance.generations();
    let draining: Vec<_> =
        generations.iter().filter(|it| it.phase.get() == Phase::Draining).collect();
    let Some(last) = draining.last() else {
        let pinned = generations.iter().find_map(|generation| generation.reason.borrow().clone());
        return Err(Refusal(match pinned {
            Some(reason) => format!("`{name}` is unloaded, but still mapped: {reason}"),
            None => format!("`{name}` is not running; `load {name}` starts it"),
        }));
    };
    if pace == Pace::Drain {
        return Err(Refusal(format!(
            "`{name}` is draining already; wait for its end, or `unload {name} --now` cuts what is in flight"
        )));
    }
    draining.iter().for_each(|generation| generation.cut_short());
    let unloaded = last.unloaded().await;
    Ok(outcome(name, unloaded, last.heap().map_or(0, |(_, bytes, _)| bytes)))
}

fn outcome(name: String, unloaded: Unloaded, heap_bytes: u64) -> UnloadOutcome {
    match unloaded {
        Unloaded::Unmapped { leaked_bytes, .. } => UnloadOutcome {
            name,
            result: "unloaded".to_owned(),
            mapped: false,
            leaked_bytes,
            reason: None,
        },
        Unloaded::Pinned { reason } => UnloadOutcome {
            name,
            result: "pinned".to_owned(),
            mapped: true,
            leaked_bytes: heap_bytes,
            reason: Some(reason),
        },
    }
}

fn failed(failure: &Failure) -> InstanceStatus {
    InstanceStatus {
        name: failure.spec.name.clone(),
        library: failure.spec.library.clone(),
        state: "failed".to_owned(),
        attach: failure.spec.attach.clone(),
        reason: Some(failure.reason.clone()),
        ..InstanceStatus::default()
    }
}

fn refusal(refused: Refused) -> Refusal {
    Refusal(refused.0)
}

impl Control for Host {
    fn host(&self) -> HostStatus {
        let (instances, all) = (self.instances(), self.registry.instances());
        let sum = |of: fn(&InstanceStatus) -> u64| instances.iter().map(of).sum();
        let pool = self.registry.pool.status();
        HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: self.state.get().as_str().to_owned(),
            uptime_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            upgrades: self.succession.upgrades(),
            children: self.succession.children().len() as u64,
            config: self.registry.config().source.file().display().to_string(),
            instances: all.len() as u64,
            connections: self.registry.connections.count() as u64,
            connections_total: self.registry.connections.id_last(),
            // What an extension answers was counted by the server that it came in by.
            requests: all
                .iter()
                .filter(|instance| instance.spec.borrow().attach.is_none())
                .map(|instance| instance.requests())
                .sum(),
            panics: all.iter().map(|instance| instance.panics()).sum(),
            stalls: self.registry.stalls.load(std::sync::atomic::Ordering::Relaxed),
            probation_ms: self
                .succession
                .probation_left()
                .map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            back: self.succession.back(),
            crashes: crash::crashes().count,
            heap_bytes: sum(|status| status.heap_bytes),
            pinned: instances.iter().filter(|status| status.state == "pinned").count() as u64,
            jobs_running: pool.busy as u64,
            jobs_queued: pool.queued as u64,
        }
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        let instances = self.registry.instances();
        let generations = instances.iter().flat_map(|instance| instance.generations());
        let served = self.connections_served();
        let mut all: Vec<_> =
            generations.map(|generation| self.status(&generation, &served)).collect();
        all.extend(self.failures());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn figures(&self) -> Vec<InstanceFigures> {
        figures::all(&self.registry)
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let mut served = HashMap::<(Rc<str>, u32), u64>::new();
        self.registry.connections.each_owner(|owner, listener| {
            *served.entry((owner.instance.clone(), listener)).or_default() += 1;
        });
        let mut listeners = Vec::new();
        for instance in self.registry.instances() {
            let name: Rc<str> = instance.name.as_str().into();
            for (index, (listener, accepted)) in (0..).zip(instance.accepted().iter()) {
                listeners.push(ListenerStatus {
                    instance: instance.name.clone(),
                    address: listener.address().to_string(),
                    tls: None,
                    connections: served.get(&(name.clone(), index)).copied().unwrap_or_default(),
                    accepted: *accepted,
                });
            }
        }
        listeners
    }

    fn metrics(&self) -> Vec<MetricStatus> {
        let instances = self.registry.instances();
        let running = instances.iter().filter_map(|instance| instance.current());
        running.flat_map(|generation| metrics_of(&generation)).collect()
    }

    fn connections(&self, from: usize) -> (Vec<ConnectionStatus>, Option<usize>) {
        let (part, next) = self.registry.connections.part(from, CONNECTIONS_PER_TURN);
        (part.iter().map(connection).collect(), next)
    }

    fn routes(&self) -> Vec<RouteStatus> {
        routes::list(&self.registry)
    }

    fn commands(&self) -> Vec<PluginCommand> {
        let mut commands = Vec::new();
        for generation in self.registry.instances().iter().filter_map(|instance| instance.current())
        {
            for command in generation.commands.borrow().iter() {
                let role = match command.role {
                    medusa_abi::service::ROLE_VIEWER => Role::Viewer,
                    medusa_abi::service::ROLE_OPERATOR => Role::Operator,
                    _ => Role::Admin,
                };
                commands.push(PluginCommand {
                    instance: generation.name().to_owned(),
                    name: command.name.clone(),
                    usage: command.usage.clone(),
                    summary: command.summary.clone(),
                    role,
                    changes: role != Role::Viewer,
                });
            }
        }
        commands
    }

    fn libraries(&self) -> Later<'_, Vec<String>> {
        Box::pin(async {
            let folder = self.registry.config().plugin_dir.clone();
            // Without room on the pool, or a folder, there is nothing to name.
            let job = self.registry.host_pool.submit(move || file::libraries(&folder));
            match job {
                Ok(job) => job.await.ok().and_then(Result::ok).unwrap_or_default(),
                Err(_) => Vec::new(),
            }
        })
    }

    fn config(&self) -> Rc<Config> {
        self.registry.config()
    }

    fn load(&self, instance: Instance) -> Later<'_, Result<InstanceStatus, Refusal>> {
        Box::pin(async move {
            self.check_running()?;
            let name = instance.name.clone();
            let generation = lifecycle::load(&self.registry, instance).await.map_err(refusal)?;
            self.forget_failure(&name);
            Ok(self.status(&generation, &self.connections_served()))
        })
    }

    fn unload(&self, name: String, pace: Pace) -> Later<'_, Result<UnloadOutcome, Refusal>> {
        Box::pin(self.unload_instance(name, pace))
    }

    fn upgrade(
        &self,
        name: String,
        library: Option<PathBuf>,
    ) -> Later<'_, Result<UpgradeOutcome, Refusal>> {
        Box::pin(self.upgrade_instance(name, library))
    }

    fn upgrade_host(&self, binary: Option<PathBuf>, asker: Option<Asker>) -> Later<'_, Refusal> {
        Box::pin(self.replace_itself(binary, asker))
    }

    fn kill(&self, id: u64) -> Result<ConnectionStatus, Refusal> {
        match self.registry.connections.find(id).as_ref().map(connection) {
            Some(status) if self.registry.connections.kill(id) => Ok(status),
            _ => Err(Refusal(format!(
                "there is no connection {id}; `connections` shows those that there are"
            ))),
        }
    }

    fn move_route(&self, id: u64, place: RoutePlace) -> Later<'_, Result<(), Refusal>> {
        Box::pin(routes::move_route(&self.registry, &self.moves, id, place))
    }

    fn check(&self, config: Rc<Config>) -> Later<'_, Result<(), Diagnostics>> {
        Box::pin(
            async move { check::check_on_pool(&config, &self.registry.host_pool).await.map(drop) },
        )
    }

    fn plan(&self, config: &Config) -> ApplyPlan {
        self.plan(&self.registry.config(), config).told(self.needs_restart(config))
    }

    fn apply(&self, config: Rc<Config>) -> Later<'_, ApplyOutcome> {
        Box::pin(self.apply_config(config))
    }

    fn run(&self, call: PluginCall) -> Later<'_, Result<(), Refusal>> {
        Box::pin(self.run_command(call))
    }

    fn shutdown(&self) {
        self.set_state(State::Draining);
        self.stop.notify_one();
    }
}

/// What a generation counts of its own.
pub(super) fn metrics_of(generation: &Generation) -> Vec<MetricStatus> {
    let metrics = generation.handles.all::<Metric>().into_iter();
    let status = |metric: Rc<Metric>| MetricStatus {
        instance: generation.name().to_owned(),
        name: metric.name.clone(),
        kind: if metric.kind == METRIC_GAUGE { "gauge" } else { "counter" }.to_owned(),
        value: metric.value(),
        help: metric.help.clone(),
    };
    metrics.map(|(_, metric)| status(metric)).collect()
}

fn connection(status: &connections::ConnectionStatus) -> ConnectionStatus {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    ConnectionStatus {
        id: status.id,
        instance: status.owner.instance.to_string(),
        generation: status.owner.generation,
        peer: status.remote.to_string(),
        local: status.local.to_string(),
        tls: false,
        state: status.state.word().to_owned(),
        age_ms: ms(status.age),
        idle_ms: status.idle.map(ms),
        received_bytes: status.bytes_in,
        sent_bytes: status.bytes_out,
    }
}
