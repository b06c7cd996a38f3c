//! The one timer of a connection. It is armed late: a deadline that moves away costs nothing until the old one has passed.

use std::{future::Future, pin::Pin, task::Context};

use medusa_plugin_api::{Instant, Sleep, sleep_until};

/// A timer for deadlines that move.
#[derive(Default)]
pub(crate) struct Alarm(Option<Sleep>);

impl Alarm {
    /// Forgets who is to be woken, because it is somebody else now.
    pub(crate) fn reset(&mut self) {
        self.0 = None;
    }

    /// Whether `at` has passed; if not, the task is woken then, or before.
    pub(crate) fn is_due(&mut self, at: Instant, now: Instant, context: &mut Context<'_>) -> bool {
        if now >= at {
            return true;
        }
        let sleep = match &mut self.0 {
            Some(sleep) if sleep.deadline() > now && sleep.deadline() <= at => return false,
            Some(sleep) => {
                sleep.reset(at);
                sleep
            }
            empty => empty.insert(sleep_until(at)),
        };
        Pin::new(sleep).poll(context).is_ready()
    }
}
