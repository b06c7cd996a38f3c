//! The log: tracing to standard error, and the last lines for the monitor.
//!
//! The level can be changed while the host runs; audit lines (target `audit`) are written at every level. Nobody who logs waits for
//! whoever reads standard error.

mod queue;
mod ring;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal,
    panic,
    sync::Arc,
    time::Duration,
};

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{Layer, Registry, filter::Targets, fmt, layer::SubscriberExt, reload};

pub use crate::log::{
    queue::AtRest,
    ring::{Batch, Follower, LogLine},
};
use crate::log::{
    queue::Queue,
    ring::{Keep, Names, Ring},
};

/// The target of audit lines.
pub const AUDIT: &str = "audit";

/// A handle on the log of this process.
#[derive(Clone)]
pub struct Log {
    ring: Arc<Ring>,
    /// What waits for standard error.
    queue: Arc<Queue>,
    filter: reload::Handle<Targets, Registry>,
}

/// How the log begins.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The least severe level that is logged.
    pub level: Level,
    /// The form of its lines.
    pub format: Format,
    /// How many lines are kept for the monitor.
    pub lines_kept: usize,
    /// Kept lines that are longer are cut.
    pub line_bytes_max: usize,
    /// Bytes that may wait for standard error; lines for which there is no room are dropped there, and counted.
    pub queue_bytes_max: usize,
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people; with colours where standard error is a terminal.
    Text,
    /// A JSON object a line.
    Json,
}

/// Why the log could not be begun.
#[derive(Debug)]
pub enum StartError {
    /// The process has one.
    AlreadyStarted,
    /// The system has no thread left.
    NoThread(std::io::Error),
}

/// Has the last lines written when it is dropped, at the end of the process or in a panic.
pub struct LastLines(Arc<Queue>);

/// How long the end of the process may wait for whoever reads standard error.
const FLUSH_MAX: Duration = Duration::from_secs(1);

impl Log {
    /// Begins to log to standard error, once in a process. Panics are logged too from then on.
    pub fn start(options: Options) -> Result<Log, StartError> {
        let (log, subscriber) = Log::build(options);
        tracing::subscriber::set_global_default(subscriber)
            .map_err(|_| StartError::AlreadyStarted)?;
        log.drain().map_err(StartError::NoThread)?;
        log.tell_panics();
        Ok(log)
    }

    fn drain(&self) -> std::io::Result<()> {
        // At `error`, so that it is told at every level.
        let lost = |lines| {
            tracing::error!(
                lines,
                "lines of this log were lost here, for nobody read standard error; `log` in the monitor has the last ones"
            );
        };
        self.queue.drain(std::io::stderr(), lost)
    }

    /// Has all that was logged be written, as far as somebody reads it, and holds the log at rest, so that the process can fork.
    pub fn at_rest(&self) -> AtRest<'_> {
        self.queue.flush(FLUSH_MAX);
        self.queue.at_rest()
    }

    /// Goes on logging in a process that has forked, where its thread is not there any more.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn revive(&self, at_rest: AtRest<'_>) -> std::io::Result<()> {
        at_rest.clear();
        self.drain()
    }

    /// What has the last lines written at the end; to be kept until then.
    pub fn last_lines(&self) -> LastLines {
        LastLines(self.queue.clone())
    }

    /// Puts the level of a changed configuration into force. One that the configuration leaves as it was also leaves alone what
    /// [`Log::set_level`] has set since.
    pub fn reconfigure(&self, before: Level, after: Level) {
        if before != after {
            self.set_level(after);
            tracing::info!(target: AUDIT, level = %after, "the level of the log is that of the changed configuration");
        }
    }

    /// The least severe level that is logged now.
    pub fn level(&self) -> Level {
        let level = self.filter.with_current(|targets| targets.default_level());
        level.ok().flatten().and_then(|filter| filter.into_level()).unwrap_or(Level::ERROR)
    }

    /// Changes the level, at once and for all threads.
    pub fn set_level(&self, level: Level) {
        // It fails only when the subscriber is gone, and then there is no log to change.
        let _ = self.filter.reload(targets(level));
    }

    /// The last lines, the oldest first; at most `count`.
    pub fn last(&self, count: usize) -> Vec<String> {
        self.last_of(count, |_| true)
    }

    /// The last lines of those that are wanted, the oldest first; at most `count`.
    pub fn last_of(&self, count: usize, wants: impl Fn(&LogLine) -> bool) -> Vec<String> {
        self.ring.last(count, wants)
    }

    /// Whether a line that is kept is about the instance.
    pub fn names(&self, instance: &str) -> bool {
        self.ring.is_named(instance)
    }

    /// The lines from now on.
    pub fn follow(&self) -> Follower {
        Follower::new(self.ring.clone())
    }

    /// Adds a line as if it had been logged.
    #[cfg(test)]
    pub(crate) fn note(&self, line: &str) {
        self.ring.push(LogLine { text: line.to_owned(), level: Level::INFO, instance: None });
    }

    /// A log that nothing is written to.
    #[cfg(test)]
    pub(crate) fn detached() -> Log {
        let options = Options {
            level: Level::INFO,
            format: Format::Text,
            lines_kept: 1,
            line_bytes_max: 1,
            queue_bytes_max: 0,
        };
        Log::build(options).0
    }

    /// Rust's own hook would write to standard error itself, and so wait for its reader.
    fn tell_panics(&self) {
        let queue = self.queue.clone();
        panic::set_hook(Box::new(move |panic| {
            let at = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or("without a message");
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or("without a name");
            let trace = Backtrace::capture();
            let trace = match trace.status() {
                BacktraceStatus::Captured => format!("\n{trace}"),
                _ => "; with RUST_BACKTRACE=1 it says what led there".to_owned(),
            };
            tracing::error!(at, thread, "the host panicked: {message}{trace}");
            // It may be the last that this process does.
            queue.flush(FLUSH_MAX);
        }));
    }

    fn build(options: Options) -> (Log, impl tracing::Subscriber + Send + Sync) {
        let queue = Queue::new(options.queue_bytes_max);
        let out = queue.clone();
        let writer = move || out.sender();
        let ring = Arc::new(Ring::new(options.lines_kept, options.line_bytes_max));
        let (filter, handle) = reload::Layer::new(targets(options.level));
        let keep = Keep(ring.clone());
        let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(writer);
        let copy = fmt::layer().with_ansi(false).with_writer(keep);
        let (lines, copy) = match options.format {
            Format::Text => (lines.boxed(), copy.boxed()),
            Format::Json => (lines.json().boxed(), copy.json().boxed()),
        };
        let subscriber = Registry::default().with(filter).with(vec![lines, Names.boxed(), copy]);
        (Log { ring, queue, filter: handle }, subscriber)
    }
}

