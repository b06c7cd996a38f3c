//! Those who wait until a socket takes something. The reactor keeps one waker for it; where several tasks write to one connection,
//! all of them have to be woken.

use std::{
    cell::OnceCell,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
};

/// The writers of one socket that wait. Most sockets never have one.
#[derive(Debug, Default)]
pub(super) struct Writers(OnceCell<Arc<Waiting>>);

#[derive(Debug, Default)]
struct Waiting(Mutex<Vec<Waker>>);

impl Writers {
    /// Asks the reactor, by `ready`, whether the socket takes something, for one more who wants to know.
    pub(super) fn poll(
        &self,
        cx: &mut Context<'_>,
        ready: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        let is_own = |waker: &Waker| waker.will_wake(cx.waker());
        let waiting = match self.0.get() {
            Some(waiting) if !waiting.lock().iter().all(is_own) => waiting,
            waiting => {
                // The usual case: nobody else waits, so that the reactor can wake the one.
                let polled = ready(cx);
                match (&polled, waiting) {
                    (Poll::Pending, _) => self.0.get_or_init(Arc::default).add(cx.waker()),
                    (Poll::Ready(_), Some(waiting)) => {
                        waiting.take_all().into_iter().for_each(drop)
                    }
                    (Poll::Ready(_), None) => {}
                }
                return polled;
            }
        };
        waiting.add(cx.waker());
        let polled = ready(&mut Context::from_waker(&Waker::from(waiting.clone())));
        if polled.is_ready() {
            drop(waiting.take(cx.waker()));
        }
        polled
    }

    /// Those who wait are to ask again: the reactor, which was to wake them, does not know the socket any more.
    pub(super) fn wake(&self) {
        self.take_all().into_iter().for_each(Waker::wake);
    }

    /// Nobody waits any more.
    pub(super) fn forget(&self) {
        self.take_all().into_iter().for_each(drop);
    }

    fn take_all(&self) -> Vec<Waker> {
        self.0.get().map(|waiting| waiting.take_all()).unwrap_or_default()
    }
}

/// Wakers are taken out before they are used or dropped: a plugin's own may do anything then, and come here again.
impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, waker: &Waker) {
        let mut waiting = self.lock();
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    fn take(&self, waker: &Waker) -> Option<Waker> {
        let mut waiting = self.lock();
        let at = waiting.iter().position(|other| other.will_wake(waker))?;
        Some(waiting.swap_remove(at))
    }

    fn take_all(&self) -> Vec<Waker> {
        std::mem::take(&mut *self.lock())
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.take_all().into_iter().for_each(Waker::wake);
    }
}
