//! Restarting: an instance with more faults within an hour than it may have gets a fresh image of the same library, and is
//! quarantined if that happens too often.
//!
//! The new generation takes the old one's place as at an upgrade: listeners stay open, what is in flight drains. State that
//! the plugin keeps goes over, unless it is itself in doubt: because it could not be handed over, or because the faults were back
//! before the back-off of the last restart had passed. While a restart has to wait for that, the old generation goes on serving: many
//! panic at some requests only, and the wait is bounded.

use std::{
    collections::VecDeque,
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use medusa_abi::data::InstanceId;
use tokio::task::JoinSet;

use crate::{
    config::{self, Limits, units},
    plugin::{
        generation::{Generation, Phase},
        instance::Instance,
        lifecycle::{self, Refused, busy},
        quarantine::quarantine,
        upgrade::{self, KeptState},
    },
};

const HOUR: Duration = Duration::from_secs(3600);

/// Faults are remembered by the minute.
const MINUTE: Duration = Duration::from_secs(60);

/// An instance's faults lately, and what was done about them.
#[derive(Debug, Default)]
pub struct Health {
    /// Whose faults these are. What came into its place by the operator's doing begins with a clean record.
    generation: InstanceId,
    panics: Tally,
    stalls: Tally,
    /// The restarts of the last hour, oldest first, with those that were tried in vain.
    restarts: VecDeque<Instant>,
    restarts_total: u64,
    /// The generation has to be restarted, with its state or without.
    pending: Option<KeptState<'static>>,
    is_restarting: bool,
}

/// Events of the last hour.
#[derive(Debug, Default)]
struct Tally {
    /// When the first of a minute was seen, and how many there were.
    minutes: VecDeque<(Instant, u64)>,
    seen: u64,
}

/// What a generation has counted in its life, and may have.
struct Counts<'a> {
    generation: InstanceId,
    panics: u64,
    stalls: u64,
    limits: &'a Limits,
}

/// More of something than an instance may have within an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    what: &'static str,
    count: u64,
    limit: &'static str,
    max: u64,
}

/// What is to be done about a generation.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Nothing,
    /// What it was to be restarted for is an hour old by now.
    Recovered,
    /// It is to be restarted, after so long.
    Wait(Fault, Duration),
    Restart(Fault, KeptState<'static>),
    /// It was restarted so often, in vain.
    Quarantine(Fault, usize),
}

impl Health {
    /// How often the instance was restarted since it was loaded.
    pub fn restarts(&self) -> u64 {
        self.restarts_total
    }

    /// Goes on counting where another image of the host left off.
    pub fn set_restarts(&mut self, restarts: u64) {
        self.restarts_total = restarts;
    }

    fn judge(&mut self, now: Instant, counts: &Counts<'_>) -> Verdict {
        if self.is_restarting {
            return Verdict::Nothing;
        }
        if self.generation != counts.generation {
            self.begin(counts.generation);
            self.restarts.clear();
        }
        let limits = counts.limits;
        let panics = self.panics.count(now, counts.panics);
        let stalls = self.stalls.count(now, counts.stalls);
        let faults = [
            Fault {
                what: "panics",
                count: panics,
                limit: "panics_per_hour_max",
                max: limits.panics_per_hour_max,
            },
            Fault {
                what: "stalls",
                count: stalls,
                limit: "stalls_per_hour_max",
                max: limits.stalls_per_hour_max,
            },
        ];
        let Some(fault) = faults.into_iter().find(Fault::is_over) else {
            let before = self.pending.take();
            return if before.is_some() { Verdict::Recovered } else { Verdict::Nothing };
        };
        while self.restarts.front().is_some_and(|at| now.duration_since(*at) > HOUR) {
            self.restarts.pop_front();
        }
        if self.restarts.len() as u64 >= limits.restarts_per_hour_max {
            return Verdict::Quarantine(fault, self.restarts.len());
        }
        let due = self.restarts.back().map(|last| *last + backoff(limits, self.restarts.len()));
        let left = due.map(|due| due.saturating_duration_since(now)).filter(|left| !left.is_zero());
        let how = if left.is_some() { KeptState::Dropped } else { KeptState::Carried };
        let kept = *self.pending.get_or_insert(how);
        match left {
            Some(left) => Verdict::Wait(fault, left),
            None => Verdict::Restart(fault, kept),
        }
    }

