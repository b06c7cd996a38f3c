//! Every limit of the host: its name (the unit last), default, range and meaning, declared once.
//!
//! The parser, `config show` and the reference page all read this table.

use serde::Serialize;

use crate::config::units;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// One limit as data.
pub struct Limit {
    /// The key under `[host.limits]` and, where it is per instance, `[plugin.limits]`.
    pub name: &'static str,
    /// What holds if nobody says otherwise.
    pub default: u64,
    /// The smallest value that makes sense.
    pub min: u64,
    /// The largest.
    pub max: u64,
    /// Whom it binds.
    pub scope: Scope,
    /// What it bounds and what happens there, in a sentence.
    pub doc: &'static str,
    /// Reads it.
    pub get: fn(&Limits) -> u64,
    /// Writes it.
    pub set: fn(&mut Limits, u64),
}

/// Whom a limit binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All instances together.
    Host,
    /// Each instance by itself; `[plugin.limits]` can override it.
    Instance,
}

/// What a limit counts, read off the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes; the file may say `"64 KiB"`.
    Bytes,
    /// Milliseconds; the file may say `"30 s"`.
    Milliseconds,
}

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $scope:ident = $default:expr, $min:expr => $max:expr;)*) => {
        /// The limits in force, for the host or for one instance.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        pub struct Limits { $($(#[doc = $doc])+ pub $name: u64,)* }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { $($name: $default,)* }
            }
        }

        /// All of them, in the order of the reference page.
        pub const LIMITS: &[Limit] = &[$(Limit {
            name: stringify!($name),
            default: $default,
            min: $min,
            max: $max,
            scope: Scope::$scope,
            doc: concat!($($doc),+),
            get: |limits| limits.$name,
            set: |limits, value| limits.$name = value,
        },)*];
    };
}

