//! What the monitor's commands act on. The host implements it; the monitor only asks, and shows the answers.
//!
//! Every answer is plain data whose field names are those of `--json`.

use std::{fmt, future::Future, os::fd::RawFd, path::PathBuf, pin::Pin, rc::Rc};

use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Diagnostics, Instance},
    monitor::{command::Role, output::Output},
    status::InstanceFigures,
};

/// An answer that takes a while; it stays on the loop's thread.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Why something was not done: a lower-case sentence that says what was tried, with what, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// What a host upgrade came to, told by the program that serves after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostUpgradeOutcome {
    /// `upgraded`, or `kept` if the new program failed.
    pub result: String,
    /// The version that served before.
    pub from: String,
    /// The version that serves now.
    pub to: String,
    /// Why the old program is back.
    pub reason: Option<String>,
    /// How long nothing was served, in microseconds.
    pub pause_us: u64,
}

impl fmt::Display for HostUpgradeOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostUpgradeOutcome { from, to, reason, pause_us, .. } = self;
        match reason {
            None => write!(f, "upgraded from {from} to {to}")?,
            Some(reason) => write!(f, "the host goes on as it was: {reason}")?,
        }
        write!(f, "; nothing was served for {}", Pause(*pause_us))
    }
}

/// Microseconds in which nothing was served, in a unit that can be read.
pub(super) struct Pause(pub(super) u64);

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us @ ..10_000 => write!(f, "{us} µs"),
            us => write!(f, "{}.{} ms", us / 1000, us / 100 % 10),
        }
    }
}

/// The session of the monitor that has asked for another program of the host, and that this one answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// Its descriptor.
    pub descriptor: RawFd,
    /// Whether the answer is for programs.
    pub json: bool,
}

/// The running host, as its operator sees and changes it.
///
/// Methods without a future answer from memory. The others may take as long as they need: each command is a task of its own,
/// and goes on when its client leaves.
pub trait Control {
    /// The host as a whole.
    fn host(&self) -> HostStatus;
    /// All generations that are alive, of all instances.
    fn instances(&self) -> Vec<InstanceStatus>;
    /// What each instance that is loaded has in use, and has done.
    fn figures(&self) -> Vec<InstanceFigures>;
    /// All listeners.
    fn listeners(&self) -> Vec<ListenerStatus>;
    /// What the running plugins count of their own.
    fn metrics(&self) -> Vec<MetricStatus>;
    /// Some of the connections, in no order: those in the places of a table from `from` on, no more than one turn of the loop has time
    /// for; and the place to go on from, `None` at the end. From 0 to the end, each is shown once that is there all the while.
    fn connections(&self, from: usize) -> (Vec<ConnectionStatus>, Option<usize>);
    /// All routes, in the order in which they are asked.
    fn routes(&self) -> Vec<RouteStatus>;
    /// The commands that plugins have registered.
    fn commands(&self) -> Vec<PluginCommand>;
    /// The names of the libraries in `plugin_dir`.
    fn libraries(&self) -> Later<'_, Vec<String>>;
    /// The configuration in force.
    fn config(&self) -> Rc<Config>;

