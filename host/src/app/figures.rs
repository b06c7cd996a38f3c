//! The figures of the instances, put together from what each part counts.

use crate::{
    net::connections::Tally,
    plugin::{generation::Generation, handles::Kind, instance::Instance, registry::Registry},
    status::{InstanceFigures, durations::Durations},
};

/// The figures of all instances that have a generation, by name.
pub(super) fn all(registry: &Registry) -> Vec<InstanceFigures> {
    let instances = registry.instances();
    let traffic: Vec<_> = instances.iter().map(|instance| &instance.traffic).collect();
    let tallies = registry.connections.tallies(&traffic);
    instances.iter().zip(tallies).map(|(instance, tally)| figures(instance, tally)).collect()
}

/// The figures of one instance, which has these connections.
pub(super) fn figures(instance: &Instance, tally: Tally) -> InstanceFigures {
    let generations = instance.generations();
    let sum = |of: fn(&Generation) -> u64| generations.iter().map(|it| of(it)).sum();
    InstanceFigures {
        name: instance.name.clone(),
        generations: generations.len() as u64,
        connections_active: tally.active,
        connections_parked: tally.parked,
        connections_closing: tally.closing,
        received_bytes: tally.bytes_in,
        sent_bytes: tally.bytes_out,
        requests: instance.requests(),
        tasks: sum(|it| it.futures.borrow().len() as u64),
        timers: sum(|it| it.handles.count(Kind::Timer).into()),
        jobs: sum(|it| it.jobs_running.get().into()),
        threads: sum(|it| it.threads.borrow().len() as u64),
        heap_bytes: sum(|it| it.heap().map_or(0, |(_, bytes, _)| bytes)),
        panics: instance.panics(),
        polls: instance.polls.as_ref().map(Durations::figures),
        latency: instance.latency(),
    }
}