    fn begin(&mut self, generation: InstanceId) {
        self.generation = generation;
        (self.panics, self.stalls) = (Tally::default(), Tally::default());
        self.pending = None;
    }

    /// A restart has ended: `fresh` serves, or none does. Tells how many there were within the hour.
    fn tried(&mut self, now: Instant, fresh: Option<InstanceId>) -> usize {
        self.restarts.push_back(now);
        if let Some(generation) = fresh {
            self.restarts_total += 1;
            self.begin(generation);
        }
        self.restarts.len()
    }
}

impl Tally {
    /// How many of the `total` are of the last hour, to the minute.
    fn count(&mut self, now: Instant, total: u64) -> u64 {
        let new = total.saturating_sub(self.seen);
        self.seen = total;
        if new > 0 {
            match self.minutes.back_mut() {
                Some((since, count)) if now.duration_since(*since) < MINUTE => *count += new,
                _ => self.minutes.push_back((now, new)),
            }
        }
        while self.minutes.front().is_some_and(|(since, _)| now.duration_since(*since) > HOUR) {
            self.minutes.pop_front();
        }
        self.minutes.iter().map(|(_, count)| count).sum()
    }
}

impl Fault {
    fn is_over(&self) -> bool {
        self.max > 0 && self.count > self.max
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { what, count, limit, max } = self;
        write!(f, "{count} {what} within an hour (`{limit}` is {max})")
    }
}

/// How long after the last of so many restarts within an hour there may be another.
fn backoff(limits: &Limits, restarts: usize) -> Duration {
    let doublings = u32::try_from(restarts.saturating_sub(1)).unwrap_or(u32::MAX);
    let factor = 2_u64.saturating_pow(doublings);
    let ms = limits.restart_backoff_ms_min.saturating_mul(factor);
    Duration::from_millis(ms.min(limits.restart_backoff_ms_max))
}

/// Looks at a generation that serves, and does what its faults call for; a restart goes on among `tasks`.
pub fn look(generation: &Rc<Generation>, tasks: &mut JoinSet<()>) {
    let counts = Counts {
        generation: generation.id,
        panics: generation.panics(),
        stalls: generation.stalls(),
        limits: &generation.limits,
    };
    let health = &generation.instance.health;
    let verdict = health.borrow_mut().judge(Instant::now(), &counts);
    match verdict {
        Verdict::Nothing => {}
        Verdict::Recovered => *generation.reason.borrow_mut() = None,
        Verdict::Wait(fault, left) => {
            let left = shown(left);
            *generation.reason.borrow_mut() = Some(format!("is restarted in {left}, for {fault}"));
        }
        Verdict::Restart(fault, kept) => {
            health.borrow_mut().is_restarting = true;
            let generation = generation.clone();
            tasks.spawn_local(async move { restart(&generation, &fault, kept).await });
        }
        Verdict::Quarantine(fault, 0) => {
            quarantine(
                generation,
                format!("{fault}, and no restart is allowed (`restarts_per_hour_max`)"),
            );
        }
        Verdict::Quarantine(fault, restarts) => {
            let s = if restarts == 1 { "" } else { "s" };
            quarantine(
                generation,
                format!(
                    "{fault}, after {restarts} restart{s} within an hour (`restarts_per_hour_max`)"
                ),
            );
        }
    }
}

/// A restart that was done.
struct Restarted {
    new: Rc<Generation>,
    /// Why the state that was kept did not go over, if there was any.
    dropped: Option<String>,
}

