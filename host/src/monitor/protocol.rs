//! What goes over the monitor's socket: one JSON object a line, a request and then its answer.
//!
//! A request is `{"v":1,"command":["load","echo"]}`; the answer is any number of `{"out":"…"}` and `{"err":"…"}`, and then
//! `{"exit":0}`. A session may ask any number of times, one after the other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The version that the client speaks.
    pub v: u32,
    /// The words of the command.
    pub command: Vec<String>,
    /// Whether the answer is wanted as JSON.
    #[serde(default)]
    pub json: bool,
    /// The columns of the client's terminal; absent where the answer goes to a file or a pipe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u16>,
    /// The client's working folder, to which paths in the command are relative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// A piece of the answer.
    Out(String),
    /// A piece of the reason why there is none.
    Err(String),
    /// The end: 0 done, 1 refused or failed, 2 bad usage.
    Exit(u8),
}

/// The command was done.
pub const DONE: u8 = 0;
/// The command was refused, or failed.
pub const FAILED: u8 = 1;
/// The command was not written as it has to be.
pub const USAGE: u8 = 2;

impl Request {
    /// Reads a line; the error is a sentence.
    pub fn parse(line: &[u8]) -> Result<Request, String> {
        #[derive(Deserialize)]
        struct Versioned {
            v: u32,
        }
        let help = r#"send a line such as {"v":1,"command":["help"]}"#;
        let version: Versioned = serde_json::from_slice(line)
            .map_err(|error| format!("not a request: {error}; {help}"))?;
        if version.v != VERSION {
            let v = version.v;
            return Err(format!(
                "the client speaks version {v} of the monitor's protocol, this host speaks {VERSION}"
            ));
        }
        serde_json::from_slice(line).map_err(|error| format!("not a request: {error}; {help}"))
    }
}

impl Reply {
    /// The line with its end.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("it holds text and a number");
        line.push(b'\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let good = |line: &str, words: &[&str]| {
            assert_eq!(Request::parse(line.as_bytes()).unwrap().command, words)
        };
        good(r#"{"v":1,"command":["load","echo"]}"#, &["load", "echo"]);
        good(r#"{"v":1,"command":[],"json":true,"width":80,"cwd":"/"}"#, &[]);
        let bad = |line: &[u8], expected: &str| {
            let error = Request::parse(line).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        bad(b"", "not a request");
        bad(b"help", "not a request");
        bad(b"\xff", "not a request");
        bad(br#"{"command":[]}"#, "missing field `v`");
        bad(br#"{"v":1}"#, "missing field `command`");
        bad(br#"{"v":2,"verb":"help"}"#, "speaks version 2");
        bad(br#"{"v":1,"command":[],"colour":1}"#, "unknown field `colour`");
        bad(br#"{"v":1,"command":"help"}"#, "not a request");
    }

    #[test]
    fn replies() {
        let check =
            |reply: Reply, line: &str| assert_eq!(String::from_utf8(reply.line()).unwrap(), line);
        check(Reply::Out("a\n".to_owned()), "{\"out\":\"a\\n\"}\n");
        check(Reply::Err("b".to_owned()), "{\"err\":\"b\"}\n");
        check(Reply::Exit(2), "{\"exit\":2}\n");
    }
}