    /// Loads and starts an instance.
    fn load(&self, instance: Instance) -> Later<'_, Result<InstanceStatus, Refusal>>;
    /// Unloads an instance; it may drain, or is cut.
    fn unload(&self, name: String, pace: Pace) -> Later<'_, Result<UnloadOutcome, Refusal>>;
    /// Replaces an instance's code by that of the file `library` (an absolute path), or by its own library as it is on disk now.
    fn upgrade(
        &self,
        name: String,
        library: Option<PathBuf>,
    ) -> Later<'_, Result<UpgradeOutcome, Refusal>>;
    /// Has the process go on as another program: `binary`, or what is now at the path that it was started from. `asker` is the session
    /// that asked, which the other one tells how it went. Answers only if the host goes on as it is, and why.
    fn upgrade_host(&self, binary: Option<PathBuf>, asker: Option<Asker>) -> Later<'_, Refusal>;
    /// Cuts a connection.
    fn kill(&self, id: u64) -> Result<ConnectionStatus, Refusal>;
    /// Moves a route among those that it can stand beside, and keeps that over a restart.
    fn move_route(&self, id: u64, place: RoutePlace) -> Later<'_, Result<(), Refusal>>;
    /// Checks a configuration against the plugins that it names, without changing anything.
    fn check(&self, config: Rc<Config>) -> Later<'_, Result<(), Diagnostics>>;
    /// What putting a configuration into force would change.
    fn plan(&self, config: &Config) -> ApplyPlan;
    /// Puts a checked configuration into force: starts, stops and upgrades what differs; all of it, or nothing.
    fn apply(&self, config: Rc<Config>) -> Later<'_, ApplyOutcome>;
    /// Runs a plugin's own command.
    fn run(&self, call: PluginCall) -> Later<'_, Result<(), Refusal>>;
    /// Begins to drain and stop the host; returns at once.
    fn shutdown(&self);
}

/// How an instance goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// What is in flight may finish within `drain_ms_max`.
    Drain,
    /// At once.
    Now,
}

/// Where a route moves to: among the filters of its server, or the handlers of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoutePlace {
    /// Before all others.
    First,
    /// Behind all others.
    Last,
    /// Just before that one.
    Before(u64),
    /// Just behind that one.
    After(u64),
    /// Where it stands by itself: the move is taken back.
    Back,
}

/// A command that a plugin registered; it is typed as `INSTANCE NAME ARGUMENTS…`.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the fields are those of a command")]
pub struct PluginCommand {
    pub instance: String,
    pub name: String,
    pub usage: String,
    pub summary: String,
    pub role: Role,
    pub changes: bool,
}

/// One use of a plugin's command.
pub struct PluginCall {
    /// The instance.
    pub instance: String,
    /// The command.
    pub name: String,
    /// The words behind it, as they were typed.
    pub words: Vec<String>,
    /// Whether the answer is wanted as JSON.
    pub json: bool,
    /// Where the answer goes, in pieces; waiting there is the back-pressure.
    pub out: Output,
}

/// The host as a whole.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct HostStatus {
    pub version: String,
    pub pid: u32,
    /// `running` or `draining`.
    pub state: String,
    pub uptime_ms: u64,
    /// How often it has gone on as another program since then.
    pub upgrades: u64,
    /// Children that bring to an end what could not go over to it.
    pub children: u64,
    /// The configuration file.
    pub config: String,
    pub instances: u64,
    pub connections: u64,
    /// Accepted since the start.
    pub connections_total: u64,
    pub requests: u64,
    pub panics: u64,
    /// Polls that took longer than `stall_ms`.
    pub stalls: u64,
    /// For how long the host's program is on probation yet, if it is.
    pub probation_ms: Option<u64>,
    /// Why the host is back as this program, if it is after it served as another.
    pub back: Option<String>,
    /// How often the process has crashed and gone on.
    pub crashes: u64,
    /// What plugins have allocated; what C code in them allocates is not in it.
    pub heap_bytes: u64,
    /// Libraries that are mapped though their instance is gone.
    pub pinned: u64,
    pub jobs_running: u64,
    pub jobs_queued: u64,
}

/// One generation of an instance.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct InstanceStatus {
    pub name: String,
    pub library: String,
    pub version: String,
    pub generation: u64,
    /// `starting`, `running`, `waiting`, `draining`, `quarantined`, `pinned` or `failed`.
    pub state: String,
    /// Addresses, with the port that the system chose where 0 was asked for.
    pub listen: Vec<String>,
    pub connections: u64,
    pub requests: u64,
    pub heap_bytes: u64,
    pub panics: u64,
    /// Polls that took longer than `stall_ms`.
    pub stalls: u64,
    /// How often the instance was restarted for its faults since it was loaded, this generation among them.
    pub restarts: u64,
    /// The instance that it extends.
    pub attach: Option<String>,
    /// Why it is in that state, where that is not plain.
    pub reason: Option<String>,
}

