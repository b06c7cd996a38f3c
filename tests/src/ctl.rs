//! What `medusa ctl`, or another of its commands that end, answered.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::wait::wait_for;

/// The outcome of one monitor command.
#[derive(Debug, Clone)]
pub struct CtlOutput {
    /// 0 done, 1 refused or failed, 2 bad usage; -1 where a signal ended the program.
    pub status: i32,
    /// What it wrote for its caller.
    pub stdout: String,
    /// What it wrote for people.
    pub stderr: String,
}

impl CtlOutput {
    /// Returns the standard output of a command that was done.
    ///
    /// # Panics
    ///
    /// When the status is not 0.
    #[track_caller]
    pub fn succeeded(&self) -> &str {
        assert_eq!(self.status, 0, "the command should have been done: {self:#?}");
        &self.stdout
    }

    /// Checks that the command was refused, and with a sentence that holds `part`.
    ///
    /// # Panics
    ///
    /// When the status is not 1, or the sentence is another.
    #[track_caller]
    pub fn refused(&self, part: &str) {
        assert_eq!(self.status, 1, "the command should have been refused: {self:#?}");
        assert!(
            self.stderr.contains(part) || self.stdout.contains(part),
            "expected `{part}` in {self:#?}"
        );
    }

    /// Reads the standard output as JSON.
    ///
    /// # Panics
    ///
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }
}

/// Runs a program to its end with `input` as its standard input, and keeps what it says.
///
/// # Panics
///
/// When it cannot be run, or has not ended within `deadline`; it is killed then.
#[track_caller]
pub(crate) fn run(command: &mut Command, input: &str, deadline: Duration) -> CtlOutput {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("standard input was asked for as a pipe");
    // A program that does not read closes its end; that is its right.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let mut stdout = child.stdout.take().expect("standard output was asked for as a pipe");
    let mut stderr = child.stderr.take().expect("standard error was asked for as a pipe");
    let stderr = thread::spawn(move || text(&mut stderr));
    let stdout = thread::spawn(move || text(&mut stdout));
    let what = format!("{command:?} to end");
    let mut killed = Killed(child);
    let status =
        wait_for(&what, deadline, || killed.0.try_wait().expect("a child can be waited for"));
    let [stdout, stderr] =
        [stdout, stderr].map(|thread| thread.join().expect("reading a pipe does not panic"));
    CtlOutput { status: status.code().unwrap_or(-1), stdout, stderr }
}

/// A child that does not outlive a test that gave up on it.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn text(pipe: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
