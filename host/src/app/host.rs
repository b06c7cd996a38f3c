//! The running host as the monitor's commands see and change it.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use medusa_abi::service::METRIC_GAUGE;
use tokio::sync::Notify;

use crate::{
    app::check,
    config::{
        Config, Diagnostics, Instance,
        limits::{LIMITS, Scope},
    },
    http::route::RouteKind,
    monitor::{
        command::Role,
        control::{
            ApplyFailure, ApplyOutcome, ConnectionStatus, Control, HostStatus, InstanceStatus,
            Later, ListenerStatus, MetricStatus, Pace, PluginCall, PluginCommand, Refusal,
            RoutePlace, RouteStatus, UnloadOutcome, UpgradeOutcome,
        },
    },
    net::connections,
    plugin::{
        generation::{Generation, Phase},
        instance,
        lifecycle::{self, Refused},
        offer::Metric,
        registry::Registry,
        unload::{self, Unloaded},
        upgrade,
    },
};

/// The host.
pub struct Host {
    /// What it runs.
    pub registry: Rc<Registry>,
    config: RefCell<Rc<Config>>,
    begun: Instant,
    is_stopping: Cell<bool>,
    stop: Notify,
}

impl Host {
    /// A host over a registry.
    pub fn new(config: Rc<Config>, registry: Rc<Registry>) -> Host {
        Host {
            registry,
            config: RefCell::new(config),
            begun: Instant::now(),
            is_stopping: Cell::new(false),
            stop: Notify::new(),
        }
    }

    /// Resolves when the monitor has asked the host to stop.
    pub async fn asked_to_stop(&self) {
        self.stop.notified().await;
    }

    /// From now on the host's state is `draining`.
    pub fn is_stopping(&self) {
        self.is_stopping.set(true);
    }

    /// Loads the enabled instances in the order in which they can find each other. One that fails does not keep the
    /// others from serving.
    ///
    /// # Errors
    /// The refusals of those that failed.
    pub async fn load_configured(&self) -> Vec<Refused> {
        let mut refused = Vec::new();
        for spec in self.config().instances.iter().filter(|spec| spec.enabled) {
            if let Err(reason) = lifecycle::load(&self.registry, spec.clone()).await {
                refused.push(reason);
            }
        }
        refused
    }

    /// Drains and unloads everything, within `shutdown_ms_max`.
    pub async fn unload_all(&self) {
        let limit = Duration::from_millis(self.config().limits.shutdown_ms_max);
        let mut leaving = tokio::task::JoinSet::new();
        for generation in self.registry.instances().iter().filter_map(|instance| instance.current())
        {
            leaving.spawn_local(async move {
                let drain = limit.min(Duration::from_millis(generation.limits.drain_ms_max));
                let _ = unload::unload(&generation, drain).await;
            });
        }
        let all = async { while leaving.join_next().await.is_some() {} };
        if tokio::time::timeout(limit + Duration::from_secs(1), all).await.is_err() {
            tracing::warn!("not everything could be unloaded within shutdown_ms_max");
        }
    }

    fn find(&self, name: &str) -> Result<Rc<instance::Instance>, Refusal> {
        self.registry.instance(name).ok_or_else(|| {
            let known = match self.config().instance(name) {
                Some(_) => format!("; it is configured, `load {name}` starts it"),
                None => "; `plugins` shows those that there are".to_owned(),
            };
            Refusal(format!("there is no instance `{name}`{known}"))
        })
    }

    fn connections_of(&self, generation: &Generation) -> u64 {
        let all = self.registry.connections.list();
        let of = |owner: &connections::Owner| {
            *owner.instance == *generation.name()
                && owner.generation == u64::from(generation.number)
        };
        all.iter().filter(|status| of(&status.owner)).count() as u64
    }

