//! `medusa serve`: the runtime, the monitor, and the end by signal or command.

use std::{future::Future, process::ExitCode, rc::Rc};

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{
    app::{
        host::{Host, State},
        status,
        succession::{Inheritance, Left, Surroundings, aftermath::Aftermath, probation},
        supervisor::{Given, Supervisor},
        watchdog::{self, Watchdog},
    },
    config::{Config, LogFormat},
    log::{self, Log},
    monitor::{Monitor, control::Control, socket::MonitorSocket},
    net::Address,
    plugin::{interpose, pool::Pool, quarantine, registry::Registry},
    sys::{crash, exec, process},
};

/// Serves until a signal or the monitor ends it.
///
/// `left` is what another image of the host has left, if this one follows it; `after` is what there is after a crash.
pub fn run(config: Config, left: Option<Left>, after: Option<Aftermath>) -> ExitCode {
    let outcome = serve(config, left, after);
    // As long as there is a way back to another image, it is gone.
    exec::go_back();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("medusa: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config, left: Option<Left>, after: Option<Aftermath>) -> Result<(), String> {
    // First, as there must be no threads yet.
    let given = match inheritance(left.as_ref(), after.as_ref()) {
        Some(inheritance) => Given::inherited(inheritance.supervisor.clone()),
        None => Given::take(),
    };
    let log = Log::start(log_options(&config)).map_err(|error| error.to_string())?;
    let _last_lines = log.last_lines();
    probation::heed_panics();
    process::prepare_descriptors();
    let limits = &config.limits;
    let threads = usize::try_from(limits.pool_threads).unwrap_or(usize::MAX);
    let queued_max = usize::try_from(limits.jobs_queued_max).unwrap_or(usize::MAX);
    let start = |name| {
        Pool::start(name, threads, queued_max)
            .map_err(|error| format!("cannot start the pool's threads: {error}"))
    };
    let pools = Pools { jobs: start("medusa-pool")?, host: start("medusa-host")? };
    let watchdog = Watchdog::start(!config.counters)
        .map_err(|error| format!("cannot start the watchdog: {error}"))?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(runtime::LocalOptions::default());
    let runtime = runtime.map_err(|error| format!("cannot start the event loop: {error}"))?;
    let before = Before { left, after };
    runtime.block_on(serve_on_loop(config, log, pools, &watchdog, given, before))
}

/// What this image goes on with, if it does not begin.
fn inheritance<'a>(
    left: Option<&'a Left>,
    after: Option<&'a Aftermath>,
) -> Option<&'a Inheritance> {
    left.map(|left| &left.inheritance).or_else(|| after.map(Aftermath::inheritance))
}

/// What was there before this image.
struct Before {
    left: Option<Left>,
    after: Option<Aftermath>,
}

/// The host's threads beside the loop's.
struct Pools {
    jobs: Pool,
    host: Pool,
}

async fn serve_on_loop(
    config: Config,
    log: Log,
    pools: Pools,
    watchdog: &Watchdog,
    given: Given,
    Before { left, after }: Before,
) -> Result<(), String> {
    let config = Rc::new(config);
    let before = inheritance(left.as_ref(), after.as_ref());
    let (jobs, own) = (Rc::new(pools.jobs), Rc::new(pools.host));
    let clock = before.map(Inheritance::clock);
    let (registry, posts) = Registry::new(config.clone(), jobs, own, watchdog.stalls(), clock);
    let connections = registry.connections.open();
    connections.map_err(|error| format!("cannot watch connections: {error}"))?;
    let record = given.record();
    let supervisor = given.hand_out(&registry.sockets);
    let monitor_socket = registry.sockets.take(&Address::Unix(config.monitor_socket.clone()));
    if let Some(beat) = supervisor.beat() {
        tokio::task::spawn_local(beat);
    }
    tokio::task::spawn_local(watchdog::answer());
    tokio::task::spawn_local(registry.clone().deliver(posts));
    tokio::task::spawn_local(thread_ends(registry.clone()));
    tokio::task::spawn_local(quarantine::watch(registry.clone()));
    let host = Rc::new(Host::new(registry));
    status::offer(&host);
    // Before the socket is there, so that whoever sees it can already send a signal.
    let signals = end_signal()?;
    let socket = match (before, monitor_socket) {
        (Some(before), _) => {
            let socket = exec::take(before.monitor).map_err(|error| error.to_string())?;
            MonitorSocket::inherit(socket, &config.monitor_socket)?
        }
        (None, Some(passed)) => MonitorSocket::adopt(&config.monitor_socket, passed)?,
        (None, None) => MonitorSocket::bind(&config.monitor_socket)?,
    };
    let monitor = Monitor::new(socket, host.clone(), log.clone(), config.limits.clone());
    host.succession.set_surroundings(Surroundings {
        log: log.clone(),
        monitor: monitor.descriptor(),
        waiting: monitor.waiting(),
        close_monitor: monitor.closer(),
        supervisor: record,
        manager: supervisor.clone(),
    });
    // Signals wait until all is there that they are about.
    let reloading = reload_at_signal(host.clone(), log, supervisor.clone())?;
    let upgrading = upgrade_at_signal(host.clone())?;
    let goes_on = left.is_some() || after.as_ref().is_some_and(|after| !after.is_starting());
    if let Some(left) = left
        && let Err(reason) = go_on(&host, &monitor, left).await
    {
        // Its socket has a file, which is needed by whoever goes on.
        std::mem::forget(monitor);
        return Err(reason);
    }
    match after {
        Some(after) => go_on_after_crash(&host, after).await,
        None if !goes_on => host.begin_keeping(),
        None => {}
    }
    tokio::task::spawn_local(reloading);
    tokio::task::spawn_local(upgrading);
    host.keep_picture_now();
    tokio::task::spawn_local(host.clone().watch_probation());
    let keeping = {
        let host = host.clone();
        tokio::task::spawn_local(async move { host.keep_pictures().await })
    };
    let loading = {
        let (host, config, supervisor) = (host.clone(), config.clone(), supervisor.clone());
        async move {
            if !goes_on {
                host.load_configured().await;
            }
            tell_serving(&host, &config, &supervisor);
        }
    };
    // Beside the monitor, so that a plugin that is slow to start can be seen, and the host be stopped.
    let loading = tokio::task::spawn_local(loading);
    let stop = async {
        let why = tokio::select! {
            signal = signals => signal,
            () = host.asked_to_stop() => "shutdown by the monitor",
        };
        tracing::info!("{why}: draining");
        supervisor.stopping(&format!("{why}: draining"));
        // What is about to end does not begin anew.
        keeping.abort();
        crash::disarm();
        host.set_state(State::Draining);
        host.registry.sockets.stop();
        loading.abort();
        host.unload_all().await;
    };
    monitor.serve(stop).await;
    tracing::info!("medusa has stopped");
    Ok(())
}

