//! The watchdog: a thread that looks whether the loop still turns, and names the plugin in whose code it does not.

use std::{
    process,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use medusa_abi::data::InstanceId;

use crate::{
    plugin::{frame, off_loop::OffLoop},
    sys::crash,
};

/// How often the loop is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// After so many milliseconds in one call the process goes on without the plugin; 0 for never.
static STALL_MS_MAX: AtomicU64 = AtomicU64::new(0);

/// Has the process go on, as after a crash, without a plugin one of whose calls keeps the loop for so long; never, if that is zero.
pub fn set_stall_max(max: Duration) {
    STALL_MS_MAX.store(u64::try_from(max.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Held while a watchdog looks.
static LOOKING: Mutex<()> = Mutex::new(());

/// Keeps every watchdog from looking, so that the process can fork.
pub fn at_rest() -> MutexGuard<'static, ()> {
    LOOKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The watchdog at work. Dropping it ends its thread.
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    stalls: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
    /// Whose thread it is: a fork of this process does not have it.
    process: u32,
}

impl Watchdog {
    /// Starts to watch: a call into a plugin that takes longer than its `stall_ms` is logged once, and again when it ends. Whether it
    /// is counted here too is said by `counts`: where the loop times each call, it counts those that are too short to be seen as well.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(counts: bool) -> std::io::Result<Watchdog> {
        Watchdog::start_counting(counts, Arc::default())
    }

    /// As [`Watchdog::start`], counting on where another one was.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start_counting(counts: bool, stalls: Arc<AtomicU64>) -> std::io::Result<Watchdog> {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, counted) = (stop.clone(), stalls.clone());
        let watch = move || {
            let mut look = Look::default();
            while !seen.load(Ordering::Relaxed) {
                thread::park_timeout(LOOK_EVERY);
                let _looking = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(plugin) = look.again().filter(|_| counts) {
                    counted.fetch_add(1, Ordering::Relaxed);
                    plugin.stalls.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let thread = thread::Builder::new().name("medusa-watchdog".to_owned()).spawn(watch)?;
        Ok(Watchdog { stop, stalls, thread: Some(thread), process: process::id() })
    }

    /// How many calls took too long.
    pub fn stalls(&self) -> Arc<AtomicU64> {
        self.stalls.clone()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        if let Some(thread) = thread.filter(|_| self.process == process::id()) {
            thread.thread().unpark();
            // It does nothing that could panic.
            let _ = thread.join();
        }
    }
}

/// What the last look saw.
#[derive(Default)]
struct Look {
    instance: InstanceId,
    entry: u64,
    since: Option<Instant>,
    said: Option<String>,
    /// How often the call has been seen.
    seen: u32,
}

impl Look {
    /// Answers whose call was found to take too long.
    fn again(&mut self) -> Option<Arc<OffLoop>> {
        let (instance, entry) = frame::running();
        // A call from within another ends without a new entry: what follows is the outer one's again.
        if instance == 0 || (instance, entry) != (self.instance, self.entry) {
            if let (Some(name), Some(since)) = (self.said.take(), self.since) {
                let took_ms = since.elapsed().as_millis();
                tracing::warn!(instance = name, took_ms, "the plugin has let the loop go again");
            }
            (self.instance, self.entry) = (instance, entry);
            self.seen = 0;
            self.since = (instance != 0).then(Instant::now);
            return None;
        }
        let Some(since) = self.since else {
            self.since = Some(Instant::now());
            return None;
        };
        self.seen = self.seen.saturating_add(1);
        self.act(instance, since.elapsed());
        if self.said.is_some() {
            return None;
        }
        let plugin = OffLoop::find(instance)?;
        if since.elapsed() < plugin.stall {
            return None;
        }
        let for_ms = since.elapsed().as_millis();
        frame::told_of(instance);
        tracing::warn!(
            instance = plugin.name,
            for_ms,
            "the plugin blocks the loop: nobody else is served while one of its calls runs; \
                 let it use `blocking` for slow work"
        );
        self.said = Some(plugin.name.clone());
        Some(plugin)
    }

    /// Has the process go on without the plugin, if the call takes too long to wait any more.
    fn act(&self, instance: InstanceId, stands_still: Duration) {
        let max_ms = STALL_MS_MAX.load(Ordering::Relaxed);
        let max = Duration::from_millis(max_ms);
        // A process that was stopped, or had no processor, was not kept by a plugin.
        let was_watched = LOOK_EVERY.saturating_mul(self.seen.saturating_mul(4)) >= max;
        if max_ms == 0 || stands_still < max || !was_watched {
            return;
        }
        crash::stalls(instance, u32::try_from(stands_still.as_millis()).unwrap_or(u32::MAX));
    }
}
