//! Quarantine: an instance that restarts do not help, or that takes more memory than it may, gets no new work.
//!
//! What it has in flight goes on. New connections to it are closed at once, and requests that would come to its handlers and
//! filters are answered as those of a busy server are (503): nobody stands in for it, for a filter may be what guards a site. The
//! operator loads it again, upgrades it or unloads it. A limit on memory can only be acted on after the fact: a null from an
//! allocator would abort the process.

use std::{rc::Rc, time::Duration};

use tokio::task::JoinSet;

use crate::plugin::{
    generation::{Generation, Phase},
    probation,
    registry::Registry,
    restart,
};

/// How often the instances are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Looks at every running generation, for as long as the host serves.
pub async fn watch(registry: Rc<Registry>) {
    let mut restarts = JoinSet::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        look.tick().await;
        while restarts.try_join_next().is_some() {}
        let instances = registry.instances();
        let current = instances.iter().filter_map(|instance| instance.current());
        for generation in current.filter(|it| it.phase.get() == Phase::Running) {
            let over_memory = over_memory(&generation);
            if probation::look(&generation, over_memory.as_deref(), &mut restarts) {
                continue;
            }
            match over_memory {
                Some(reason) => quarantine(&generation, reason),
                None => restart::look(&generation, &mut restarts),
            }
        }
    }
}

fn over_memory(generation: &Generation) -> Option<String> {
    let (heap_bytes, max) =
        (generation.heap().map_or(0, |(_, bytes, _)| bytes), generation.limits.heap_bytes_max);
    (heap_bytes > max)
        .then(|| format!("it has {heap_bytes} bytes allocated (`heap_bytes_max` is {max})"))
}

/// Fences a generation off: no new connection, request or call reaches it.
pub fn quarantine(generation: &Rc<Generation>, reason: String) {
    tracing::error!(
        instance = generation.name(),
        generation = generation.number,
        "quarantined, for {reason}; `upgrade {0}` with a mended library, `load {0}` or `unload {0}` ends it",
        generation.name()
    );
    generation.phase.set(Phase::Quarantined);
    *generation.reason.borrow_mut() = Some(reason);
    generation.unmount_observers();
    generation.revoke_permits();
    generation.responders.borrow_mut().clear();
    // Whoever waits for it is to be turned away now.
    generation.instance.defer();
    generation.instance.stirred();
}
