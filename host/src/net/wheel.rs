//! A wheel of deadlines: what is due is found without looking at what is not.
//!
//! Deadlines are rounded up to a tick. An entry further away than a turn of the wheel is passed over when its place comes by, until
//! its turn is there. Nothing is ever taken out: whoever is told that something is due looks whether it still is.

/// A wheel. Ticks count from 0.
#[derive(Debug)]
pub(super) struct Wheel {
    places: Box<[Vec<Entry>]>,
    /// All ticks up to this one, inclusive, have been looked at.
    now: u32,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tick: u32,
    key: u32,
}

/// How many ticks a turn has.
const PLACES: usize = 512;

impl Wheel {
    /// An empty wheel that has come to a tick.
    pub(super) fn new(now: u32) -> Wheel {
        Wheel { places: vec![Vec::new(); PLACES].into(), now, count: 0 }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Has `key` come up at `tick`, or at the next tick if that one has passed. Answers which it will be.
    pub(super) fn insert(&mut self, tick: u32, key: u32) -> u32 {
        let tick = tick.max(self.now + 1);
        self.places[place(tick)].push(Entry { tick, key });
        self.count += 1;
        tick
    }

    /// Goes on to a tick; what has come up goes into `due`, with the tick that it was there for.
    pub(super) fn advance(&mut self, now: u32, due: &mut Vec<(u32, u32)>) {
        // After a long pause each place is looked at once.
        let first = (self.now + 1).max(now.saturating_sub(PLACES as u32 - 1));
        for tick in first..=now {
            let before = due.len();
            self.places[place(tick)].retain(|entry| {
                let is_due = entry.tick <= now;
                if is_due {
                    due.push((entry.tick, entry.key));
                }
                !is_due
            });
            self.count -= due.len() - before;
        }
        self.now = self.now.max(now);
    }
}

fn place(tick: u32) -> usize {
    (tick % PLACES as u32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_at(wheel: &mut Wheel, now: u32) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.advance(now, &mut due);
        due.into_iter().map(|(_, key)| key).collect()
    }

    #[test]
    fn each_comes_up_at_its_tick_and_not_before() {
        let mut wheel = Wheel::new(10);
        assert_eq!(wheel.insert(12, 1), 12);
        assert_eq!(wheel.insert(11, 2), 11);
        assert_eq!(wheel.insert(12 + PLACES as u32, 3), 12 + PLACES as u32);
        assert_eq!(wheel.insert(3, 4), 11, "one that has passed comes up at the next tick");
        assert_eq!(due_at(&mut wheel, 11), [2, 4]);
        assert_eq!(due_at(&mut wheel, 11), [0_u32; 0]);
        assert_eq!(due_at(&mut wheel, 12), [1]);
        assert!(!wheel.is_empty());
        assert_eq!(due_at(&mut wheel, 11 + PLACES as u32), [0_u32; 0]);
        assert_eq!(due_at(&mut wheel, 12 + PLACES as u32), [3]);
        assert!(wheel.is_empty());
    }

    #[test]
    fn after_a_long_pause_all_that_is_due_comes_up() {
        let mut wheel = Wheel::new(0);
        for key in 0..2000 {
            wheel.insert(key * 3 + 1, key);
        }
        let mut due = due_at(&mut wheel, 3000);
        due.sort_unstable();
        assert_eq!(due, (0..1000).collect::<Vec<_>>());
        assert_eq!(due_at(&mut wheel, 100_000).len(), 1000);
        assert!(wheel.is_empty());
    }
}
