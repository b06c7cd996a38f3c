//! The barrier that no panic passes: every hook runs its plugin's code in here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use medusa_abi::code::{self, Code};

/// Runs `f`; a panic becomes [`code::PANICKED`]. The panic hook has reported it by then.
pub(crate) fn guard(f: impl FnOnce() -> Code) -> Code {
    catch(f).unwrap_or(code::PANICKED)
}

/// Runs `f`; `None` if it panicked. What `f` borrows may be left half changed: the caller only drops it from then on.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => Some(result),
        Err(payload) => {
            // The payload is the plugin's own value, and dropping it may panic in turn; the second payload is forgotten,
            // for nothing says that dropping that one would end the story.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                std::panic::panic_any(Bomb);
            }
        }
    }

    #[test]
    fn a_payload_that_panics_when_dropped_is_contained() {
        assert_eq!(guard(|| std::panic::panic_any(Bomb)), code::PANICKED);
        assert_eq!(guard(|| 7), 7);
    }
}
