//! Time, as the host's loop has it: one monotonic clock.

// Calls the callbacks of timers.
#![allow(unsafe_code)]

use std::{
    future::{Future, poll_fn},
    ops::{Add, AddAssign, Sub},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use medusa_abi::{code, data::Handle};

use crate::{handle::Owned, host::host, waker};

/// A moment on the host's clock. In a record, for serde, it is a number of nanoseconds: the clock is the same for every generation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Instant(u64);

impl Instant {
    /// This moment. Off the loop's thread, the clock's beginning.
    #[must_use]
    pub fn now() -> Instant {
        let host = host();
        // SAFETY: Numbers only.
        Instant(u64::try_from(unsafe { (host.core.now_ns)(host.instance) }).unwrap_or(0))
    }

    /// When the poll began that `context` was given to, which costs no look at the clock; this moment for a context of the plugin's own
    /// making. For whoever waits a second or a minute, and is polled very often.
    #[must_use]
    pub fn of_poll(context: &Context<'_>) -> Instant {
        waker::polled_ns(context).map_or_else(Instant::now, Instant)
    }

    /// How long ago it was; zero for what is to come.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Instant::now() - self
    }

    pub(crate) fn from_ns(ns: u64) -> Instant {
        Instant(ns)
    }

    pub(crate) fn as_ns(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Later by `duration`; the end of the clock (in 584 years) at the most.
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// How much later `self` is; zero if it is not.
    fn sub(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// Waits until `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// The future of [`sleep`] and [`sleep_until`].
#[derive(Debug)]
#[must_use = "a sleep waits only while it is awaited"]
pub struct Sleep {
    deadline: Instant,
    /// Made at the first poll.
    timer: Option<Owned>,
}

impl Sleep {
    /// Moves the deadline.
    pub fn reset(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if let Some(timer) = &self.timer {
            let host = host();
            // SAFETY: Numbers only.
            let code =
                unsafe { (host.work.timer_reset)(host.instance, timer.get(), deadline.as_ns()) };
            if code < 0 {
                self.timer = None;
            }
        }
    }

    /// When it ends.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    /// # Panics
    /// When the host has no timer left for the plugin, and off the loop's thread.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let host = host();
        let timer = this.timer.get_or_insert_with(|| {
            // SAFETY: Numbers only.
            let code = unsafe { (host.work.timer_start)(host.instance, this.deadline.as_ns()) };
            assert!(code > 0, "the host made no timer: {}", crate::error::io_error(code));
            Owned::new(code as Handle)
        });
        // SAFETY: The waker is borrowed for the call.
        let code =
            unsafe { (host.work.timer_poll)(host.instance, timer.get(), waker::for_call(context)) };
        match code {
            code::PENDING => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

/// Ticks every `period`, for the first time after one. Ticks that were missed are left out.
///
/// # Panics
/// When `period` is zero.
pub fn interval(period: Duration) -> Interval {
    assert!(!period.is_zero(), "an interval needs a period above zero");
    Interval { period, sleep: sleep(period) }
}

/// The ticks of [`interval`].
#[derive(Debug)]
pub struct Interval {
    period: Duration,
    sleep: Sleep,
}

impl Interval {
    /// Waits for the next tick, and answers the moment that it was due at.
    pub async fn tick(&mut self) -> Instant {
        (&mut self.sleep).await;
        let due = self.sleep.deadline();
        let now = Instant::now();
        let mut next = due + self.period;
        if next <= now {
            next = now + self.period;
        }
        self.sleep.reset(next);
        due
    }
}

/// The time was up first; see [`timeout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(Duration);

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it took longer than {:?}", self.0)
    }
}

impl std::error::Error for Elapsed {}

/// Waits for `future`, but no longer than `duration`; then it is dropped.
///
/// # Errors
/// [`Elapsed`] when the time was up first.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = sleep(duration);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(context).map(|()| Err(Elapsed(duration)))
    })
    .await
}
