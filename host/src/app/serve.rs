//! `medusa serve`: the runtime, the monitor, and the end by signal or command.

use std::{cell::Cell, future::Future, path::PathBuf, process::ExitCode, rc::Rc, time::Instant};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::Notify,
    task::LocalSet,
};

use crate::{
    app::check,
    config::{Config, Diagnostics, Instance, LogFormat},
    log::{self, Log},
    monitor::{
        Monitor,
        control::{
            ApplyFailure, ApplyOutcome, ConnectionStatus, Control, HostStatus, InstanceStatus,
            Later, ListenerStatus, Pace, PluginCall, PluginCommand, Refusal, RoutePlace,
            RouteStatus, UnloadOutcome, UpgradeOutcome,
        },
    },
};

/// Serves until a signal or the monitor ends it.
pub fn run(config: Config) -> ExitCode {
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("medusa: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> Result<(), String> {
    let log = Log::start(log_options(&config)).map_err(|error| error.to_string())?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start the event loop: {error}"))?;
    LocalSet::new().block_on(&runtime, serve_on_loop(config, log))
}

async fn serve_on_loop(config: Config, log: Log) -> Result<(), String> {
    let host = Rc::new(Host::new(config));
    let config = host.config();
    // Before the socket is there, so that whoever sees it can already send a signal.
    let signals = end_signal()?;
    let monitor = Monitor::bind(&config.monitor_socket, host.clone(), log, config.limits.clone())?;
    tracing::info!(socket = %config.monitor_socket.display(), "medusa {} runs", env!("CARGO_PKG_VERSION"));
    monitor
        .serve(async {
            tokio::select! {
                signal = signals => tracing::info!("{signal}: stopping"),
                () = host.stop.notified() => tracing::info!("shutdown by the monitor: stopping"),
            }
        })
        .await;
    tracing::info!("medusa has stopped");
    Ok(())
}

fn log_options(config: &Config) -> log::Options {
    let kept = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    log::Options {
        level: config.log.level,
        format: if config.log.format == LogFormat::Json {
            log::Format::Json
        } else {
            log::Format::Text
        },
        lines_kept: kept(config.limits.log_lines_kept),
        line_bytes_max: kept(config.limits.log_line_bytes_max),
    }
}

/// Resolves with the name of the signal that asks the host to end.
fn end_signal() -> Result<impl Future<Output = &'static str>, String> {
    let cannot = |error: std::io::Error| format!("cannot wait for signals: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

/// A host without plugins: it knows its configuration and how to stop.
struct Host {
    config: Rc<Config>,
    begun: Instant,
    is_stopping: Cell<bool>,
    stop: Notify,
}

const NO_PLUGINS: &str = "this build of medusa has no plugin registry yet, so it cannot";

impl Host {
    fn new(config: Config) -> Host {
        Host {
            config: Rc::new(config),
            begun: Instant::now(),
            is_stopping: Cell::new(false),
            stop: Notify::new(),
        }
    }
}

impl Control for Host {
    fn host(&self) -> HostStatus {
        HostStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: if self.is_stopping.get() { "draining" } else { "running" }.to_owned(),
            uptime_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            config: self.config.source.file().display().to_string(),
            ..HostStatus::default()
        }
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        Vec::new()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        Vec::new()
    }

    fn connections(&self) -> Vec<ConnectionStatus> {
        Vec::new()
    }

    fn routes(&self) -> Vec<RouteStatus> {
        Vec::new()
    }

    fn commands(&self) -> Vec<PluginCommand> {
        Vec::new()
    }

    fn config(&self) -> Rc<Config> {
        self.config.clone()
    }

    fn load(&self, instance: Instance) -> Later<'_, Result<InstanceStatus, Refusal>> {
        let sentence = format!("{NO_PLUGINS} load `{}`", instance.name);
        Box::pin(async { Err(sentence.into()) })
    }

    fn unload(&self, name: String, _: Pace) -> Later<'_, Result<UnloadOutcome, Refusal>> {
        Box::pin(async move { Err(format!("there is no instance `{name}`").into()) })
    }

    fn upgrade(
        &self,
        name: String,
        _: Option<PathBuf>,
    ) -> Later<'_, Result<UpgradeOutcome, Refusal>> {
        Box::pin(async move { Err(format!("there is no instance `{name}`").into()) })
    }

    fn kill(&self, id: u64) -> Result<ConnectionStatus, Refusal> {
        Err(format!("there is no connection {id}").into())
    }

    fn move_route(&self, id: u64, _: RoutePlace) -> Result<(), Refusal> {
        Err(format!("there is no route {id}").into())
    }

    fn check(&self, config: Rc<Config>) -> Later<'_, Result<(), Diagnostics>> {
        Box::pin(async move { config.check_plugins(&check::schema_of).map(drop) })
    }

    fn apply(&self, config: Rc<Config>) -> Later<'_, ApplyOutcome> {
        let failure = |instance: &Instance| ApplyFailure {
            name: instance.name.clone(),
            reason: format!("{NO_PLUGINS} load it"),
        };
        let failed =
            config.instances.iter().filter(|instance| instance.enabled).map(failure).collect();
        Box::pin(async { ApplyOutcome { failed, ..ApplyOutcome::default() } })
    }

    fn run(&self, call: PluginCall) -> Later<'_, Result<(), Refusal>> {
        Box::pin(async move {
            Err(format!("there is no command `{} {}`", call.instance, call.name).into())
        })
    }

    fn shutdown(&self) {
        self.is_stopping.set(true);
        self.stop.notify_one();
    }
}
