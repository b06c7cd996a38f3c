//! The one timer of a connection. It is armed late: a deadline that moves away costs nothing until the old one has passed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Waker},
};

use medusa_plugin_api::{Instant, Sleep, sleep_until};

/// A timer for deadlines that move.
#[derive(Default)]
pub(crate) struct Alarm(Option<Armed>);

struct Armed {
    sleep: Sleep,
    /// Who is woken.
    waker: Waker,
}

impl Alarm {
    /// Whether `at` has passed; if not, the task is woken then, or before.
    pub(crate) fn is_due(&mut self, at: Instant, now: Instant, context: &mut Context<'_>) -> bool {
        if now >= at {
            return true;
        }
        let armed = match &mut self.0 {
            Some(Armed { sleep, waker })
                if sleep.deadline() > now
                    && sleep.deadline() <= at
                    && waker.will_wake(context.waker()) =>
            {
                return false;
            }
            Some(armed) => {
                armed.sleep.reset(at);
                armed.waker.clone_from(context.waker());
                armed
            }
            empty => {
                let waker = context.waker().clone();
                empty.insert(Armed { sleep: sleep_until(at), waker })
            }
        };
        Pin::new(&mut armed.sleep).poll(context).is_ready()
    }
}
