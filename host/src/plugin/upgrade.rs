//! Upgrading: the new generation is made ready beside the old one, and takes over in one turn of the loop.

use std::{
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::{
    plugin::{
        generation::{Generation, Phase},
        hand_over::{self, HandOver, has_sessions, readable},
        instance::Instance,
        library::Original,
        lifecycle::{self, Refused, bounded, busy},
        probation::{self, Probation, Snapshot},
        unload,
    },
    sys::fault,
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
    /// Sessions that the new generation cannot read, and that come to an end where they are.
    pub left: u64,
    /// How long the loop did nothing but switch, in microseconds.
    pub pause_us: u64,
}

/// Upgrades an instance from a library. The old generation finishes what it has in flight, and is unmapped in the background; the new
/// one is on probation from then on.
///
/// # Errors
/// Why the old version goes on serving.
pub async fn upgrade(instance: &Rc<Instance>, library: &Path) -> Result<Upgraded, Refused> {
    let Ok(_turn) = instance.turn.try_lock() else { return Err(busy(&instance.name)) };
    let back = probation::way_back(running(instance)?.as_ref());
    upgrade_in_turn(instance, library, back).await
}

async fn upgrade_in_turn(
    instance: &Rc<Instance>,
    library: &Path,
    back: Option<Original>,
) -> Result<Upgraded, Refused> {
    let old = running(instance)?;
    let new = lifecycle::start(instance, library).await?;
    if back.is_some() {
        hand_over::keep_records(&new);
    }
    let exchanged = exchange(&old, &new, KeptState::Carried, Way::There).await;
    let (upgraded, snapshot) = told(&old, &new, exchanged)?;
    if let Some(original) = back {
        instance.set_probation(Some(Probation::new(&old, &new, original, snapshot)));
    }
    Ok(upgraded)
}

/// As [`replace`] with the state carried over, and tells the log.
///
/// # Errors
/// As [`replace`].
pub async fn switch_to(old: &Rc<Generation>, new: &Rc<Generation>) -> Result<Upgraded, Refused> {
    let exchanged = exchange(old, new, KeptState::Carried, Way::There).await;
    told(old, new, exchanged).map(|(upgraded, _)| upgraded)
}

/// Tells the log of an upgrade.
fn told(
    old: &Generation,
    new: &Generation,
    exchanged: Result<(Upgraded, Snapshot), String>,
) -> Result<(Upgraded, Snapshot), Refused> {
    let instance = &old.instance;
    let (upgraded, snapshot) = exchanged.map_err(|reason| {
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
    Ok((upgraded, snapshot))
}

/// What becomes of the state that the old generation keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptState<'a> {
    /// It goes over.
    Carried,
    /// The new one begins without it.
    Dropped,
    /// The new one begins with that of an earlier switch.
    Restored(&'a Snapshot),
}

/// Which way a generation is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing may be lost by it.
    There,
    /// To what was there before: what cannot go is left, and is told.
    Back,
}

/// Has a generation that has started take the place of another, which drains and is unmapped in the background. Called in the
/// instance's turn.
///
/// # Errors
/// Why the old one goes on; the new one has been unloaded again.
pub async fn replace(
    old: &Rc<Generation>,
    new: &Rc<Generation>,
    kept: KeptState<'_>,
) -> Result<Upgraded, String> {
    exchange(old, new, kept, Way::There).await.map(|(upgraded, _)| upgraded)
}

/// As [`replace`], by a version that was there before: sessions that it cannot read are left to come to an end where they are.
///
/// # Errors
/// As [`replace`].
pub async fn go_back(
    from: &Rc<Generation>,
    to: &Rc<Generation>,
    kept: KeptState<'_>,
) -> Result<Upgraded, String> {
    exchange(from, to, kept, Way::Back).await.map(|(upgraded, _)| upgraded)
}

async fn exchange(
    old: &Rc<Generation>,
    new: &Rc<Generation>,
    kept: KeptState<'_>,
    way: Way,
) -> Result<(Upgraded, Snapshot), String> {
    let switched = match take_over(old, new, kept, way).await {
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
        left: switched.left,
        pause_us: u64::try_from(switched.pause.as_micros()).unwrap_or(u64::MAX),
    };
    let (old, drain) = (old.clone(), Duration::from_millis(old.limits.drain_ms_max));
    tokio::task::spawn_local(async move { unload::retire(&old, drain).await });
    Ok((upgraded, switched.snapshot))
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
    left: u64,
    /// What the old one kept.
    snapshot: Snapshot,
}

/// Everything between "the new one is ready" and "the new one serves".
async fn take_over(
    old: &Rc<Generation>,
    new: &Rc<Generation>,
    kept: KeptState<'_>,
    way: Way,
) -> Result<Switched, Failed> {
    let mut is_released = false;
    let taken = async {
        if kept == KeptState::Carried {
            readable(old, new)?;
        }
        if way == Way::There {
            // Those before that still have sessions in a turn, which will go over as well.
            let generations = old.instance.generations();
            let draining = generations.iter().filter(|it| it.phase.get() == Phase::Draining);
            draining.filter(|it| has_sessions(it)).try_for_each(|it| readable(it, new))?;
        }
        fault::after("plugin.compared")?;
        if !old.manifest.exclusive.is_empty() || !new.manifest.exclusive.is_empty() {
            is_released = true;
            let released = bounded(old, "release", old.release()).await;
            if way == Way::There {
                released?;
            } // Else whoever acquires it sees whether it was given up.
            fault::after("plugin.released")?;
            bounded(new, "acquire", new.acquire()).await?;
            fault::after("plugin.acquired")?;
        }
        switch(old, new, kept, way)
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
fn switch(
    old: &Rc<Generation>,
    new: &Rc<Generation>,
    kept: KeptState<'_>,
    way: Way,
) -> Result<Switched, String> {
    let started = Instant::now();
    let snapshot = match kept {
        KeptState::Carried => Snapshot::of(old)?,
        KeptState::Dropped => Snapshot::default(),
        KeptState::Restored(snapshot) => snapshot.clone(),
    };
    fault::after("plugin.exported")?;
    if !snapshot.state.is_empty() {
        new.import_state(snapshot.version, &snapshot.state)?;
    }
    fault::after("plugin.imported")?;
    let hand_over = match way {
        Way::Back => HandOver::prepare_back(old, new),
        Way::There => match HandOver::prepare(old, new) {
            // What was amiss with the state may be so with the sessions: they drain.
            Err(_) if kept == KeptState::Dropped => HandOver::none(),
            prepared => prepared?,
        },
    };
    fault::after("plugin.sessions")?;
    lifecycle::activate(new, Some(old))?;
    old.phase.set(Phase::Draining);
    old.handed_over();
    new.freeze(false);
    let handed_over = hand_over.commit();
    let left = match way {
        Way::Back => hand_over::left(old, new),
        Way::There => 0,
    };
    new.instance.defer();
    Ok(Switched { pause: started.elapsed(), handed_over, left, snapshot })
}
