//! The figures that are shown, on the page and as metrics: one line each. A field of the host's that is not here is in the JSON only.

use serde_json::Value;

use crate::gather::Fields;

/// A number that the host tells.
pub(crate) struct Figure {
    /// Where it is in what the host tells; a dot leads into a map.
    pub(crate) field: &'static str,
    /// On the page; empty for what is not shown there.
    pub(crate) label: &'static str,
    /// The metric's name, with the unit that Prometheus has for it.
    pub(crate) metric: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    pub(crate) help: &'static str,
}

/// Whether it can go down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

/// What the host counts it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Count,
    Bytes,
    Milliseconds,
    /// Since 1970.
    EpochSeconds,
}

/// Of the host and its process.
#[rustfmt::skip] // A table.
pub(crate) static HOST: &[Figure] = &[
    figure("uptime_ms", "up for", "medusa_uptime_seconds", Kind::Gauge, Unit::Milliseconds, "Time since the host began."),
    figure("started_s", "", "process_start_time_seconds", Kind::Gauge, Unit::EpochSeconds, "When the process began, in seconds since 1970."),
    figure("connections", "connections", "medusa_connections", Kind::Gauge, Unit::Count, "Connections that are open."),
    figure("connections_total", "connections ever", "medusa_connections_accepted_total", Kind::Counter, Unit::Count, "Connections since the start."),
    figure("requests", "requests", "medusa_requests_total", Kind::Counter, Unit::Count, "Requests since the start, each counted once."),
    figure("resident_bytes", "memory", "process_resident_memory_bytes", Kind::Gauge, Unit::Bytes, "Resident memory of the process."),
    figure("heap_bytes", "plugins' heaps", "medusa_heap_bytes", Kind::Gauge, Unit::Bytes, "What all plugins have allocated."),
    figure("descriptors", "descriptors", "process_open_fds", Kind::Gauge, Unit::Count, "Open descriptors of the process."),
    figure("threads", "threads", "medusa_threads", Kind::Gauge, Unit::Count, "Threads of the process."),
    figure("jobs_running", "jobs running", "medusa_jobs_running", Kind::Gauge, Unit::Count, "Blocking jobs that run."),
    figure("jobs_queued", "jobs waiting", "medusa_jobs_queued", Kind::Gauge, Unit::Count, "Blocking jobs that wait for a thread."),
    figure("panics", "panics", "medusa_panics_total", Kind::Counter, Unit::Count, "Panics of plugins."),
    figure("stalls", "stalls", "medusa_stalls_total", Kind::Counter, Unit::Count, "Calls into plugins that kept the loop for too long."),
    figure("pinned", "pinned libraries", "medusa_pinned_libraries", Kind::Gauge, Unit::Count, "Libraries that are mapped though their instance is gone."),
    figure("instances", "instances", "medusa_instances", Kind::Gauge, Unit::Count, "Instances that there are."),
];

/// Of one instance; on the page, a column each.
#[rustfmt::skip] // A table.
pub(crate) static INSTANCE: &[Figure] = &[
    figure("generation", "generation", "medusa_instance_generation", Kind::Gauge, Unit::Count, "Number of the generation that gets new work."),
    figure("connections", "connections", "medusa_instance_connections", Kind::Gauge, Unit::Count, "Connections that it serves."),
    figure("requests", "requests", "medusa_instance_requests_total", Kind::Counter, Unit::Count, "Requests that were brought to it."),
    figure("heap_bytes", "heap", "medusa_instance_heap_bytes", Kind::Gauge, Unit::Bytes, "What it has allocated."),
    figure("panics", "panics", "medusa_instance_panics_total", Kind::Counter, Unit::Count, "Its panics."),
];

