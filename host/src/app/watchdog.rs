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

use tokio::sync::Notify;

use crate::{
    plugin::{frame, off_loop::OffLoop},
    sys::crash,
};

/// How often the loop is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// After so many milliseconds in one call the process goes on without the plugin; 0 for never.
static STALL_MS_MAX: AtomicU64 = AtomicU64::new(0);

/// Most of the time between two turns of the loop that it is asked for.
const ASK_EVERY_MAX: Duration = Duration::from_secs(1);

/// Wakes who answers for the loop.
static ASK: Notify = Notify::const_new();
/// The last turn that the loop was asked for.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// Answers for the loop that it turns, whenever the watchdog asks; on the loop.
pub async fn answer() {
    loop {
        ASK.notified().await;
        crash::turned(ASKED.load(Ordering::Relaxed));
    }
}

/// Has the process go on, as after a crash, without a plugin one of whose calls keeps the loop for so long, and anew where the host's own
/// code does; never, if that is zero.
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
            crash::of_host();
            let (mut look, mut turns) = (Look::default(), Turns::default());
            while !seen.load(Ordering::Relaxed) {
                thread::park_timeout(LOOK_EVERY);
                let _looking = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
                turns.look();
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
        if is_stall(stands_still, self.seen) {
            crash::stalls(instance, millis(stands_still));
        }
    }
}

/// Whether that is too long, and was seen so often that it was no process that was stopped, or had no processor.
fn is_stall(stands_still: Duration, seen: u32) -> bool {
    let max = Duration::from_millis(STALL_MS_MAX.load(Ordering::Relaxed));
    let was_watched = LOOK_EVERY.saturating_mul(seen.saturating_mul(4)) >= max;
    !max.is_zero() && stands_still >= max && was_watched
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// Whether the loop has the turns that it is asked for: in the host's own code there is no call that could be seen to last.
struct Turns {
    /// The last that it was asked for.
    asked: u64,
    /// Since when it stands still: since it was asked, or was in a plugin's code after that.
    since: Instant,
    /// How often it has been seen to.
    seen: u32,
    /// The last entry into a plugin's code.
    entry: u64,
    is_said: bool,
}

impl Default for Turns {
    fn default() -> Turns {
        // Where another watchdog has left off.
        let asked = ASKED.load(Ordering::Relaxed);
        Turns { asked, since: Instant::now(), seen: 0, entry: 0, is_said: false }
    }
}

impl Turns {
    fn look(&mut self) {
        let (instance, entry) = frame::running();
        if crash::has_turned(self.asked) {
            self.ask(entry);
        } else if instance != 0 || entry != self.entry {
            // It turns, if slowly, or it is the plugin that keeps it.
            (self.since, self.seen, self.entry) = (Instant::now(), 0, entry);
        } else {
            self.seen = self.seen.saturating_add(1);
            self.act();
        }
    }

    /// Asks for another turn, if it is time.
    fn ask(&mut self, entry: u64) {
        if self.is_said {
            tracing::warn!("the host has let the loop go again");
        }
        self.is_said = false;
        let max = Duration::from_millis(STALL_MS_MAX.load(Ordering::Relaxed));
        if max.is_zero() || self.since.elapsed() < (max / 4).min(ASK_EVERY_MAX) {
            return;
        }
        let asked = self.asked + 1;
        *self = Turns { asked, since: Instant::now(), seen: 0, entry, is_said: false };
        ASKED.store(asked, Ordering::Relaxed);
        ASK.notify_one();
    }

    /// Has the process go on anew, if it is too long to wait any more.
    fn act(&mut self) {
        let stands_still = self.since.elapsed();
        if !is_stall(stands_still, self.seen) {
            return;
        }
        let for_ms = millis(stands_still);
        // It may be in the log that it stands still.
        let goes_on = crash::misses(self.asked, for_ms);
        if !goes_on && !self.is_said {
            self.is_said = true;
            tracing::error!(
                for_ms,
                "the loop stands still in the host's own code, a bug in medusa"
            );
        }
    }
}
