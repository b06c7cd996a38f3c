//! The last lines of the log, and those who follow it.
//!
//! Any thread may log, so this is one of the few places with a lock; it is held for a copy of a line and no longer.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt::Debug,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context};

/// The last lines.
pub(super) struct Ring {
    kept: Mutex<Kept>,
    added: Notify,
    lines_kept: usize,
    line_bytes_max: usize,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<LogLine>,
    /// How many lines there have ever been; the last one kept has the number `written - 1`.
    written: u64,
}

/// A line, with what it can be looked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The line, without its end.
    pub text: String,
    /// How severe it is.
    pub level: Level,
    /// The instance that it is about, if it is about one.
    pub instance: Option<String>,
}

/// One event's line while it is formatted; it enters the ring when it is dropped.
pub(super) struct Line {
    ring: Arc<Ring>,
    level: Level,
    instance: Option<String>,
    bytes: Vec<u8>,
}

/// Makes a [`Line`] for each event.
pub(super) struct Keep(pub(super) Arc<Ring>);

/// Notes which instance an event is about, for the [`Line`] that is made of it next on the same thread. To stand before [`Keep`].
pub(super) struct Names;

thread_local! {
    static INSTANCE: RefCell<Option<String>> = const { RefCell::new(None) };
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
    pub lines: Vec<LogLine>,
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

    pub(super) fn last(&self, count: usize, wants: impl Fn(&LogLine) -> bool) -> Vec<String> {
        let kept = self.kept();
        let found = kept.lines.iter().rev().filter(|line| wants(line)).take(count);
        let mut found: Vec<String> = found.map(|line| line.text.clone()).collect();
        found.reverse();
        found
    }

    pub(super) fn is_named(&self, instance: &str) -> bool {
        self.kept().lines.iter().any(|line| line.instance.as_deref() == Some(instance))
    }

    pub(super) fn push(&self, line: LogLine) {
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

impl Keep {
    fn line(&self, level: Level) -> Line {
        let instance = INSTANCE.take();
        Line { ring: self.0.clone(), level, instance, bytes: Vec::new() }
    }
}

impl<'a> MakeWriter<'a> for Keep {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        self.line(Level::INFO)
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        self.line(*metadata.level())
    }
}

impl<S: Subscriber> Layer<S> for Names {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut found = Named(None);
        event.record(&mut found);
        INSTANCE.set(found.0);
    }
}

/// The field `instance`, which only the host's own code writes: what a plugin says of itself is text in another.
struct Named(Option<String>);

impl Visit for Named {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "instance" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "instance" {
            self.0 = Some(format!("{value:?}"));
        }
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
            let instance = self.instance.take();
            self.ring.push(LogLine { text: line, level: self.level, instance });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { text: text.to_owned(), level: Level::INFO, instance: None }
    }

    fn texts(batch: &Batch) -> Vec<&str> {
        batch.lines.iter().map(|line| line.text.as_str()).collect()
    }

    fn ring(lines: u64) -> Arc<Ring> {
        let ring = Arc::new(Ring::new(4, 100));
        (0..lines).for_each(|number| ring.push(line(&number.to_string())));
        ring
    }

    #[test]
    fn lines_since() {
        let check = |written, next, lost, lines: &[&str]| {
            let batch = ring(written).since(next);
            assert_eq!((batch.lost, texts(&batch)), (lost, lines.to_vec()));
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
        ring.push(line("a"));
        assert_eq!(texts(&follower.next().await), ["a"]);
        let wait = tokio::spawn(async move { follower.next().await });
        tokio::task::yield_now().await;
        ring.push(line("b"));
        assert_eq!(texts(&wait.await.unwrap()), ["b"]);
        let mut late = Follower::new(ring.clone());
        (0..6).for_each(|number| ring.push(line(&number.to_string())));
        let batch = late.next().await;
        assert_eq!((batch.lost, batch.lines.len()), (2, 4));
    }
}
