//! Probation: for a while after an upgrade an instance keeps what it needs to go back to the version before, and goes back if the new
//! one has too many faults.
//!
//! The way back is that of an upgrade: a fresh image of the old library, from the bytes that it was opened from, takes over, with the
//! sessions. State and sessions go back as the new version writes them, if the old one reads that; else they are what they were at the
//! switch, and the log and `plugins` say what is lost by it. If there is no way back, the new version goes on like any other.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use medusa_abi::data::InstanceId;
use tokio::task::JoinSet;
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

use crate::{
    config::units,
    plugin::{
        generation::{Generation, Phase},
        hand_over::{self, readable},
        library::{Library, Original},
        lifecycle::{self, Refused},
        upgrade::{self, KeptState, Upgraded},
    },
};

/// The probation of a generation.
pub struct Probation {
    /// Who is on it.
    generation: InstanceId,
    /// The version to go back to.
    before: String,
    /// Its library. It goes to another thread to be copied.
    original: Arc<Original>,
    snapshot: Snapshot,
    until: Instant,
    is_going_back: Cell<bool>,
    /// When its health is asked for next; none while an answer is waited for.
    check_at: Cell<Option<Instant>>,
    checks_failed: Cell<u64>,
    /// Why the last check failed.
    ails: RefCell<String>,
}

/// What a generation kept, as it was at a switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The version that it is written in.
    pub version: u32,
    /// Empty if there is none.
    pub state: Vec<u8>,
    /// When that was, for people.
    taken_at: String,
}

impl Snapshot {
    /// Has a generation write what it keeps.
    ///
    /// # Errors
    /// Why it does not.
    pub fn of(generation: &Rc<Generation>) -> Result<Snapshot, String> {
        let state = generation.export_state()?;
        let version = generation.manifest.state.as_ref().map_or(0, |state| state.writes);
        Ok(Snapshot { version, state, taken_at: now() })
    }
}

impl Probation {
    /// Of `new`, which has just taken the place of `old`.
    pub fn new(
        old: &Generation,
        new: &Generation,
        original: Original,
        snapshot: Snapshot,
    ) -> Rc<Probation> {
        Rc::new(Probation {
            generation: new.id,
            before: old.manifest.version.clone(),
            original: Arc::new(original),
            snapshot,
            until: Instant::now() + Duration::from_millis(new.limits.probation_ms),
            is_going_back: Cell::new(false),
            check_at: Cell::new(Some(Instant::now())),
            checks_failed: Cell::new(0),
            ails: RefCell::default(),
        })
    }
}

/// What an upgrade of a generation has to keep, for the way back to it; none if there is to be no probation, or can be none.
pub fn way_back(old: &Generation) -> Option<Original> {
    if old.phase.get() != Phase::Running || old.instance.limits().probation_ms == 0 {
        return None;
    }
    match old.with_library(Library::original)? {
        Ok(original) => Some(original),
        Err(error) => {
            tracing::warn!(
                instance = old.name(),
                "after this upgrade there is no way back to {}: its library cannot be kept: {error}",
                old.manifest.version
            );
            None
        }
    }
}

/// What `plugins` says of a generation that is on probation.
pub fn shown(generation: &Generation) -> Option<String> {
    let probation = generation.instance.probation()?;
    let left = probation.until.saturating_duration_since(Instant::now()).as_secs() + 1;
    (probation.generation == generation.id).then(|| {
        let left = units::show_duration(left.saturating_mul(1000));
        format!(
            "is on probation for another {left}, and goes back to {} if it has too many faults",
            probation.before
        )
    })
}

/// Looks at a generation that serves, and ends its probation if it is over, or has it go back, among `tasks`, if it has too many faults.
/// Whether it is still on probation.
pub fn look(
    generation: &Rc<Generation>,
    over_memory: Option<&str>,
    tasks: &mut JoinSet<()>,
) -> bool {
    let instance = &generation.instance;
    let probation = instance.probation().filter(|it| it.generation == generation.id);
    let Some(probation) = probation else { return false };
    if probation.is_going_back.get() {
        return true;
    }
    if let Some(fault) = over_memory.map(str::to_owned).or_else(|| fault(generation, &probation)) {
        probation.is_going_back.set(true);
        let generation = generation.clone();
        tasks.spawn_local(async move { roll_back(&generation, &probation, &fault).await });
        return true;
    }
    if Instant::now() < probation.until {
        if probation.check_at.get().is_some_and(|at| at <= Instant::now()) {
            probation.check_at.set(None);
            let generation = generation.clone();
            tasks.spawn_local(async move { check(&generation, &probation).await });
        }
        return true;
    }
    tracing::info!(
        instance = instance.name,
        generation = generation.number,
        version = generation.manifest.version,
        "its probation is over; there is no way back to {} any more",
        probation.before
    );
    end(generation);
    false
}

