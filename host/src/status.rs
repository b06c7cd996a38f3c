//! What the host counts of each instance, for people and for programs.

pub mod durations;

use serde::Serialize;

/// What one instance has in use, and what it has done, over all its generations that are alive.
///
/// What is counted up (bytes, requests, panics) counts from the instance's load and goes on over its upgrades. The rest is as it is now.
#[derive(Clone, Debug, Default, Serialize)]
pub struct InstanceFigures {
    /// The instance's name.
    pub name: String,
    /// How many generations of it are mapped: two while an old one drains.
    pub generations: u64,
    /// Connections that a task serves, or that are being made.
    pub connections_active: u64,
    /// Connections that wait for their next turn without a task.
    pub connections_parked: u64,
    /// Connections that nobody serves any more, whose input is thrown away for a while.
    pub connections_closing: u64,
    /// Bytes read from its connections.
    pub received_bytes: u64,
    /// Bytes written to its connections, those out of files included.
    pub sent_bytes: u64,
    /// Requests that were brought to it.
    pub requests: u64,
    /// Futures of it that the host polls: tasks, connections and requests that are being served.
    pub tasks: u64,
    /// Timers of it.
    pub timers: u64,
    /// Blocking jobs of it, waiting or running.
    pub jobs: u64,
    /// Threads that the host made for it.
    pub threads: u64,
    /// What it has allocated; what C code in it allocates is not in it.
    pub heap_bytes: u64,
    /// Panics of it, caught or not.
    pub panics: u64,
    /// Its polls: how often the loop was in its code, and how long each time. What it called other plugins for is theirs. None if
    /// the host does not count them (`[host] counters = false`).
    pub polls: Option<DurationFigures>,
    /// Of a server of HTTP: how long its requests took that the host had answered, from the turn in which one was read to the end of
    /// its response. None of others, and as above.
    pub latency: Option<DurationFigures>,
}

/// Durations, in nanoseconds. All is 0 where there were none; percentiles are up to 3 % too large, the longest is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DurationFigures {
    /// How many there were.
    pub count: u64,
    /// All of them together.
    pub total_ns: u64,
    /// What half of them do not exceed.
    pub p50_ns: u64,
    /// What nine of ten do not exceed.
    pub p90_ns: u64,
    /// What all but one in a hundred do not exceed.
    pub p99_ns: u64,
    /// The longest.
    pub longest_ns: u64,
    /// When the longest ended, in milliseconds since 1970.
    pub longest_at_ms: Option<u64>,
}
