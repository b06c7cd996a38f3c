//! Waiting for a condition, never for a time; and how often to repeat what takes long.

use std::{
    env,
    thread::sleep,
    time::{Duration, Instant},
};

/// How long a program may take to start, to answer, to end. Generous: machines that run tests are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the condition holds.
///
/// # Panics
///
/// When it does not hold within `deadline`; the message says `what` was waited for.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || condition().then_some(()));
}

/// Waits until there is a value, and returns it.
///
/// # Panics
///
/// When there is none within `deadline`; the message says `what` was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut value: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(value) = value() {
            return value;
        }
        assert!(started.elapsed() < deadline, "waited {deadline:?} for {what}, in vain");
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// How often a test of endurance repeats: `full` under `cargo xtask soak`, else `short`.
///
/// Such a test has `soak` in its name, by which `cargo xtask soak` finds it.
#[must_use]
pub fn soak_count(short: usize, full: usize) -> usize {
    if env::var("MEDUSA_SOAK").is_ok_and(|it| it == "1") { full } else { short }
}