limits! {
    /// Most threads of the pool on which blocking work runs.
    pool_threads: Host = 4, 1 => 256;
    /// Blocking jobs that wait for a thread of the pool; more are refused.
    jobs_queued_max: Host = 1024, 1 => 1_000_000;
    /// Connections of all instances together; more wait in the kernel's queue.
    connections_max: Host = 65_536, 1 => 10_000_000;
    /// Connections of one instance; more wait in the kernel's queue.
    connections_per_instance_max: Instance = 65_536, 1 => 10_000_000;
    /// Connections that may wait in the kernel's queue of one listener; the kernel has a bound of its own (`net.core.somaxconn`). It
    /// holds for listeners that are bound from then on.
    listen_backlog_max: Instance = 1024, 1 => 65_535;
    /// Closed connections whose input is thrown away for a while, so that the peer still gets the answer; others are closed at once.
    lingering_connections_max: Host = 1024, 0 => 1_000_000;
    /// How long the input of a closed connection is thrown away.
    linger_ms_max: Host = 2_000, 0 => 600_000;
    /// Bytes of a closed connection's input that are thrown away; after them it is cut.
    linger_bytes_max: Host = MIB, 0 => GIB;
    /// Names that may be looked up at a time, each by a thread of the pool; more are refused.
    lookups_max: Host = 64, 1 => 65_536;
    /// Tasks of one instance; spawning more fails.
    tasks_per_instance_max: Instance = 131_072, 1 => 10_000_000;
    /// Timers of one instance; setting more fails.
    timers_per_instance_max: Instance = 131_072, 1 => 10_000_000;
    /// Files that one instance has open; opening more fails.
    files_per_instance_max: Instance = 4096, 1 => 1_000_000;
    /// Folders that one instance has open as roots of its files; opening more fails.
    folders_per_instance_max: Instance = 256, 1 => 65_536;
    /// Listeners of one instance; binding more fails.
    listeners_per_instance_max: Instance = 1024, 1 => 65_536;
    /// Blocking jobs of one instance, waiting or running; more are refused.
    jobs_per_instance_max: Instance = 256, 1 => 1_000_000;
    /// Threads of one instance's own; starting more fails.
    threads_per_instance_max: Instance = 64, 0 => 4096;
    /// Messages from one instance's other threads that wait for the loop; more are refused.
    posts_per_instance_max: Instance = 4096, 1 => 1_000_000;
    /// Bytes of those messages; more are refused.
    post_bytes_per_instance_max: Instance = 16 * MIB, 1024 => GIB;
    /// Messages that wait for one parked connection; more are refused.
    posts_per_connection_max: Instance = 64, 1 => 1_000_000;
    /// Commands, metrics and services of one instance, each; offering more fails.
    offers_per_instance_max: Instance = 1024, 1 => 1_000_000;
    /// Memory that one instance has allocated; above it the instance is quarantined at its next turn.
    heap_bytes_max: Instance = GIB, MIB => 1024 * GIB;
    /// Panics of one instance within an hour; above it the instance is restarted. With 0 it never is for panics.
    panics_per_hour_max: Instance = 100, 0 => 1_000_000;
    /// Polls of one instance that took longer than `stall_ms`, within an hour; above it the instance is restarted. With 0 it never is
    /// for stalls.
    stalls_per_hour_max: Instance = 100, 0 => 1_000_000;
    /// Restarts of one instance within an hour; the next time that it would be restarted it is quarantined. With 0 that is the first
    /// time.
    restarts_per_hour_max: Instance = 10, 0 => 1000;
    /// How long after its first restart within an hour an instance may be restarted again; the time doubles with each further restart.
    restart_backoff_ms_min: Instance = 1_000, 0 => 3_600_000;
    /// The most that this time grows to. While it lasts, the instance goes on serving as it is.
    restart_backoff_ms_max: Instance = 300_000, 0 => 3_600_000;
    /// How long an instance is on probation after its upgrade: it keeps what it needs to go back to the version before. With 0 it never
    /// is.
    probation_ms: Instance = 60_000, 0 => 86_400_000;
    /// Panics of an instance on probation; above it the version before is put back. With 0 it never is for panics.
    probation_panics_max: Instance = 3, 0 => 1_000_000;
    /// Polls of an instance on probation that took longer than `stall_ms`; above it the version before is put back. With 0 it never is
    /// for stalls. A slow machine stalls everybody, hence more of them than panics.
    probation_stalls_max: Instance = 10, 0 => 1_000_000;
    /// Checks of its health that an instance on probation may fail; above it the version before is put back.
    probation_health_failures_max: Instance = 1, 0 => 1_000_000;
    /// How long after one check of its health an instance on probation is asked again.
    health_every_ms: Instance = 5_000, 10 => 3_600_000;
    /// How long a check of its health may take; then it counts as failed.
    health_ms_max: Instance = 5_000, 1 => 3_600_000;
    /// How long one poll of a plugin may take before the log names the plugin.
    stall_ms: Instance = 100, 1 => 3_600_000;
    /// How long one call into a plugin may keep the loop before the process goes on without that plugin, as after a crash; and the host's
    /// own code, before it goes on anew. With 0 it never does.
    stall_ms_max: Host = 10_000, 0 => 3_600_000;
    /// How often the state that plugins keep is put aside for the time after a crash; what changed since is lost then. With 0 none is.
    state_every_ms: Host = 5_000, 0 => 3_600_000;
    /// Bytes of one durable session's record; a session with a longer one does not outlive a crash. A change has its effect at the next
    /// start.
    durable_bytes_max: Host = KIB, 64 => 64 * KIB;
    /// How long a plugin may take to prepare (to look at its configuration, without side effects); else it is refused.
    prepare_ms_max: Instance = 5_000, 1 => 600_000;
    /// How long a plugin may take to start; after it the load or upgrade is given up.
    start_ms_max: Instance = 30_000, 1 => 3_600_000;
    /// How long an instance may go on with what is in flight after its unload or upgrade; the rest is cut.
    drain_ms_max: Instance = 30_000, 0 => 86_400_000;
    /// How long an unload waits, once its drain is over, for blocking jobs and threads to end; then the library is pinned until they
    /// have.
    blocked_ms_max: Instance = 5_000, 0 => 3_600_000;
    /// How long the whole host may drain at a shutdown.
    shutdown_ms_max: Host = 30_000, 0 => 86_400_000;
    /// How long another program of the host may take to say whether it could go on in this one's place.
    preflight_ms_max: Host = 30_000, 1 => 3_600_000;
    /// How long connections may take to come to a place where they can go over to another program of the host; those that do not are
    /// served to their end by a child process.
    freeze_ms_max: Host = 250, 0 => 60_000;
    /// How long another program of the host may take until it serves; then this one goes on.
    takeover_ms_max: Host = 10_000, 10 => 600_000;
    /// How long another program of the host is on probation once it serves: a crash, a panic or a stall in the host's own code brings this
    /// one back. With 0 it is not. A change has its effect at the next upgrade.
    host_probation_ms: Host = 60_000, 0 => 86_400_000;
    /// Routes of all HTTP instances together; registering more fails.
    http_routes_max: Host = 4096, 1 => 1_000_000;
    /// Calls that wait in the queue of one service; more are answered BUSY.
    service_queue_max: Instance = 1024, 1 => 1_000_000;
    /// Bytes of one message between two instances; larger ones are refused.
    service_message_bytes_max: Instance = 16 * MIB, 1024 => GIB;
    /// Bytes of one request line to the monitor; a longer one is refused unread and ends the session.
    monitor_line_bytes_max: Host = 64 * KIB, 256 => 16 * MIB;
    /// Sessions of the monitor at a time; another one is told so and closed.
    monitor_sessions_max: Host = 32, 1 => 65_536;
    /// Output that a monitor command may have waiting for a slow reader before the command waits itself.
    monitor_output_bytes_max: Host = 256 * KIB, 16 * KIB => GIB;
    /// How long a monitor session may take to accept a piece of output before it is closed.
    monitor_write_ms_max: Host = 30_000, 100 => 3_600_000;
    /// Lines of the log that are kept for the monitor.
    log_lines_kept: Host = 1000, 1 => 1_000_000;
    /// Bytes of a kept line of the log; longer ones are cut.
    log_line_bytes_max: Host = 8 * KIB, 128 => MIB;
    /// Bytes of the log that may wait for whoever reads standard error; lines beyond are dropped there, counted and told.
    log_queue_bytes_max: Host = MIB, 4 * KIB => GIB;
}