impl Drop for LastLines {
    fn drop(&mut self) {
        self.0.flush(FLUSH_MAX);
    }
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::AlreadyStarted => {
                f.write_str("cannot start the log: this process has one already")
            }
            StartError::NoThread(error) => write!(f, "cannot start the log's thread: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

fn targets(level: Level) -> Targets {
    let audit = LevelFilter::from_level(level.max(Level::INFO));
    Targets::new().with_default(level).with_target(AUDIT, audit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_log(format: Format, test: impl FnOnce(&Log)) {
        let options = Options {
            level: Level::INFO,
            format,
            lines_kept: 3,
            line_bytes_max: 200,
            queue_bytes_max: 0,
        };
        let (log, subscriber) = Log::build(options);
        tracing::subscriber::with_default(subscriber, || test(&log));
    }

    #[test]
    fn the_last_lines_are_kept() {
        with_log(Format::Text, |log| {
            for number in 1..=4 {
                tracing::info!("line {number}");
            }
            let lines = log.last(10);
            assert_eq!(lines.len(), 3);
            assert!(lines[0].ends_with("line 2") && lines[2].ends_with("line 4"), "{lines:?}");
            assert_eq!(log.last(1).len(), 1);
        });
    }

    #[test]
    fn the_level_changes_live_and_audit_lines_are_always_there() {
        with_log(Format::Text, |log| {
            tracing::debug!("not seen");
            assert_eq!((log.last(9).len(), log.level()), (0, Level::INFO));
            log.set_level(Level::DEBUG);
            tracing::debug!("seen");
            assert_eq!((log.last(9).len(), log.level()), (1, Level::DEBUG));
            log.set_level(Level::ERROR);
            tracing::warn!("not seen");
            tracing::info!(target: AUDIT, "load echo");
            assert!(log.last(9)[1].contains("load echo"));
        });
    }

    #[test]
    fn a_changed_configuration_changes_the_level_and_an_unchanged_one_does_not() {
        with_log(Format::Text, |log| {
            log.set_level(Level::TRACE);
            log.reconfigure(Level::INFO, Level::INFO);
            assert_eq!(log.level(), Level::TRACE);
            log.reconfigure(Level::INFO, Level::WARN);
            assert_eq!(log.level(), Level::WARN);
        });
    }

    #[test]
    fn lines_are_found_by_instance_and_severity() {
        with_log(Format::Text, |log| {
            tracing::warn!(instance = "web", "one");
            tracing::info!(instance = %"site", "two instance=web");
            tracing::info!("three");
            let found = |wants: fn(&LogLine) -> bool| {
                let lines = log.last_of(9, wants);
                lines.iter().map(|line| line.contains("one")).collect::<Vec<_>>()
            };
            assert_eq!(found(|line| line.instance.as_deref() == Some("web")), [true]);
            assert_eq!(found(|line| line.instance.as_deref() == Some("site")), [false]);
            assert_eq!(found(|line| line.instance.is_none()), [false]);
            assert_eq!(found(|line| line.level <= Level::WARN), [true]);
            assert!(log.names("site") && !log.names("one"));
        });
    }

    #[test]
    fn json_lines_are_json() {
        with_log(Format::Json, |log| {
            tracing::info!(answer = 42, "hello");
            let line: serde_json::Value = serde_json::from_str(&log.last(1)[0]).unwrap();
            assert_eq!(line["fields"]["answer"], 42);
        });
    }

    #[test]
    fn long_and_broken_lines_are_tamed() {
        with_log(Format::Text, |log| {
            tracing::info!("a\nb\u{1b}[31m{}", "ä".repeat(500));
            let line = &log.last(1)[0];
            assert!(line.len() <= 200 + "…".len() && !line.contains(['\n', '\u{1b}']), "{line:?}");
        });
    }
}
