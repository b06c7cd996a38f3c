//! The machine: a core for the server, a core for the load, and descriptors for all the connections.

use rustix::{
    param,
    process::{self, Resource, Rlimit},
    thread::{self, CpuSet},
};

use crate::Result;

/// Who runs on a core, by its number.
#[derive(Clone, Copy)]
pub(crate) enum Core {
    /// The server that is measured, alone.
    Server = 0,
    /// This program, and every load.
    Load = 1,
}

/// Moves this program to its core, ahead of what else runs there, and raises its soft limit of descriptors to the hard one.
/// Priority and limit are inherited by servers and loads.
pub(crate) fn prepare() -> Result<()> {
    move_to(Core::Load)?;
    // Only root may; without it, what else the machine does is in the latencies.
    let _ = process::setpriority_process(None, -20);
    let limit = process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    process::setrlimit(Resource::Nofile, raised)
        .map_err(|error| format!("the limit of descriptors cannot be raised: {error}"))
}

/// Moves this thread, and what it starts from then on, to a core.
pub(crate) fn move_to(core: Core) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core as usize);
    thread::sched_setaffinity(None, &set).map_err(|error| {
        format!("core {} cannot be had, and two are needed: {error}", core as usize)
    })
}

/// Whether a process can have so many connections, with what it opens besides; or how that is made so.
pub(crate) fn can_hold(connections: usize) -> Result<()> {
    let wanted = connections as u64 + 512;
    match process::getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < wanted => Err(format!(
            "{connections} connections want {wanted} descriptors, and the hard limit is {limit}: raise it (`ulimit -Hn`)"
        )),
        _ => Ok(()),
    }
}

/// Microseconds that the children of this process that have ended spent on their cores.
///
/// From the kernel's exact count, but told in ticks (10 ms, as a rule): meant for a load of seconds.
pub(crate) fn children_us() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    // The name, in parentheses, may hold anything; cutime and cstime are the 16th and 17th fields, the name the second.
    let (_, rest) = text.rsplit_once(')').ok_or("/proc/self/stat has no name")?;
    let ticks = rest.split_whitespace().skip(13).take(2).map(|it| it.parse::<u64>().unwrap_or(0));
    Ok(ticks.sum::<u64>() as f64 * 1e6 / param::clock_ticks_per_second() as f64)
}
