//! A histogram of durations: of fixed size, exact to 3 %, from a nanosecond to nine minutes. It does not keep the single durations.
//!
//! Up to 64 ns each nanosecond has a step of its own; above, each power of two has 32 steps. To record is a shift and three additions.

use std::{
    cell::Cell,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::status::DurationFigures;

/// How many bits of a duration tell its step.
const BITS: u32 = 5;
const STEPS: usize = ((POWERS - BITS as usize) + 1) << BITS;
/// From 2^39 ns on, which is nine minutes, all have the last step.
const POWERS: usize = 39;

/// Durations, counted by their length.
#[derive(Debug)]
pub struct Durations {
    steps: Box<[Cell<u64>; STEPS]>,
    total_ns: Cell<u64>,
    longest_ns: Cell<u64>,
    longest_at: Cell<SystemTime>,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations {
            steps: Box::new([const { Cell::new(0) }; STEPS]),
            total_ns: Cell::new(0),
            longest_ns: Cell::new(0),
            longest_at: Cell::new(UNIX_EPOCH),
        }
    }
}

/// What [`Durations`] have counted, for another image of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Steps that are not 0, and how many durations each has.
    steps: Vec<(u16, u64)>,
    total_ns: u64,
    longest_ns: u64,
    longest_at_ms: u64,
}

impl Durations {
    /// What was counted.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let steps = (0..).zip(self.steps.iter().map(Cell::get)).filter(|(_, count)| *count > 0);
        Counted {
            steps: steps.collect(),
            total_ns: self.total_ns.get(),
            longest_ns: self.longest_ns.get(),
            longest_at_ms: self.longest_at_ms(),
        }
    }

    /// Goes on where others have left off, instead of with what was counted here.
    pub fn resume(&self, counted: &Counted) {
        self.steps.iter().for_each(|step| step.set(0));
        for (step, count) in &counted.steps {
            // An image with other steps may have left more.
            self.steps[usize::from(*step).min(STEPS - 1)].set(*count);
        }
        self.total_ns.set(counted.total_ns);
        self.longest_ns.set(counted.longest_ns);
        self.longest_at.set(UNIX_EPOCH + Duration::from_millis(counted.longest_at_ms));
    }

    fn longest_at_ms(&self) -> u64 {
        let since = self.longest_at.get().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Counts a duration that ends now. Only the longest so far has the time of day looked up.
    pub fn record(&self, ns: u64) {
        let step = &self.steps[step_of(ns)];
        step.set(step.get() + 1);
        self.total_ns.set(self.total_ns.get().wrapping_add(ns));
        if ns > self.longest_ns.get() {
            self.longest_ns.set(ns);
            self.longest_at.set(SystemTime::now());
        }
    }

    /// How many there are, how long they are altogether, which lengths most do not exceed, and the longest.
    #[must_use]
    pub fn figures(&self) -> DurationFigures {
        let count = self.steps.iter().map(Cell::get).sum();
        let [p50_ns, p90_ns, p99_ns] = [50, 90, 99].map(|percent| self.percentile(count, percent));
        let longest_at_ms = self.longest_at_ms();
        DurationFigures {
            count,
            total_ns: self.total_ns.get(),
            p50_ns,
            p90_ns,
            p99_ns,
            longest_ns: self.longest_ns.get(),
            longest_at_ms: (count > 0).then_some(longest_at_ms),
        }
    }

    /// The length that `percent` of `count` do not exceed: the end of the step in which that one is; 0 if there are none.
    fn percentile(&self, count: u64, percent: u64) -> u64 {
        let mut left = u64::try_from((u128::from(count) * u128::from(percent)).div_ceil(100))
            .expect("a part of a number that fits");
        for (step, count) in self.steps.iter().enumerate() {
            if count.get() >= left {
                return end_of(step).min(self.longest_ns.get());
            }
            left -= count.get();
        }
        self.longest_ns.get()
    }
}

fn step_of(ns: u64) -> usize {
    let shift = (u64::BITS - (ns | 1 << BITS).leading_zeros()) - BITS - 1;
    (((shift as usize) << BITS) + (ns >> shift) as usize).min(STEPS - 1)
}

/// The longest duration of a step.
fn end_of(step: usize) -> u64 {
    let shift = (step >> BITS).saturating_sub(1);
    let first = step - (shift << BITS);
    ((first as u64 + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_without_a_gap_and_narrow() {
        for step in 0..STEPS - 1 {
            let (end, next) = (end_of(step), end_of(step) + 1);
            assert_eq!((step_of(end), step_of(next)), (step, step + 1));
            let begin = if step == 0 { 0 } else { end_of(step - 1) + 1 };
            assert!((end - begin) as f64 <= 0.0313 * begin.max(1) as f64, "{begin} to {end}");
        }
        assert_eq!((step_of(0), step_of(u64::MAX)), (0, STEPS - 1));
        assert!(end_of(STEPS - 1) > 500_000_000_000, "nine minutes");
    }

    #[test]
    fn percentiles_are_near_and_the_longest_is_exact() {
        let durations = Durations::default();
        assert_eq!(durations.figures(), DurationFigures::default());
        (1..=1000).for_each(|us| durations.record(us * 1000));
        let figures = durations.figures();
        assert_eq!((figures.count, figures.total_ns), (1000, 500_500_000));
        let near = |found: u64, expected: u64| {
            assert!((expected..expected + expected / 32 + 1).contains(&found), "{found}");
        };
        near(figures.p50_ns, 500_000);
        near(figures.p90_ns, 900_000);
        near(figures.p99_ns, 990_000);
        assert_eq!(figures.longest_ns, 1_000_000);
        assert!(figures.longest_at_ms > Some(1_600_000_000_000));
        let others = Durations::default();
        others.record(7);
        others.resume(&durations.counted());
        assert_eq!(others.figures(), figures);
    }

    #[test]
    fn one_is_every_percentile() {
        let durations = Durations::default();
        durations.record(u64::MAX);
        let DurationFigures { p50_ns, p99_ns, longest_ns, .. } = durations.figures();
        assert_eq!((p50_ns, p99_ns, longest_ns), (end_of(STEPS - 1), end_of(STEPS - 1), u64::MAX));
    }
}
