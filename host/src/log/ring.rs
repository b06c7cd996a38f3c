//! The last lines of the log, and those who follow it.
//!
//! Any thread may log, so this is one of the few places with a lock; it is held for a copy of a line and no longer.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The last lines.
pub(super) struct Ring {
    kept: Mutex<Kept>,
    added: Notify,
    lines_kept: usize,
    line_bytes_max: usize,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<String>,
    /// How many lines there have ever been; the last one kept has the number `written - 1`.
    written: u64,
}

/// One event's line while it is formatted; it enters the ring when it is dropped.
pub(super) struct Line {
    ring: Arc<Ring>,
    bytes: Vec<u8>,
}

/// Reads the log as it grows.
pub struct Follower {
    ring: Arc<Ring>,
    next: u64,
}

/// What has been logged since the last look.
pub struct Batch {
    /// How many lines came and went in between, because the reader was slower than the log.
    pub lost: u64,
    /// The lines, the oldest first.
    pub lines: Vec<String>,
}

/// Lines in one batch, so that following a fast log does not hold up the loop.
const BATCH_LINES_MAX: usize = 256;

impl Ring {
    pub(super) fn new(lines_kept: usize, line_bytes_max: usize) -> Ring {
        Ring {
            kept: Mutex::default(),
            added: Notify::new(),
            lines_kept: lines_kept.max(1),
            line_bytes_max,
        }
    }

    pub(super) fn last(&self, count: usize) -> Vec<String> {
        let kept = self.kept();
        kept.lines.iter().skip(kept.lines.len().saturating_sub(count)).cloned().collect()
    }

    pub(super) fn push(&self, line: String) {
        let mut kept = self.kept();
        if kept.lines.len() == self.lines_kept {
            kept.lines.pop_front();
        }
        kept.lines.push_back(line);
        kept.written += 1;
        drop(kept);
        self.added.notify_waiters();
    }

    fn since(&self, next: u64) -> Batch {
        let kept = self.kept();
        let first = kept.written - kept.lines.len() as u64;
        let lost = first.saturating_sub(next);
        let skip = (next + lost - first) as usize;
        Batch { lost, lines: kept.lines.iter().skip(skip).take(BATCH_LINES_MAX).cloned().collect() }
    }

    // A thread that panicked while it held the lock has left whole lines behind: every change is one call of `VecDeque`.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    pub(super) fn new(ring: Arc<Ring>) -> Follower {
        let next = ring.kept().written;
        Follower { ring, next }
    }

    /// Waits for lines. Cancel-safe: what it has not returned, it returns the next time.
    pub async fn next(&mut self) -> Batch {
        loop {
            let ring = self.ring.clone();
            // Registered before the look, so that a line in between is not missed.
            let mut added = std::pin::pin!(ring.added.notified());
            added.as_mut().enable();
            let batch = ring.since(self.next);
            if !batch.lines.is_empty() {
                self.next += batch.lost + batch.lines.len() as u64;
                return batch;
            }
            added.await;
        }
    }
}

impl Line {
    pub(super) fn new(ring: Arc<Ring>) -> Line {
        Line { ring, bytes: Vec::new() }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = (self.ring.line_bytes_max + 1).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.bytes);
        let whole = text.trim_end_matches('\n');
        let mut line = whole[..whole.floor_char_boundary(self.ring.line_bytes_max)]
            .replace(|c: char| c.is_control(), " ");
        if line.len() < whole.len() {
            line.push('…');
        }
        if !line.is_empty() {
            self.ring.push(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(lines: u64) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(4, 100));
        (0..lines).for_each(|number| ring.push(number.to_string()));
        ring
    }

    #[test]
    fn lines_since() {
        let check = |written, next, lost, lines: &[&str]| {
            let batch = ring(written).since(next);
            assert_eq!(
                (batch.lost, batch.lines),
                (lost, lines.iter().map(|line| line.to_string()).collect())
            );
        };
        check(0, 0, 0, &[]);
        check(2, 0, 0, &["0", "1"]);
        check(2, 2, 0, &[]);
        check(6, 4, 0, &["4", "5"]);
        check(6, 0, 2, &["2", "3", "4", "5"]);
    }

    #[tokio::test]
    async fn a_follower_sees_each_line_once_and_is_told_what_it_missed() {
        let ring = ring(2);
        let mut follower = Follower::new(ring.clone());
        ring.push("a".to_owned());
        assert_eq!(follower.next().await.lines, ["a"]);
        let wait = tokio::spawn(async move { follower.next().await.lines });
        tokio::task::yield_now().await;
        ring.push("b".to_owned());
        assert_eq!(wait.await.unwrap(), ["b"]);
        let mut late = Follower::new(ring.clone());
        (0..6).for_each(|number| ring.push(number.to_string()));
        let batch = late.next().await;
        assert_eq!((batch.lost, batch.lines.len()), (2, 4));
    }
}
