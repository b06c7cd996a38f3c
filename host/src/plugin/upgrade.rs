//! Upgrading: the new generation is made ready beside the old one, and takes over in one turn of the loop.

use std::{
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::plugin::{
    generation::{Generation, Phase},
    hand_over::{HandOver, has_sessions, readable},
    instance::Instance,
    lifecycle::{self, Refused, bounded, busy},
    unload,
};

/// What an upgrade did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The version that served before.
    pub from: String,
    /// The version that serves now.
    pub to: String,
    /// Connections that rested, and are the new generation's.
    pub handed_over: u64,
    /// Connections and requests that the old generation still had to finish at the switch; of these, connections of sessions go over
    /// when they next rest.
    pub drained: u64,
    /// How long the loop did nothing but switch, in microseconds.
    pub pause_us: u64,
}

/// Upgrades an instance from a library. The old generation finishes what it has in flight, and is unmapped in the background.
///
/// # Errors
/// Why the old version goes on serving.
pub async fn upgrade(instance: &Rc<Instance>, library: &Path) -> Result<Upgraded, Refused> {
    let Ok(_turn) = instance.turn.try_lock() else { return Err(busy(&instance.name)) };
    upgrade_in_turn(instance, library).await
}

async fn upgrade_in_turn(instance: &Rc<Instance>, library: &Path) -> Result<Upgraded, Refused> {
    let old = running(instance)?;
    let new = lifecycle::start(instance, library).await?;
    switch_to(&old, &new).await
}

/// As [`replace`] with the state carried over, and tells the log.
///
/// # Errors
/// As [`replace`].
pub async fn switch_to(old: &Rc<Generation>, new: &Rc<Generation>) -> Result<Upgraded, Refused> {
    let instance = &old.instance;
    let replaced = replace(old, new, KeptState::Carried).await;
    let upgraded = replaced.map_err(|reason| {
        Refused(format!("`{}` goes on with {}: {reason}", instance.name, old.manifest.version))
    })?;
    tracing::info!(
        instance = instance.name,
        from = upgraded.from,
        to = upgraded.to,
        generation = new.number,
        handed_over = upgraded.handed_over,
        drained = upgraded.drained,
        pause_us = upgraded.pause_us,
        "upgraded"
    );
    Ok(upgraded)
}

/// What becomes of the state that the old generation keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptState {
    /// It goes over.
    Carried,
    /// The new one begins without it.
    Dropped,
}

/// Has a generation that has started take the place of another, which drains and is unmapped in the background. Called in the
/// instance's turn.
///
/// # Errors
/// Why the old one goes on; the new one has been unloaded again.
pub async fn replace(
    old: &Rc<Generation>,
    new: &Rc<Generation>,
    kept: KeptState,
) -> Result<Upgraded, String> {
    let switched = match take_over(old, new, kept).await {
        Ok(switched) => switched,
        Err(Failed { reason, is_released }) => {
            // Whatever the new one took, it is gone before the old one takes it back.
            lifecycle::discard(new).await;
            return Err(if is_released { retake(old, reason).await } else { reason });
        }
    };
    let upgraded = Upgraded {
        from: old.manifest.version.clone(),
        to: new.manifest.version.clone(),
        handed_over: switched.handed_over,
        drained: u64::from(old.in_flight()),
        pause_us: u64::try_from(switched.pause.as_micros()).unwrap_or(u64::MAX),
    };
    let (old, drain) = (old.clone(), Duration::from_millis(old.limits.drain_ms_max));
    tokio::task::spawn_local(async move { unload::retire(&old, drain).await });
    Ok(upgraded)
}

fn running(instance: &Instance) -> Result<Rc<Generation>, Refused> {
    instance
        .current()
        .ok_or_else(|| Refused(format!("`{0}` is not running; use `load {0}`", instance.name)))
}

/// Why the new generation does not take over.
struct Failed {
    reason: String,
    /// The old one was asked to give up what only one can hold, and may have done so in part.
    is_released: bool,
}

/// A switch that is done.
struct Switched {
    /// How long the loop did nothing else.
    pause: Duration,
    handed_over: u64,
}

/// Everything between "the new one is ready" and "the new one serves".
async fn take_over(
    old: &Rc<Generation>,
    new: &Rc<Generation>,
    kept: KeptState,
) -> Result<Switched, Failed> {
    let mut is_released = false;
    let taken = async {
        if kept == KeptState::Carried {
            readable(old, new)?;
        }
        // Those before that still have sessions in a turn, which will go over as well.
        let generations = old.instance.generations();
        let draining = generations.iter().filter(|it| it.phase.get() == Phase::Draining);
        draining.filter(|it| has_sessions(it)).try_for_each(|it| readable(it, new))?;
        if !old.manifest.exclusive.is_empty() || !new.manifest.exclusive.is_empty() {
            is_released = true;
            bounded(old, "release", old.release()).await?;
            bounded(new, "acquire", new.acquire()).await?;
        }
        let started = Instant::now();
        let handed_over = switch(old, new, kept)?;
        Ok(Switched { pause: started.elapsed(), handed_over })
    };
    taken.await.map_err(|reason| Failed { reason, is_released })
}

async fn retake(old: &Rc<Generation>, reason: String) -> String {
    match bounded(old, "acquire", old.acquire()).await {
        Ok(()) => reason,
        Err(worse) => {
            format!("{reason}; and it could not take its exclusive resources back: {worse}")
        }
    }
}

/// The switch: one turn, in which no task of either generation is polled.
fn switch(old: &Rc<Generation>, new: &Rc<Generation>, kept: KeptState) -> Result<u64, String> {
    let state = match kept {
        KeptState::Carried => old.export_state()?,
        KeptState::Dropped => Vec::new(),
    };
    if !state.is_empty() {
        let version = old.manifest.state.as_ref().map_or(0, |state| state.writes);
        new.import_state(version, &state)?;
    }
    let hand_over = match HandOver::prepare(old, new) {
        // What was amiss with the state may be so with the sessions: they drain.
        Err(_) if kept == KeptState::Dropped => HandOver::none(),
        prepared => prepared?,
    };
    lifecycle::activate(new, Some(old))?;
    old.phase.set(Phase::Draining);
    old.handed_over();
    let handed_over = hand_over.commit();
    new.instance.defer();
    Ok(handed_over)
}
