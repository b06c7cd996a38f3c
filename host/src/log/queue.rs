//! The way of a line to standard error: a queue with a bound, and the thread that empties it.
//!
//! Whoever logs only copies its line. If nobody reads standard error, the queue fills up, and lines are dropped and counted; the
//! thread alone waits.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::sys::crash;

/// Lines that wait for their writer.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Something was queued.
    queued: Condvar,
    /// The writer has written all that it had taken.
    written: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct Waiting {
    /// Whole lines, one after the other.
    bytes: Vec<u8>,
    /// Lines for which there was no room.
    dropped: u64,
    /// Whether the writer has taken lines that it has not written yet.
    is_writing: bool,
}

/// A queue that nobody writes to, and whose thread waits, while this is there.
pub struct AtRest<'a>(MutexGuard<'a, Waiting>);

impl AtRest<'_> {
    /// In a process that has forked: what was waiting is the other's to write.
    pub(super) fn clear(mut self) {
        *self.0 = Waiting::default();
    }
}

/// Gives its thread's lines to the queue; each write is a whole line.
pub(super) struct Sender(Arc<Queue>);

/// The pause before standard error is tried again that takes nothing now (it may be a pipe that does not block).
const RETRY: Duration = Duration::from_millis(20);

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Arc<Queue> {
        Arc::new(Queue {
            waiting: Mutex::default(),
            queued: Condvar::new(),
            written: Condvar::new(),
            bytes_max,
        })
    }

    /// What lines are written to.
    pub(super) fn sender(self: &Arc<Self>) -> Sender {
        Sender(self.clone())
    }

    /// Starts the thread that brings lines to `output`. It calls `lost` with the number of lines that had to be dropped, once there is
    /// room again. It ends with the process.
    pub(super) fn drain(
        self: &Arc<Self>,
        mut output: impl Write + Send + 'static,
        lost: impl Fn(u64) + Send + 'static,
    ) -> io::Result<()> {
        let queue = self.clone();
        let drain = move || {
            crash::of_host();
            let mut taken = Vec::new();
            loop {
                let dropped = queue.take(&mut taken);
                write_all(&mut output, &taken);
                taken.clear();
                // They came when what was just written was in the queue already, so this is their place.
                if dropped > 0 {
                    lost(dropped);
                }
                queue.lock().is_writing = false;
                queue.written.notify_all();
            }
        };
        thread::Builder::new().name("medusa-log".to_owned()).spawn(drain).map(drop)
    }

    /// Holds the queue at rest, so that the process can fork.
    pub(super) fn at_rest(&self) -> AtRest<'_> {
        AtRest(self.lock())
    }

    /// Waits until all is written, but no longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut waiting = self.lock();
        while waiting.is_writing || !waiting.bytes.is_empty() || waiting.dropped > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let (next, _) =
                self.written.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner);
            waiting = next;
        }
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.bytes.len() + line.len() > self.bytes_max {
            waiting.dropped += 1;
        } else {
            waiting.bytes.extend_from_slice(line);
        }
        drop(waiting);
        self.queued.notify_one();
    }

    /// Waits for lines, and exchanges them for an empty buffer. How many have been dropped since the last time.
    fn take(&self, empty: &mut Vec<u8>) -> u64 {
        let mut waiting = self.lock();
        while waiting.bytes.is_empty() && waiting.dropped == 0 {
            waiting = self.queued.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_writing = true;
        mem::swap(&mut waiting.bytes, empty);
        mem::take(&mut waiting.dropped)
    }

    // A thread that panicked while it held the lock has left whole lines behind.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Sender {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(output: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(count) if count > 0 => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY),
            // Whoever read standard error has left; there is nobody to tell.
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that takes a write only when it is told to.
    struct Gate {
        began: mpsc::Sender<()>,
        open: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            self.open.recv().map_err(io::Error::other)?;
            self.written.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_without_room_are_dropped_counted_and_told() {
        let (began, begun) = mpsc::channel();
        let (opener, open) = mpsc::channel();
        let (written, output) = mpsc::channel();
        let (lost, told) = mpsc::channel();
        let queue = Queue::new(8);
        let gate = Gate { began, open, written };
        queue.drain(gate, move |lines| lost.send(lines).unwrap()).unwrap();
        let mut sender = queue.sender();
        sender.write_all(b"one\n").unwrap();
        begun.recv().unwrap();
        for line in ["two\n", "tri\n", "four\n", "five\n", "a line of more than all the room\n"] {
            sender.write_all(line.as_bytes()).unwrap();
        }
        let before = Instant::now();
        queue.flush(Duration::from_millis(30));
        assert!(before.elapsed() >= Duration::from_millis(30), "it was stuck, and flush waits");
        opener.send(()).unwrap();
        begun.recv().unwrap();
        assert!(told.try_recv().is_err(), "what was dropped came later than what waits");
        opener.send(()).unwrap();
        assert_eq!(told.recv(), Ok(3));
        queue.flush(Duration::from_secs(60));
        assert_eq!(output.try_iter().collect::<Vec<_>>(), [&b"one\n"[..], b"two\ntri\n"]);
    }

    #[test]
    fn an_output_that_is_gone_holds_nobody_up() {
        let queue = Queue::new(100);
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        queue.drain(writer, |_| {}).unwrap();
        queue.sender().write_all(b"line\n").unwrap();
        queue.flush(Duration::from_secs(60));
        assert!(queue.lock().bytes.is_empty());
    }
}