async fn restart(old: &Rc<Generation>, fault: &Fault, kept: KeptState<'static>) {
    let instance = &old.instance;
    let outcome = match instance.turn.try_lock() {
        // It is looked at again when the operator's change of it is done.
        Err(_) => None,
        Ok(_) if !old.is_serving() => None,
        Ok(_turn) => Some(replace(old, kept).await),
    };
    let mut health = instance.health.borrow_mut();
    health.is_restarting = false;
    let Some(outcome) = outcome else { return };
    let fresh = outcome.as_ref().ok().map(|restarted| restarted.new.id);
    let restarts = health.tried(Instant::now(), fresh);
    let is_last = restarts as u64 >= old.limits.restarts_per_hour_max;
    let backoff = shown(backoff(&old.limits, restarts));
    match outcome {
        Ok(Restarted { new, dropped }) => {
            *old.reason.borrow_mut() = Some(format!("was restarted, for {fault}"));
            let dropped = dropped
                .map_or(String::new(), |why| format!("; the state that it kept is dropped: {why}"));
            let next = if is_last {
                "if this goes on it is quarantined".to_owned()
            } else {
                format!("if this goes on it is restarted again, after {backoff} at the soonest")
            };
            tracing::warn!(
                instance = instance.name,
                generation = new.number,
                restarts,
                "restarted, for {fault}; {next}{dropped}"
            );
        }
        Err(Refused(reason)) => {
            let next = if is_last {
                "it is quarantined".to_owned()
            } else {
                format!("it goes on as it is, and is tried again after {backoff}")
            };
            tracing::error!(
                instance = instance.name,
                generation = old.number,
                restarts,
                "cannot be restarted, for {fault}; {next}: {reason}"
            );
        }
    }
}

async fn replace(old: &Rc<Generation>, kept: KeptState<'static>) -> Result<Restarted, Refused> {
    let new = lifecycle::start_again(old).await?;
    let keeps = old.manifest.state.is_some();
    match upgrade::replace(old, &new, kept).await {
        Ok(_) => {
            let dropped = (keeps && kept == KeptState::Dropped)
                .then(|| "the faults were back before its back-off had passed".to_owned());
            Ok(Restarted { new, dropped })
        }
        Err(reason) if keeps && kept == KeptState::Carried => {
            let new = lifecycle::start_again(old).await?;
            upgrade::replace(old, &new, KeptState::Dropped).await.map_err(Refused)?;
            Ok(Restarted { new, dropped: Some(reason) })
        }
        Err(reason) => Err(Refused(reason)),
    }
}

/// Loads an instance that is quarantined: as it is configured now, and without the state that it kept. Its listeners stay open.
///
/// # Errors
/// Why it stays quarantined.
pub async fn revive(
    instance: &Rc<Instance>,
    spec: Rc<config::Instance>,
) -> Result<Rc<Generation>, Refused> {
    let Ok(_turn) = instance.turn.try_lock() else { return Err(busy(&instance.name)) };
    let old = instance.current().filter(|current| current.phase.get() == Phase::Quarantined);
    let old = old.ok_or_else(|| busy(&instance.name))?;
    let bound = lifecycle::bind(instance, &spec)?;
    let before = instance.spec.replace(spec.clone());
    let new = begin_anew(&old, &spec).await.inspect_err(|_| {
        instance.spec.replace(before);
    })?;
    instance.health.take();
    instance.quota.set_max(lifecycle::quota_of(&spec));
    instance.listen(&spec.listen, bound).await;
    tracing::info!(
        instance = instance.name,
        generation = new.number,
        version = new.manifest.version,
        "loaded; its quarantine is over"
    );
    Ok(new)
}

async fn begin_anew(
    old: &Rc<Generation>,
    spec: &config::Instance,
) -> Result<Rc<Generation>, Refused> {
    let instance = &old.instance;
    let library = instance.registry.config().library_file(spec);
    let new = lifecycle::start(instance, &library).await?;
    let replaced = upgrade::replace(old, &new, KeptState::Dropped).await;
    replaced.map_err(|reason| {
        Refused(format!("`{0}` stays quarantined: {reason}; `unload {0}` first", instance.name))
    })?;
    Ok(new)
}

