//! Quarantine: an instance that keeps panicking, or takes more memory than it may, gets no new work.
//!
//! What it has in flight goes on; the operator looks at it, upgrades it or unloads it. A limit on memory can only be acted on
//! after the fact: a null from an allocator would abort the process.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use crate::plugin::{
    generation::{Generation, Phase},
    registry::Registry,
};

/// How often the instances are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The time that panics are counted over.
const WINDOW: Duration = Duration::from_secs(60);

/// What is remembered of a generation between two looks.
struct Seen {
    generation: Rc<Generation>,
    since: Instant,
    panics: u64,
}

/// Looks at every running generation, for as long as the host serves.
pub async fn watch(registry: Rc<Registry>) {
    let mut seen: Vec<Seen> = Vec::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        let running: Vec<_> = registry
            .instances()
            .iter()
            .filter_map(|instance| instance.current())
            .filter(|generation| generation.phase.get() == Phase::Running)
            .collect();
        seen.retain(|seen| running.iter().any(|it| Rc::ptr_eq(it, &seen.generation)));
        for generation in running {
            let panics = generation.panics();
            match seen.iter_mut().find(|seen| Rc::ptr_eq(&seen.generation, &generation)) {
                None => seen.push(Seen {
                    generation: generation.clone(),
                    since: Instant::now(),
                    panics: 0,
                }),
                Some(seen) if seen.since.elapsed() > WINDOW => {
                    (seen.since, seen.panics) = (Instant::now(), panics)
                }
                Some(_) => {}
            }
            let before = seen
                .iter()
                .find(|seen| Rc::ptr_eq(&seen.generation, &generation))
                .map_or(0, |seen| seen.panics);
            if let Some(reason) = fault(&generation, panics - before) {
                quarantine(&generation, reason);
            }
        }
    }
}

/// What is wrong with a generation that had so many panics lately, if anything is.
fn fault(generation: &Generation, panics: u64) -> Option<String> {
    let limits = &generation.limits;
    if panics > limits.panics_per_minute_max {
        return Some(format!("{panics} panics within a minute (`panics_per_minute_max`)"));
    }
    let heap_bytes = generation.heap().map_or(0, |(_, bytes, _)| bytes);
    (heap_bytes > limits.heap_bytes_max).then(|| {
        format!(
            "it has {heap_bytes} bytes allocated (`heap_bytes_max` is {})",
            limits.heap_bytes_max
        )
    })
}

/// Fences a generation off: no new connection, request or call reaches it.
fn quarantine(generation: &Rc<Generation>, reason: String) {
    tracing::error!(
        instance = generation.name(),
        generation = generation.number,
        "quarantined, for {reason}; `upgrade {0}` or `unload {0}` ends it",
        generation.name()
    );
    generation.unmount();
    generation.responders.borrow_mut().clear();
    generation.phase.set(Phase::Quarantined);
    *generation.reason.borrow_mut() = Some(reason);
}
