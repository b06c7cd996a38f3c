//! The audit: one line of the log for each command, with who, what, result and duration, and without secrets.

use std::time::Instant;

use tokio::net::unix::UCred;

use crate::{
    config::{show, words},
    log::AUDIT,
    monitor::protocol,
    sys::exec,
};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The process, where the system tells.
    pub pid: Option<i32>,
}

impl From<UCred> for Peer {
    fn from(cred: UCred) -> Peer {
        Peer { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() }
    }
}

/// A command that runs; its line is written when this is dropped, however it ends.
pub(super) struct Entry {
    /// The exit status; that of a failure until another is known, for a command whose client leaves has none.
    pub exit: u8,
    peer: Peer,
    words: Vec<String>,
    begun: Instant,
}

impl Entry {
    /// A command begins.
    pub(super) fn begin(peer: Peer, words: Vec<String>) -> Entry {
        Entry { exit: protocol::FAILED, peer, words, begun: Instant::now() }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if exec::is_left_behind() {
            // Its end is in another process, and told there.
            return;
        }
        let Entry { exit, peer: Peer { uid, gid, pid }, .. } = *self;
        let (pid, command) = (pid.unwrap_or(0), redacted(&self.words));
        let duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(target: AUDIT, uid, gid, pid, command, exit, duration_ms, "monitor command");
    }
}

/// Writes the line for someone who was not let in.
pub(super) fn refused(peer: Peer) {
    let pid = peer.pid.unwrap_or(0);
    tracing::warn!(target: AUDIT, uid = peer.uid, gid = peer.gid, pid, "monitor session refused");
}

/// The words on one line, with the values of `key=value` left out where the key sounds like a secret.
fn redacted(words: &[String]) -> String {
    const BYTES_MAX: usize = 4096;
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line += &quoted_if_needed(&redacted_word(word));
        if line.len() > BYTES_MAX {
            line.truncate(line.floor_char_boundary(BYTES_MAX));
            return line + "…";
        }
    }
    line
}

/// Whether a word is a `key=value` whose value is not to be kept anywhere.
pub(super) fn holds_secret(words: &[String]) -> bool {
    words.iter().any(|word| redacted_word(word) != *word)
}

fn redacted_word(word: &str) -> String {
    let (option, pair) = match word.strip_prefix("--").and_then(|option| option.split_once('=')) {
        Some((option, pair)) if pair.contains('=') => (format!("--{option}="), pair),
        _ => (String::new(), word),
    };
    match pair.split_once('=') {
        Some((key, _)) if show::is_secret(key) => format!("{option}{key}={}", show::REDACTED),
        _ => word.to_owned(),
    }
}

fn quoted_if_needed(word: &str) -> String {
    let plain = !word.is_empty()
        && word.chars().all(|c| c.is_alphanumeric() || "-_=./:,@%+()".contains(c) || c == ' ');
    if plain && (!word.contains(' ') || word.ends_with(show::REDACTED)) {
        word.to_owned()
    } else {
        words::quote(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_reach_the_log() {
        let check = |line: &str, expected: &str| {
            assert_eq!(redacted(&crate::monitor::words::split(line).unwrap()), expected, "{line}");
        };
        check("plugins", "plugins");
        check("load a --set password=x", "load a --set password=(not shown)");
        check("load a --set=db.Token=x=y", "load a --set=db.Token=(not shown)");
        check(
            "load a --set api_key=x --set title='a b'",
            "load a --set api_key=(not shown) --set \"title=a b\"",
        );
        check("--password=x", "--password=(not shown)");
        check("chat secret=1", "chat secret=(not shown)");
        check("''", "\"\"");
        assert_eq!(redacted(&["a\nb".to_owned()]), "\"a\\nb\"");
        assert!(redacted(&["x".repeat(9999)]).len() < 4200);
    }
}