fn shown(duration: Duration) -> String {
    units::show_duration(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            panics_per_hour_max: 2,
            stalls_per_hour_max: 1,
            restarts_per_hour_max: 3,
            restart_backoff_ms_min: 1_000,
            restart_backoff_ms_max: 3_000,
            ..Limits::default()
        }
    }

    /// What is done about so many panics and stalls of a generation, in a word.
    fn judged(
        health: &mut Health,
        limits: &Limits,
        now: Instant,
        (generation, panics, stalls): (InstanceId, u64, u64),
    ) -> String {
        match health.judge(now, &Counts { generation, panics, stalls, limits }) {
            Verdict::Nothing => "nothing".to_owned(),
            Verdict::Recovered => "recovered".to_owned(),
            Verdict::Wait(_, left) => format!("wait {}", shown(left)),
            Verdict::Restart(fault, kept) => format!("{} {kept:?}", fault.what),
            Verdict::Quarantine(_, restarts) => format!("quarantine after {restarts}"),
        }
    }

    #[test]
    fn each_limit_holds_for_an_hour() {
        let (mut health, limits, start) = (Health::default(), limits(), Instant::now());
        let mut check = |after: Duration, panics, stalls, expected: &str| {
            let verdict = judged(&mut health, &limits, start + after, (1, panics, stalls));
            assert_eq!(verdict, expected, "{after:?}");
        };
        check(Duration::ZERO, 2, 1, "nothing");
        check(HOUR, 2, 1, "nothing");
        check(HOUR + MINUTE, 4, 2, "nothing");
        check(HOUR + 2 * MINUTE, 4, 3, "stalls Carried");
        check(HOUR + 3 * MINUTE, 5, 3, "panics Carried");
    }

    #[test]
    fn zero_never_restarts() {
        let limits = Limits { panics_per_hour_max: 0, stalls_per_hour_max: 0, ..limits() };
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!(judged(&mut health, &limits, now, (1, u64::MAX, u64::MAX)), "nothing");
    }

    #[test]
    fn the_back_off_doubles_and_ends_in_quarantine() {
        let (mut health, limits, start) = (Health::default(), limits(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(judged(&mut health, &limits, at(0), (1, 3, 0)), "panics Carried");
        health.tried(at(0), Some(2));
        assert_eq!(judged(&mut health, &limits, at(400), (2, 2, 0)), "nothing");
        assert_eq!(judged(&mut health, &limits, at(500), (2, 3, 0)), "wait 500 ms");
        assert_eq!(judged(&mut health, &limits, at(1_000), (2, 3, 0)), "panics Dropped");
        health.tried(at(1_000), Some(3));
        // Too late to put it down to the state.
        assert_eq!(judged(&mut health, &limits, at(3_000), (3, 3, 0)), "panics Carried");
        // It could not be restarted, which counts.
        health.tried(at(3_000), None);
        assert_eq!(judged(&mut health, &limits, at(3_100), (3, 3, 0)), "quarantine after 3");
        assert_eq!(health.restarts(), 2);
        // Those that are an hour old do not count.
        let later = start + HOUR + Duration::from_millis(1_500);
        assert_eq!(judged(&mut health, &limits, later, (3, 6, 0)), "panics Carried");
        // What the operator has put into its place begins anew.
        assert_eq!(judged(&mut health, &limits, at(3_100), (4, 3, 0)), "panics Carried");
    }

    #[test]
    fn the_back_off_has_a_largest() {
        let of = |restarts| backoff(&limits(), restarts).as_millis();
        assert_eq!([1, 2, 3, 4, 1000].map(of), [1_000, 2_000, 3_000, 3_000, 3_000]);
    }
}
