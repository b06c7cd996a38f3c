//! The standstill before the process goes on as another program: sessions are held where they park, and nothing is at work that an exec
//! would end in the middle.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use super::service;
use crate::{
    app::host::Host,
    plugin::{generation::Generation, instance::Instance, lifecycle::bounded, session::Sessions},
    sys::clock,
};

/// Sessions in a turn are waited for no longer once they were looked at so often without another having parked. Between two looks the loop has a turn; a time would say nothing of a process that got no processor meanwhile.
const LOOKS_MAX: u32 = 10;
/// How often they are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Host {
    /// Waits until no session is in a turn, or those that are seem to stay in it.
    pub(super) async fn settled(&self, instances: &[Rc<Instance>], until: Instant) {
        let (mut least, mut looks) = (usize::MAX, 0);
        loop {
            let busy =
                instances.iter().flat_map(|it| it.generations()).filter_map(|it| service(&it));
            let busy = busy.filter_map(|it| it.sessions().map(Sessions::busy)).sum::<usize>();
            looks = if busy < least { 0 } else { looks + 1 };
            least = least.min(busy);
            if busy == 0 || Instant::now() >= until || looks >= LOOKS_MAX {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Does what need not be done in the standstill.
pub(super) async fn prepare(instances: &[Rc<Instance>]) {
    for service in instances.iter().filter_map(|it| it.current()).filter_map(|it| service(&it)) {
        if let Some(sessions) = service.sessions() {
            sessions.prepare().await;
        }
    }
}

/// Instances whose sessions are held where they park.
pub(super) struct Frozen {
    pub(super) instances: Vec<Rc<Instance>>,
    pub(super) since_ns: u64,
    pub(super) until: Instant,
    is_thawed: Cell<bool>,
}

impl Frozen {
    pub(super) fn begin(instances: Vec<Rc<Instance>>) -> Frozen {
        let limit = instances.first().map_or(0, |it| it.registry.config().limits.freeze_ms_max);
        let frozen = Frozen {
            instances,
            since_ns: clock::monotonic_ns(),
            until: Instant::now() + Duration::from_millis(limit),
            is_thawed: Cell::new(false),
        };
        frozen.set(true);
        frozen
    }

    pub(super) fn thaw(&self) {
        if !self.is_thawed.replace(true) {
            self.set(false);
        }
    }

    fn set(&self, is_frozen: bool) {
        for generation in self.instances.iter().flat_map(|instance| instance.generations()) {
            generation.freeze(is_frozen);
            if let Some(service) = service(&generation)
                && let Some(sessions) = service.sessions()
            {
                match is_frozen {
                    true => sessions.freeze(),
                    false => sessions.thaw(),
                }
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// Refuses what an exec would end in the middle.
pub(super) fn check_threads(instances: &[Rc<Instance>]) -> Result<(), String> {
    let has = |instance: &&Rc<Instance>| {
        instance.generations().iter().any(|it| !it.threads.borrow().is_empty())
    };
    match instances.iter().find(has) {
        None => Ok(()),
        Some(instance) => Err(format!(
            "`{0}` has a thread of its own, which cannot go over; `unload {0}` first, and load it again afterwards",
            instance.name
        )),
    }
}

/// Whose blocking jobs keep the process from forking.
pub(super) fn jobs(instances: &[Rc<Instance>]) -> String {
    let has = |instance: &&Rc<Instance>| {
        instance.generations().iter().any(|it| it.jobs_running.get() > 0)
    };
    match instances.iter().find(has) {
        Some(instance) => format!(
            "a blocking job of `{}` runs, which would be cut; try again when it is done",
            instance.name
        ),
        None => "a file is being read that is slow to come; try again".to_owned(),
    }
}

/// Has instances give up what only one can hold; those that were asked are in `released`.
pub(super) async fn release(
    instances: &[Rc<Instance>],
    released: &mut Vec<Rc<Generation>>,
) -> Result<(), String> {
    for instance in instances {
        let Some(generation) = instance.current().filter(|it| !it.manifest.exclusive.is_empty())
        else {
            continue;
        };
        released.push(generation.clone());
        let outcome = bounded(&generation, "release", generation.release()).await;
        outcome.map_err(|reason| format!("`{}`: {reason}", instance.name))?;
    }
    Ok(())
}

/// Has them take it back.
pub(super) async fn retake(released: &[Rc<Generation>], mut reason: String) -> String {
    for generation in released {
        if let Err(worse) = bounded(generation, "acquire", generation.acquire()).await {
            reason += &format!(
                "; and `{}` could not take its exclusive resources back: {worse}",
                generation.name()
            );
        }
    }
    reason
}