/// Goes on where another image of the host left off, and tells whoever has asked for that.
async fn go_on(host: &Host, monitor: &Monitor, mut left: Left) -> Result<(), String> {
    let restoration = host.restore(&mut left).await?;
    let asker = left.inheritance.take_asker();
    let waiting = left.inheritance.take_waiting();
    let crashes = left.inheritance.crashes.clone();
    let outcome = host.arrived(left);
    // Before sessions come to rest again, and code of plugins' runs.
    host.begin_keeping();
    crash::set_crashes(&crashes);
    host.keep_picture_now();
    let arriving = restoration.begin().await;
    host.keep_picture_now();
    // Whoever would see that some are not there yet, or change what there is, waits for them: nobody is answered before.
    for some in arriving {
        some.arrive().await;
    }
    if let Some((session, asker)) = asker {
        monitor.inherit(session, asker, &outcome);
    }
    for (session, sent) in waiting {
        monitor.resume(session, sent);
    }
    Ok(())
}

/// Goes on with what can be, after a crash.
async fn go_on_after_crash(host: &Host, mut after: Aftermath) {
    let restored = host.restore_after(&mut after).await;
    for one in restored {
        one.begin().await;
    }
    host.recovered(after);
}

/// All that is configured was loaded, or has failed: says what serves.
fn tell_serving(host: &Host, config: &Config, supervisor: &Supervisor) {
    host.set_state(State::Running);
    close_other_sockets(host);
    let summary = host.summary();
    tracing::info!(
        socket = %config.monitor_socket.display(),
        "medusa {} is {summary}",
        env!("CARGO_PKG_VERSION"),
    );
    supervisor.ready(&summary);
}

/// Closes the passed sockets that are nobody's. Those of an instance that has failed stay, as it may be mended.
fn close_other_sockets(host: &Host) {
    let config = host.config();
    let enabled = config.instances.iter().filter(|spec| spec.enabled);
    let wanted: Vec<_> = enabled.flat_map(|spec| &spec.listen).map(|it| &it.address).collect();
    host.registry.sockets.close_others(|address| wanted.contains(&address));
}

/// Has the host go on as the program that is now where it was started from, at each SIGUSR2.
fn upgrade_at_signal(host: Rc<Host>) -> Result<impl Future<Output = ()>, String> {
    let asked = signal(SignalKind::user_defined2());
    let mut asked = asked.map_err(|error| format!("cannot wait for signals: {error}"))?;
    Ok(async move {
        while asked.recv().await.is_some() {
            tracing::info!("SIGUSR2: going on as another program");
            // The log has the reason if it does not.
            let _ = host.replace_itself(None, None).await;
        }
    })
}

/// Reads the configuration again at each SIGHUP, and puts it into force if it holds together.
fn reload_at_signal(
    host: Rc<Host>,
    log: Log,
    supervisor: Supervisor,
) -> Result<impl Future<Output = ()>, String> {
    let hangup = signal(SignalKind::hangup());
    let mut hangup = hangup.map_err(|error| format!("cannot wait for signals: {error}"))?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: reading the configuration again");
            supervisor.reloading("reading the configuration again");
            let before = host.config().log.level;
            host.reload().await;
            log.reconfigure(before, host.config().log.level);
            supervisor.ready(&host.summary());
        }
    })
}

/// Has pinned libraries looked at again whenever a thread of a plugin's has ended.
async fn thread_ends(registry: Rc<Registry>) {
    let ends = match interpose::ThreadEnds::watch() {
        Ok(ends) => ends,
        Err(error) => {
            return tracing::warn!(%error, "the ends of plugins' threads cannot be seen; what they pin stays pinned");
        }
    };
    loop {
        if let Err(error) = ends.next().await {
            return tracing::warn!(%error, "the ends of plugins' threads can no longer be seen");
        }
        registry.threads_ended.notify_waiters();
    }
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
        queue_bytes_max: kept(config.limits.log_queue_bytes_max),
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
