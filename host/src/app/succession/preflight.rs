//! The preflight: the next program, run as a child, says whether it could go on. It is given what there is to go on with, prepares every
//! plugin, has each read its state, and ends. Nobody is served by it, and nothing outside of it changes.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd, RawFd},
    path::Path,
    process::{Command, ExitCode, Stdio},
    rc::Rc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    app::succession::inheritance::{FORMAT, Inheritance},
    plugin::{inherit, pool::Pool, registry::Registry},
    sys::exec,
};

/// The word that has the next program answer.
pub const WORD: &str = "preflight";

/// How often the child is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// What is shown of the last words of a program.
const SAID_BYTES_MAX: u64 = 4096;

/// What the next program says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// Its version.
    pub version: String,
    /// The form that it reads.
    pub format: u32,
}

/// Asks a program whether it would do. Blocks.
///
/// # Errors
/// Why it would not, for people.
pub(super) fn ask(
    program: &Path,
    memory: &OwnedFd,
    libraries: Vec<RawFd>,
    limit: Duration,
) -> Result<Answer, String> {
    let mut command = Command::new(program);
    let left = memory.try_clone().map_err(|error| error.to_string())?;
    command.arg(WORD).stdin(left).stdout(Stdio::piped()).stderr(Stdio::piped());
    exec::pass(&mut command, program, &[WORD], libraries).map_err(|error| error.to_string())?;
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "it is not there".to_owned(),
        std::io::ErrorKind::PermissionDenied => {
            format!("it cannot be executed: {error}; is it a program, with mode 0755?")
        }
        _ if error.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            format!("it cannot be executed: {error}; is it a whole program, for this processor?")
        }
        _ => format!("it cannot be executed: {error}"),
    })?;
    let began = Instant::now();
    while child.try_wait().map_err(|error| error.to_string())?.is_none() {
        if began.elapsed() >= limit {
            // It may just have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("it has not answered within {limit:?}"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let (answer, said) = (child.stdout.map(last_words), child.stderr.map(last_words));
    let (answer, said) = (answer.unwrap_or_default(), said.unwrap_or_default());
    if !status.success() {
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().trim_start_matches("medusa: ");
        return Err(match said {
            "" => format!("it ended with {status}"),
            said => said.to_owned(),
        });
    }
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|_| "it is no medusa, or one that is too old to follow another".to_owned())?;
    if answer.format != FORMAT {
        return Err(format!(
            "its version {} reads form {} of what is handed over, and this is form {FORMAT}; restart the server with it instead",
            answer.version, answer.format
        ));
    }
    Ok(answer)
}

/// What a program that has ended has said. Nobody is waited for: it may have left a child behind that has the pipe too.
fn last_words(pipe: impl AsFd + Read) -> Vec<u8> {
    let mut said = Vec::new();
    if rustix::io::ioctl_fionbio(&pipe, true).is_ok() {
        // What cannot be read is not shown.
        let _ = pipe.take(SAID_BYTES_MAX).read_to_end(&mut said);
    }
    said
}

/// Answers, in the child. What was left is its standard input.
#[must_use]
pub fn answer() -> ExitCode {
    let tried = read_input().and_then(attempt);
    match tried {
        Ok(()) => {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let answer = serde_json::to_string(&Answer { version, format: FORMAT });
            println!("{}", answer.expect("it is a text and a number"));
            // The plugins are not asked to stop: they were never started.
            exec::end_at_once(0)
        }
        Err(reason) => {
            eprintln!("medusa: {reason}");
            exec::end_at_once(1)
        }
    }
}

fn read_input() -> Result<Inheritance, String> {
    let input = std::io::stdin();
    let memory = input.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    Inheritance::read(&File::from(memory)).map_err(|error| {
        format!("`{WORD}` is what `upgrade-host` asks; its input cannot be read: {error}")
    })
}

fn attempt(left: Inheritance) -> Result<(), String> {
    let config = left.config().map_err(|problems| problems.render(false))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let runtime = runtime.map_err(|error| format!("cannot start the event loop: {error}"))?;
    let start = |name| Pool::start(name, 1, 64).map_err(|error| error.to_string());
    let (jobs, own) = (Rc::new(start("medusa-pool")?), Rc::new(start("medusa-host")?));
    let tried = runtime.block_on(async {
        let clock = Some(left.clock());
        let (registry, _posts) =
            Registry::new(Rc::new(config), jobs, own, Default::default(), clock);
        for record in left.instances {
            let (spec, legacy) = record.into_legacy(&registry.config())?;
            let read = inherit::rehearse(&registry, spec, legacy).await;
            read.map_err(|refused| refused.0)?;
        }
        Ok(())
    });
    // Nothing of it is to be dropped: code of plugins would run.
    std::mem::forget(runtime);
    tried
}