impl Limits {
    /// `listen_backlog_max` as the system takes it.
    pub fn listen_backlog(&self) -> u32 {
        u32::try_from(self.listen_backlog_max).unwrap_or(u32::MAX)
    }
}

impl Limit {
    /// The limit of that name.
    pub fn named(name: &str) -> Option<&'static Limit> {
        LIMITS.iter().find(|limit| limit.name == name)
    }

    /// What it counts.
    pub fn unit(&self) -> Unit {
        let has = |word: &str| self.name.split('_').any(|part| part == word);
        if has("bytes") {
            Unit::Bytes
        } else if has("ms") {
            Unit::Milliseconds
        } else {
            Unit::Count
        }
    }

    /// A value of this limit as a person would write it.
    pub fn show(&self, value: u64) -> String {
        match self.unit() {
            Unit::Count => value.to_string(),
            Unit::Bytes => format!("\"{}\"", units::show_size(value)),
            Unit::Milliseconds => format!("\"{}\"", units::show_duration(value)),
        }
    }
}

/// The reference page's table of limits, in Markdown.
pub fn reference() -> String {
    let mut text =
        "| limit | default | range | per instance | meaning |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
    for limit in LIMITS {
        let [default, min, max] =
            [limit.default, limit.min, limit.max].map(|value| limit.show(value));
        let scope = if limit.scope == Scope::Instance { "yes" } else { "" };
        text += &format!(
            "| `{}` | `{default}` | `{min}` to `{max}` | {scope} | {} |\n",
            limit.name,
            limit.doc.trim()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_limit_can_be_read_and_written_and_has_a_default_in_range() {
        let mut limits = Limits::default();
        for limit in LIMITS {
            assert!(limit.min <= limit.default && limit.default <= limit.max, "{}", limit.name);
            assert_eq!((limit.get)(&limits), limit.default);
            (limit.set)(&mut limits, limit.max);
            assert_eq!((limit.get)(&limits), limit.max);
            assert!(limit.doc.ends_with('.'), "{}", limit.name);
        }
    }

    #[test]
    fn the_unit_is_read_off_the_name() {
        let check = |name, unit| assert_eq!(Limit::named(name).unwrap().unit(), unit, "{name}");
        check("pool_threads", Unit::Count);
        check("heap_bytes_max", Unit::Bytes);
        check("stall_ms", Unit::Milliseconds);
        check("start_ms_max", Unit::Milliseconds);
        check("log_lines_kept", Unit::Count);
    }

    #[test]
    fn the_reference_page_has_a_row_for_each() {
        assert_eq!(reference().lines().count(), LIMITS.len() + 2);
        assert!(reference().contains("| `drain_ms_max` | `\"30 s\"` |"), "{}", reference());
    }

    #[test]
    fn the_page_about_the_configuration_has_every_key() {
        let page = include_str!("../../../docs/configuration.md");
        let of_file =
            ["plugin_dir", "state_dir", "socket", "level", "format", "certificate", "key"];
        let sections =
            ["[host]", "[host.limits]", "[monitor]", "[log]", "[tls.NAME]", "[[plugin]]"];
        let of_plugins =
            crate::config::instance::KEYS.iter().filter(|key| !["config", "limits"].contains(key));
        for word in of_file.iter().chain(&sections).chain(of_plugins) {
            assert!(
                page.contains(&format!("`{word}`")),
                "`{word}` is not in docs/configuration.md"
            );
        }
    }

    /// `MEDUSA_WRITE_DOCS=1 cargo test -p medusa the_page` mends the table.
    #[test]
    fn the_page_about_the_configuration_has_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (begin, end) = ("<!-- limits: generated -->\n", "<!-- limits: end -->\n");
        let (before, rest) = page.split_once(begin).unwrap();
        let (table, after) = rest.split_once(end).unwrap();
        if std::env::var("MEDUSA_WRITE_DOCS").is_ok_and(|it| it == "1") {
            let page = format!("{before}{begin}{}{end}{after}", reference());
            return std::fs::write(path, page).unwrap();
        }
        assert!(
            table == reference(),
            "the table in docs/configuration.md should be:\n{}",
            reference()
        );
    }
}
