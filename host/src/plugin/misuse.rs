//! What a plugin does against the contract. The host refuses it with a code; the log names the plugin and what was wrong, once for
//! each kind, and then at every tenth power of how often it was.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// The kinds, each told and counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misuse {
    /// A callback on another thread than the loop's, or from no call.
    Thread,
    /// A callback in the name of another instance.
    Instance,
    /// A handle that is not there.
    Gone,
    /// A handle of another kind.
    Kind,
    /// A handle that is dropped and is not there.
    Drop,
    /// Pointers, lengths or numbers that make no sense.
    Argument,
}

const KINDS: usize = Misuse::Argument as usize + 1;

/// How often one generation did what. Any thread may count.
#[derive(Debug, Default)]
pub struct Misuses([AtomicU64; KINDS]);

impl Misuses {
    /// Counts one, and tells the log of it if it is time to.
    pub fn count(&self, instance: &str, misuse: Misuse, what: fmt::Arguments<'_>) {
        let times = self.0[misuse as usize].fetch_add(1, Ordering::Relaxed) + 1;
        if times == 1 {
            tracing::warn!(instance, "the plugin misuses the host: {what}");
        } else if is_power_of_ten(times) {
            tracing::warn!(instance, times, "the plugin misuses the host: {what}");
        }
    }
}

fn is_power_of_ten(number: u64) -> bool {
    number == 10_u64.pow(number.ilog10())
}

/// The name of the callback whose closure this is the type of: `timer_start` for `…::work::timer_start::{{closure}}`.
pub fn callback(closure: &'static str) -> &'static str {
    let path = closure.split("::{{closure}}").next().unwrap_or(closure);
    path.rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closure_tells_its_callback() {
        fn name_of<F: Fn()>(_: F) -> &'static str {
            std::any::type_name::<F>()
        }
        assert_eq!(callback(name_of(|| {})), "a_closure_tells_its_callback");
    }

    #[test]
    fn what_goes_on_is_told_ever_more_rarely() {
        let told: Vec<u64> = (1..2000).filter(|times| is_power_of_ten(*times)).collect();
        assert_eq!(told, [1, 10, 100, 1000]);
    }
}