/// What is too much for a generation on probation.
fn fault(generation: &Generation, probation: &Probation) -> Option<String> {
    if hand_over::is_stranded(generation) {
        return Some("a panic in the first turn of a connection that was handed over".to_owned());
    }
    let (failed, max) =
        (probation.checks_failed.get(), generation.limits.probation_health_failures_max);
    if failed > max {
        let ails = probation.ails.borrow();
        return Some(format!(
            "{failed} failed checks of its health on probation (`probation_health_failures_max` is {max}), the last one because {ails}"
        ));
    }
    let (limits, panics, stalls) = (&generation.limits, generation.panics(), generation.stalls());
    let bounds = [
        ("panics", panics, "probation_panics_max", limits.probation_panics_max),
        ("panics", panics, "panics_per_hour_max", limits.panics_per_hour_max),
        ("stalls", stalls, "probation_stalls_max", limits.probation_stalls_max),
        ("stalls", stalls, "stalls_per_hour_max", limits.stalls_per_hour_max),
    ];
    let is_over = |(_, count, _, max): &(&str, u64, &str, u64)| *max > 0 && count > max;
    let (what, count, limit, max) = bounds.into_iter().find(is_over)?;
    Some(format!("{count} {what} on probation (`{limit}` is {max})"))
}

/// Asks a generation for its health, once.
async fn check(generation: &Rc<Generation>, probation: &Probation) {
    let limits = &generation.limits;
    let limit = Duration::from_millis(limits.health_ms_max);
    let answer = tokio::time::timeout(limit, generation.health()).await;
    let too_late = |_| Err(format!("there was no answer within {limit:?} (`health_ms_max`)"));
    if let Err(reason) = answer.unwrap_or_else(too_late) {
        tracing::warn!(
            instance = generation.name(),
            generation = generation.number,
            "a check of its health failed: {reason}"
        );
        probation.checks_failed.set(probation.checks_failed.get() + 1);
        *probation.ails.borrow_mut() = reason;
    }
    probation.check_at.set(Some(Instant::now() + Duration::from_millis(limits.health_every_ms)));
}

fn end(generation: &Generation) {
    generation.instance.set_probation(None);
    hand_over::drop_records(generation);
}

/// A version that is back.
struct Back {
    generation: Rc<Generation>,
    upgraded: Upgraded,
    /// Why its state is that of the switch, if there is any.
    reason: Option<String>,
}

async fn roll_back(new: &Rc<Generation>, probation: &Rc<Probation>, fault: &str) {
    let instance = &new.instance;
    let Ok(_turn) = instance.turn.try_lock() else {
        // It is looked at again when the operator's change of it is done.
        probation.is_going_back.set(false);
        return;
    };
    let is_current = instance.probation().is_some_and(|it| Rc::ptr_eq(&it, probation));
    if !is_current || !new.is_serving() {
        return;
    }
    let (from, to) = (&new.manifest.version, &probation.before);
    match go_back(new, probation).await {
        Ok(back) => {
            let lost = lost(&back, probation);
            *new.reason.borrow_mut() = Some(format!("was rolled back to {to}, for {fault}"));
            tracing::warn!(
                instance = instance.name,
                generation = back.generation.number,
                handed_over = back.upgraded.handed_over,
                drained = back.upgraded.drained,
                pause_us = back.upgraded.pause_us,
                "rolled back from {from} to {to}, for {fault}; {lost}"
            );
            *back.generation.reason.borrow_mut() =
                Some(format!("was rolled back from {from}, for {fault}; {lost}"));
        }
        Err(Refused(reason)) => tracing::error!(
            instance = instance.name,
            generation = new.number,
            "cannot be rolled back from {from} to {to}, for {fault}; it goes on as it is, and `upgrade {0}` with a mended library ends that: {reason}",
            instance.name
        ),
    }
    if new.is_serving() {
        end(new);
    }
}

async fn go_back(new: &Rc<Generation>, probation: &Probation) -> Result<Back, Refused> {
    let start = || lifecycle::start_original(&new.instance, &probation.original);
    let first = start().await?;
    let (old, reason) = match readable(new, &first) {
        Err(reason) => (first, reason),
        Ok(()) => match upgrade::go_back(new, &first, KeptState::Carried).await {
            Ok(upgraded) => return Ok(Back { generation: first, upgraded, reason: None }),
            // It is gone.
            Err(reason) => (start().await?, reason),
        },
    };
    let restored = KeptState::Restored(&probation.snapshot);
    let upgraded = upgrade::go_back(new, &old, restored).await.map_err(Refused)?;
    let keeps = !probation.snapshot.state.is_empty();
    Ok(Back { generation: old, upgraded, reason: keeps.then_some(reason) })
}

/// What is lost by it, for people.
fn lost(back: &Back, probation: &Probation) -> String {
    let state = back.reason.as_ref().map(|reason| {
        format!("what its state was since {} is lost: {reason}", probation.snapshot.taken_at)
    });
    let sessions = (back.upgraded.left > 0).then(|| {
        format!(
            "{} connections that it cannot read come to an end where they are",
            back.upgraded.left
        )
    });
    let lost: Vec<_> = sessions.into_iter().chain(state).collect();
    if lost.is_empty() { "nothing is lost".to_owned() } else { lost.join("; ") }
}

/// The time, as the log writes it, to the second.
fn now() -> String {
    let mut text = String::new();
    if SystemTime.format_time(&mut Writer::new(&mut text)).is_err() {
        return "the upgrade".to_owned();
    }
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}