/// What became of an unload.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UnloadOutcome {
    /// The instance.
    pub name: String,
    /// `unloaded`, `pinned` or `failed`.
    pub result: String,
    /// Whether its library is still mapped.
    pub mapped: bool,
    /// What it had allocated and not freed.
    pub leaked_bytes: u64,
    /// Why it is pinned, or failed.
    pub reason: Option<String>,
}

/// What became of an upgrade.
#[derive(Clone, Debug, Default, Serialize)]
pub struct UpgradeOutcome {
    /// The instance.
    pub name: String,
    /// `upgraded` or `kept`.
    pub result: String,
    /// The version that served before.
    pub from: String,
    /// The version that was to serve.
    pub to: String,
    /// Connections that the new generation took over.
    pub handed_over: u64,
    /// Connections that finish on the old one.
    pub drained: u64,
    /// How long nothing was served, in microseconds.
    pub pause_us: u64,
    /// Why the old one was kept.
    pub reason: Option<String>,
}

/// What became of a changed configuration; names of instances.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ApplyOutcome {
    /// Whether it is in force; if not, everything is as it was, but for what `failed` says.
    pub applied: bool,
    pub started: Vec<String>,
    pub stopped: Vec<String>,
    pub upgraded: Vec<String>,
    pub unchanged: Vec<String>,
    /// Why it is not in force: what could not be done. Then also what could not be undone.
    pub failed: Vec<ApplyFailure>,
    /// What was changed before something failed, and is as before again: by another generation.
    pub rolled_back: Vec<String>,
    /// Settings that only a restart puts into force.
    pub restart: Vec<String>,
}

/// What another configuration would change; names of instances.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ApplyPlan {
    pub start: Vec<String>,
    pub stop: Vec<String>,
    /// Those of which another generation takes over.
    pub upgrade: Vec<String>,
    /// Those that only listen elsewhere.
    pub listen: Vec<String>,
    pub unchanged: Vec<String>,
    /// Settings that only a restart puts into force.
    pub restart: Vec<String>,
}

/// What could not be done of a changed configuration.
#[derive(Clone, Debug, Serialize)]
pub struct ApplyFailure {
    /// The instance.
    pub name: String,
    /// A sentence.
    pub reason: String,
}

/// One listener.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ListenerStatus {
    pub instance: String,
    pub address: String,
    pub tls: Option<String>,
    pub connections: u64,
    /// Accepted since it was bound.
    pub accepted: u64,
}

/// One metric of a plugin's.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct MetricStatus {
    pub instance: String,
    pub name: String,
    /// `counter` or `gauge`.
    pub kind: String,
    pub value: u64,
    pub help: String,
}

/// One connection.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ConnectionStatus {
    /// What `kill` takes.
    pub id: u64,
    pub instance: String,
    pub generation: u64,
    pub peer: String,
    pub local: String,
    pub tls: bool,
    /// `connecting`, `open`, `parked` or `closing`.
    pub state: String,
    pub age_ms: u64,
    /// How long no data has come or gone; unknown of Unix sockets.
    pub idle_ms: Option<u64>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// One HTTP route.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RouteStatus {
    /// What `routes move` takes.
    pub id: u64,
    /// `filter`, `handler` or `observer`.
    pub kind: String,
    /// The HTTP instance that it belongs to.
    pub server: String,
    /// The instance that registered it.
    pub instance: String,
    pub host: Option<String>,
    pub path: String,
    /// As the instance asks for it.
    pub order: i64,
    /// Where the operator has put it: `first`, `last`, `before ID` or `after ID`.
    pub moved: Option<String>,
    /// How often it was asked, or an observer was told.
    pub requests: u64,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

impl From<String> for Refusal {
    fn from(sentence: String) -> Refusal {
        Refusal(sentence)
    }
}

impl From<&str> for Refusal {
    fn from(sentence: &str) -> Refusal {
        Refusal(sentence.to_owned())
    }
}