/// Of one instance; on the page, beneath its name.
#[rustfmt::skip] // A table.
pub(crate) static INSTANCE_MORE: &[Figure] = &[
    figure("figures.connections_active", "connections at work", "medusa_instance_connections_active", Kind::Gauge, Unit::Count, "Connections that a task serves, or that are being made."),
    figure("figures.connections_parked", "connections at rest", "medusa_instance_connections_parked", Kind::Gauge, Unit::Count, "Connections that wait for their next turn without a task."),
    figure("figures.connections_closing", "connections closing", "medusa_instance_connections_closing", Kind::Gauge, Unit::Count, "Connections that nobody serves any more, and that are not closed yet."),
    figure("figures.received_bytes", "received", "medusa_instance_received_bytes_total", Kind::Counter, Unit::Bytes, "Bytes read from its connections."),
    figure("figures.sent_bytes", "sent", "medusa_instance_sent_bytes_total", Kind::Counter, Unit::Bytes, "Bytes written to its connections."),
    figure("figures.tasks", "tasks", "medusa_instance_tasks", Kind::Gauge, Unit::Count, "Futures of it that the host polls."),
    figure("figures.timers", "timers", "medusa_instance_timers", Kind::Gauge, Unit::Count, "Timers of it."),
    figure("figures.jobs", "jobs", "medusa_instance_jobs", Kind::Gauge, Unit::Count, "Blocking jobs of it, waiting or running."),
    figure("figures.threads", "threads", "medusa_instance_threads", Kind::Gauge, Unit::Count, "Threads that the host made for it."),
    figure("figures.generations", "", "medusa_instance_generations", Kind::Gauge, Unit::Count, "Generations of it that are mapped."),
];

/// Durations that the host tells, in nanoseconds: a map of `count`, `total_ns`, `longest_ns` and percentiles.
pub(crate) struct Durations {
    /// Where that map is.
    pub(crate) field: &'static str,
    /// On the page.
    pub(crate) title: &'static str,
    /// The summary's name, without the unit.
    pub(crate) metric: &'static str,
    pub(crate) help: &'static str,
}

/// Of one instance; on the page, a table each.
#[rustfmt::skip] // A table.
pub(crate) static INSTANCE_DURATIONS: &[Durations] = &[
    Durations { field: "figures.polls", title: "Polls", metric: "medusa_instance_poll", help: "How long the loop was in its code, each time." },
    Durations { field: "figures.latency", title: "Answers", metric: "medusa_instance_latency", help: "How long its requests took that the host had answered." },
];

/// Percentiles, as the host, a summary and people name them.
pub(crate) const QUANTILES: [(&str, &str, &str); 3] =
    [("p50_ns", "0.5", "half"), ("p90_ns", "0.9", "90 %"), ("p99_ns", "0.99", "99 %")];

const fn figure(
    field: &'static str,
    label: &'static str,
    metric: &'static str,
    kind: Kind,
    unit: Unit,
    help: &'static str,
) -> Figure {
    Figure { field, label, metric, kind, unit, help }
}

impl Figure {
    /// What it stands at; `None` if it is not told.
    pub(crate) fn of(&self, fields: &Fields) -> Option<u64> {
        at(fields, self.field)?.as_u64()
    }

    /// As a metric: in Prometheus's base unit.
    pub(crate) fn sample(&self, value: u64) -> String {
        match self.unit {
            Unit::Count | Unit::Bytes | Unit::EpochSeconds => value.to_string(),
            Unit::Milliseconds => format!("{}.{:03}", value / 1000, value % 1000),
        }
    }
}

impl Durations {
    /// What is told of them; `None` if nothing is.
    pub(crate) fn of<'a>(&self, fields: &'a Fields) -> Option<&'a Fields> {
        at(fields, self.field)?.as_object()
    }
}

/// A number of a map; 0 if it is not told.
pub(crate) fn number(fields: &Fields, name: &str) -> u64 {
    fields.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Nanoseconds in Prometheus's base unit.
pub(crate) fn seconds(ns: u64) -> String {
    format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// What is at the end of a path of names.
fn at<'a>(fields: &'a Fields, path: &str) -> Option<&'a Value> {
    let mut path = path.split('.');
    let first = fields.get(path.next()?)?;
    path.try_fold(first, |value, name| value.get(name))
}
