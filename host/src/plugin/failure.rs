//! Why something of a plugin's failed: the code that it answered, and its own word on it; and how loud the log is about that.

use medusa_abi::code::{self, Code};
use tracing::Level;

use crate::plugin::generation::Generation;

/// A hook or a task that ended with a code below zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it answered.
    pub code: Code,
    /// What the plugin said of it, if it did.
    said: Option<String>,
}

impl Failure {
    /// What a call of `generation` came to that has just answered `code`; none if it did well. Its word is taken here, so that no
    /// later call is told of it.
    pub fn of(generation: &Generation, code: Code) -> Option<Failure> {
        let said = generation.take_said();
        (code < 0 && code != code::PENDING).then_some(Failure { code, said })
    }

    /// As a sentence for people; `doing` is what was asked of the plugin.
    pub fn sentence(&self, doing: &str) -> String {
        if let (code, Some(said)) = (self.code, &self.said)
            && code != code::PANICKED
        {
            return said.clone();
        }
        let why = match self.code {
            code::PANICKED => {
                return format!(
                    "the plugin panicked in {doing}; the log has the message and the place"
                );
            }
            code::FAILED => return format!("the plugin failed in {doing} and did not say why"),
            code::CANCELLED => return format!("{doing} was cancelled"),
            code::STALE => "what it was about is no longer there",
            code::LIMIT => "a limit was reached, which the log names",
            code::DENIED => "a capability is missing that the plugin's manifest does not ask for",
            code::INVALID => "an argument makes no sense",
            code::GONE => "the plugin was unloaded before it ended",
            code::BUSY => "the plugin has as much to do as it may; try again later",
            code::TIMEOUT => "the time that it was given has passed",
            code::NOT_FOUND => "there is no such thing",
            code::UNSUPPORTED => "it cannot be done here",
            code => match code::errno(code) {
                Some(errno) => {
                    return format!("{doing} failed: {}", std::io::Error::from_raw_os_error(errno));
                }
                None => {
                    return format!("the plugin answered {code} to {doing}, which means nothing");
                }
            },
        };
        format!("{doing} failed: {why}")
    }

    /// Tells the log. What a peer did, and what was only cancelled, is of interest to few.
    pub fn log(&self, generation: &Generation, doing: &str) {
        let is_quiet = matches!(self.code, code::CANCELLED | code::BUSY)
            || code::errno(self.code).is_some_and(|errno| PEERS.contains(&errno));
        self.log_at(if is_quiet { Level::DEBUG } else { Level::WARN }, generation, doing);
    }

    /// Tells the log of something that followed from what a peer did.
    pub fn log_as_the_peers(&self, generation: &Generation, doing: &str) {
        self.log_at(Level::DEBUG, generation, doing);
    }

    fn log_at(&self, level: Level, generation: &Generation, doing: &str) {
        // A panic was told of when it happened.
        if self.code == code::PANICKED {
            return;
        }
        let (instance, number, sentence) =
            (generation.name(), generation.number, self.sentence(doing));
        if level == Level::WARN {
            tracing::warn!(instance, generation = number, task = doing, "failed: {sentence}");
        } else {
            tracing::debug!(instance, generation = number, task = doing, "failed: {sentence}");
        }
    }
}

impl From<Code> for Failure {
    /// One that the plugin has no word on.
    fn from(code: Code) -> Failure {
        Failure { code, said: None }
    }
}

/// What the system says of a connection whose peer is gone, or too slow.
const PEERS: [i32; 6] = [
    libc::ECONNRESET,
    libc::ECONNABORTED,
    libc::EPIPE,
    libc::ENOTCONN,
    libc::ETIMEDOUT,
    libc::EHOSTUNREACH,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: Code, said: Option<&str>, expected: &str) {
        let failure = Failure { code, said: said.map(str::to_owned) };
        assert_eq!(failure.sentence("start"), expected);
    }

    #[test]
    fn every_code_has_a_sentence() {
        check(code::FAILED, Some("no database"), "no database");
        check(code::FAILED, None, "the plugin failed in start and did not say why");
        check(code::from_errno(libc::EPIPE), Some("cannot reply"), "cannot reply");
        check(code::from_errno(libc::EPIPE), None, "start failed: Broken pipe (os error 32)");
        check(code::CANCELLED, None, "start was cancelled");
        check(code::TIMEOUT, None, "start failed: the time that it was given has passed");
        check(-77, None, "the plugin answered -77 to start, which means nothing");
        let panicked = "the plugin panicked in start; the log has the message and the place";
        check(code::PANICKED, Some("stale"), panicked);
    }
}