    fn status(&self, generation: &Generation) -> InstanceStatus {
        let instance = &generation.instance;
        let spec = instance.spec.borrow().clone();
        let is_current = instance.current().is_some_and(|current| current.id == generation.id);
        let state = match generation.phase.get() {
            Phase::Running if instance.is_waiting() => "waiting",
            phase => phase.as_str(),
        };
        let panics = generation.off_loop.panics.load(std::sync::atomic::Ordering::Relaxed);
        let listen = if is_current { instance.listeners() } else { Vec::new() };
        InstanceStatus {
            name: instance.name.clone(),
            library: spec.library.clone(),
            version: generation.manifest.version.clone(),
            generation: u64::from(generation.number),
            state: state.to_owned(),
            listen: listen.iter().map(|listener| listener.address().to_string()).collect(),
            connections: self.connections_of(generation),
            requests: generation.requests(),
            heap_bytes: generation.heap().map_or(0, |(_, bytes, _)| bytes),
            panics,
            attach: spec.attach.clone(),
            reason: generation.reason.borrow().clone(),
        }
    }

    async fn unload_instance(&self, name: String, pace: Pace) -> Result<UnloadOutcome, Refusal> {
        let instance = self.find(&name)?;
        let Some(current) = instance.current() else {
            let pinned = instance
                .generations()
                .iter()
                .find_map(|generation| generation.reason.borrow().clone());
            return Err(Refusal(match pinned {
                Some(reason) => format!("`{name}` is unloaded, but still mapped: {reason}"),
                None => format!("`{name}` is not running; wait for its drain to end"),
            }));
        };
        let drain = match pace {
            Pace::Drain => Duration::from_millis(current.limits.drain_ms_max),
            Pace::Now => Duration::ZERO,
        };
        let outcome = unload::unload(&current, drain).await.map_err(refusal)?;
        Ok(match outcome {
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
                leaked_bytes: current.heap().map_or(0, |(_, bytes, _)| bytes),
                reason: Some(reason),
            },
        })
    }

    async fn upgrade_instance(
        &self,
        name: String,
        library: Option<PathBuf>,
    ) -> Result<UpgradeOutcome, Refusal> {
        let instance = self.find(&name)?;
        let library =
            library.unwrap_or_else(|| self.config().library_file(&instance.spec.borrow()));
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

    /// Reads the configuration file again, and puts it into force; one that does not hold together changes nothing.
    pub async fn reload(&self) {
        let config = Config::load(&self.config().source.file());
        let config =
            config.and_then(|config| config.check_plugins(&check::schema_of).map(|_| config));
        match config {
            Err(problems) => {
                tracing::error!("the configuration is not applied:\n{}", problems.render(false));
            }
            Ok(config) => {
                let outcome = self.apply_config(Rc::new(config)).await;
                for failed in &outcome.failed {
                    tracing::error!(instance = failed.name, "{}", failed.reason);
                }
                let ApplyOutcome { started, stopped, upgraded, .. } = outcome;
                tracing::info!(?started, ?stopped, ?upgraded, "the configuration is applied");
            }
        }
    }

    /// Puts a configuration into force as a difference: what is the same is not touched, what listens where it did is
    /// upgraded, and only the rest is stopped and started.
    async fn apply_config(&self, config: Rc<Config>) -> ApplyOutcome {
        let mut outcome = ApplyOutcome::default();
        let failure = |name: &str, reason: String| ApplyFailure { name: name.to_owned(), reason };
        let wanted = |name: &str| config.instance(name).filter(|spec| spec.enabled);
        for instance in
            self.registry.instances().iter().filter(|instance| instance.current().is_some())
        {
            let name = instance.name.clone();
            let before = instance.spec.borrow().clone();
            match wanted(&name) {
                Some(spec) if spec.same(&before) => outcome.unchanged.push(name),
                Some(spec) if spec.listen == before.listen => {
                    let library = config.library_file(spec);
                    match upgrade::reconfigure(instance, Rc::new(spec.clone()), &library).await {
                        Ok(_) => outcome.upgraded.push(name),
                        Err(reason) => outcome.failed.push(failure(&name, reason.0)),
                    }
                }
                other => match self.unload_instance(name.clone(), Pace::Drain).await {
                    Ok(_) if other.is_none() => outcome.stopped.push(name),
                    Ok(_) => {}
                    Err(reason) => outcome.failed.push(failure(&name, reason.0)),
                },
            }
        }
        for spec in config.instances.iter().filter(|spec| spec.enabled) {
            if self
                .registry
                .instance(&spec.name)
                .is_some_and(|instance| instance.current().is_some())
            {
                continue;
            }
            match lifecycle::load(&self.registry, spec.clone()).await {
                Ok(_) => outcome.started.push(spec.name.clone()),
                Err(reason) => outcome.failed.push(failure(&spec.name, reason.0)),
            }
        }
        outcome.restart = needs_restart(&self.config(), &config);
        self.config.replace(config);
        outcome
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
            .map_err(|code| Refusal(format!("`{doing}` failed: {code}")))?;
        drop(command);
        loop {
            match std::future::poll_fn(|context| run.poll_next(context)).await {
                Ok(piece) => {
                    if call.out.text(&String::from_utf8_lossy(&piece)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(medusa_abi::code::END) => return Ok(()),
                Err(code) => {
                    let outcome = generation.outcome(&doing, code);
                    return Err(Refusal(
                        outcome.err().unwrap_or_else(|| format!("`{doing}` failed")),
                    ));
                }
            }
        }
    }
}

/// The settings that differ and that only a restart puts into force.
fn needs_restart(before: &Config, after: &Config) -> Vec<String> {
    let differs = [
        ("[monitor] socket", before.monitor_socket != after.monitor_socket),
        ("[host] state_dir", before.state_dir != after.state_dir),
        ("[host.limits] of the whole host", host_limits(before) != host_limits(after)),
        ("[log] format", before.log.format != after.log.format),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect()
}

fn host_limits(config: &Config) -> Vec<u64> {
    let of_host = LIMITS.iter().filter(|limit| limit.scope == Scope::Host);
    of_host.map(|limit| (limit.get)(&config.limits)).collect()
}

fn refusal(refused: Refused) -> Refusal {
    Refusal(refused.0)
}

impl Control for Host {
    fn host(&self) -> HostStatus {
        let instances = self.instances();
        let sum = |of: fn(&InstanceStatus) -> u64| instances.iter().map(of).sum();
        let pool = self.registry.pool.status();
        HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: if self.is_stopping.get() { "draining" } else { "running" }.to_owned(),
            uptime_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            config: self.config().source.file().display().to_string(),
            instances: self.registry.instances().len() as u64,
            connections: self.registry.connections.list().len() as u64,
            connections_total: self.registry.connections.id_last(),
            requests: self.registry.instances().iter().map(|instance| instance.requests()).sum(),
            panics: sum(|status| status.panics),
            stalls: self.registry.stalls.load(std::sync::atomic::Ordering::Relaxed),
            heap_bytes: sum(|status| status.heap_bytes),
            pinned: instances.iter().filter(|status| status.state == "pinned").count() as u64,
            jobs_running: pool.busy as u64,
            jobs_queued: pool.queued as u64,
        }
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        let instances = self.registry.instances();
        let generations = instances.iter().flat_map(|instance| instance.generations());
        generations.map(|generation| self.status(&generation)).collect()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let connections = self.registry.connections.list();
        let mut listeners = Vec::new();
        for instance in self.registry.instances() {
            for (index, (listener, accepted)) in instance.accepted().iter().enumerate() {
                let is_its = |status: &&connections::ConnectionStatus| {
                    *status.owner.instance == *instance.name && status.listener as usize == index
                };
                listeners.push(ListenerStatus {
                    instance: instance.name.clone(),
                    address: listener.address().to_string(),
                    tls: None,
                    connections: connections.iter().filter(is_its).count() as u64,
                    accepted: *accepted,
                });
            }
        }
        listeners
    }

    fn metrics(&self) -> Vec<MetricStatus> {
        let instances = self.registry.instances();
        let running = instances.iter().filter_map(|instance| instance.current());
        let of = |generation: Rc<Generation>| {
            let metrics = generation.handles.all::<Metric>();
            metrics.into_iter().map(move |(_, metric)| MetricStatus {
                instance: generation.name().to_owned(),
                name: metric.name.clone(),
                kind: if metric.kind == METRIC_GAUGE { "gauge" } else { "counter" }.to_owned(),
                value: metric.value(),
                help: metric.help.clone(),
            })
        };
        running.flat_map(of).collect()
    }

    fn connections(&self) -> Vec<ConnectionStatus> {
        self.registry.connections.list().iter().map(connection).collect()
    }

    fn routes(&self) -> Vec<RouteStatus> {
        let mut routes = Vec::new();
        for (server, site) in self.registry.sites.sites() {
            for route in site.list() {
                let kind = match route.key.kind {
                    RouteKind::Filter => "filter",
                    RouteKind::Handler => "handler",
                };
                let host = route.key.host.to_string();
                routes.push(RouteStatus {
                    id: route.id,
                    kind: kind.to_owned(),
                    server: server.to_string(),
                    instance: route.key.instance.to_string(),
                    host: (host != "*").then_some(host),
                    path: if route.key.path.is_empty() {
                        "/".to_owned()
                    } else {
                        route.key.path.to_string()
                    },
                    order: i64::from(route.order()),
                    requests: route.handler.requests(),
                });
            }
        }
        routes
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

    fn config(&self) -> Rc<Config> {
        self.config.borrow().clone()
    }

    fn load(&self, instance: Instance) -> Later<'_, Result<InstanceStatus, Refusal>> {
        Box::pin(async move {
            let generation = lifecycle::load(&self.registry, instance).await.map_err(refusal)?;
            Ok(self.status(&generation))
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

    fn kill(&self, id: u64) -> Result<ConnectionStatus, Refusal> {
        let found =
            self.registry.connections.list().iter().find(|status| status.id == id).map(connection);
        match found {
            Some(status) if self.registry.connections.kill(id) => Ok(status),
            _ => Err(Refusal(format!(
                "there is no connection {id}; `connections` shows those that there are"
            ))),
        }
    }

    fn move_route(&self, id: u64, place: RoutePlace) -> Result<(), Refusal> {
        for site in self.registry.sites.sites().values() {
            let routes = site.list();
            let Some(moved) = routes.iter().find(|route| route.id == id) else { continue };
            let alike: Vec<_> = routes
                .iter()
                .filter(|route| route.key.kind == moved.key.kind && route.id != id)
                .collect();
            let order_of = |other: u64| {
                alike.iter().find(|route| route.id == other).map(|route| route.order()).ok_or_else(|| {
                    Refusal(format!("there is no route {other} of the same kind at that site; `routes` shows them"))
                })
            };
            let order = match place {
                RoutePlace::First => {
                    alike.iter().map(|route| route.order()).min().unwrap_or(0).saturating_sub(1)
                }
                RoutePlace::Last => {
                    alike.iter().map(|route| route.order()).max().unwrap_or(0).saturating_add(1)
                }
                RoutePlace::Before(other) => order_of(other)?.saturating_sub(1),
                RoutePlace::After(other) => order_of(other)?.saturating_add(1),
            };
            site.set_order(&moved.key.instance, &moved.key.path, Some(order));
            return Ok(());
        }
        Err(Refusal(format!("there is no route {id}; `routes` shows those that there are")))
    }

    fn check(&self, config: Rc<Config>) -> Later<'_, Result<(), Diagnostics>> {
        Box::pin(async move { config.check_plugins(&check::schema_of).map(drop) })
    }

    fn apply(&self, config: Rc<Config>) -> Later<'_, ApplyOutcome> {
        Box::pin(self.apply_config(config))
    }

    fn run(&self, call: PluginCall) -> Later<'_, Result<(), Refusal>> {
        Box::pin(self.run_command(call))
    }

    fn shutdown(&self) {
        self.is_stopping();
        self.stop.notify_one();
    }
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
        state: if status.state == connections::State::Parked { "parked" } else { "active" }
            .to_owned(),
        age_ms: ms(status.age),
        received_bytes: status.bytes_in,
        sent_bytes: status.bytes_out,
    }
}
