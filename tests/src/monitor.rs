//! A session with the monitor over its socket: many commands, one after the other, without a process for each.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

use crate::{CtlOutput, Server, wait::PATIENCE};

/// A session. It speaks the protocol itself, so that what the socket says is what is tested.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Begins a session.
    ///
    /// # Panics
    ///
    /// When nobody listens.
    #[must_use]
    #[track_caller]
    pub fn of(server: &Server) -> Self {
        let stream = UnixStream::connect(server.socket())
            .unwrap_or_else(|error| panic!("cannot connect to the monitor: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        Self { stream: BufReader::new(stream) }
    }

    /// Runs a command, and waits for its end.
    ///
    /// # Panics
    ///
    /// When the session breaks, or nothing comes for a minute.
    #[track_caller]
    pub fn ask<S: AsRef<str>>(&mut self, words: impl IntoIterator<Item = S>) -> CtlOutput {
        self.run(words, false)
    }

    /// Runs a command that has to be done, and returns its answer as JSON.
    ///
    /// # Panics
    ///
    /// As [`Monitor::ask`], and when it is refused or fails.
    #[track_caller]
    pub fn json<S: AsRef<str>>(&mut self, words: impl IntoIterator<Item = S>) -> Value {
        let output = self.run(words, true);
        output.succeeded();
        output.json()
    }

    /// The objects that `plugins --json` has for an instance: one for each generation alive.
    ///
    /// # Panics
    ///
    /// As [`Monitor::json`].
    #[must_use]
    #[track_caller]
    pub fn plugin(&mut self, name: &str) -> Vec<Value> {
        let plugins = self.json(["plugins"]);
        let plugins = plugins.as_array().unwrap_or_else(|| panic!("no array: {plugins}"));
        plugins.iter().filter(|plugin| plugin["name"] == name).cloned().collect()
    }

    #[track_caller]
    fn run<S: AsRef<str>>(
        &mut self,
        words: impl IntoIterator<Item = S>,
        is_json: bool,
    ) -> CtlOutput {
        let command: Vec<String> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let mut request = json!({ "v": 1, "command": command, "json": is_json }).to_string();
        request.push('\n');
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .unwrap_or_else(|error| panic!("cannot send {command:?}: {error}"));
        let mut output = CtlOutput { status: -1, stdout: String::new(), stderr: String::new() };
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            assert!(
                matches!(read, Ok(length) if length > 0),
                "the session ended in {command:?}: {read:?}"
            );
            let reply: Value = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("no reply ({error}): {line}"));
            if let Some(text) = reply["out"].as_str() {
                output.stdout.push_str(text);
            } else if let Some(text) = reply["err"].as_str() {
                output.stderr.push_str(text);
            } else if let Some(exit) = reply["exit"].as_i64() {
                output.status = i32::try_from(exit).expect("a status is small");
                return output;
            } else {
                panic!("neither out nor err nor exit: {line}");
            }
        }
    }
}
