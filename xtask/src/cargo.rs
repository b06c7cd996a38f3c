//! Running programs, cargo above all: shown, checked, and with their output kept where it is needed.

use std::{
    env,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::Result;

/// One file that cargo made: for which package, and where.
pub(crate) struct Artifact {
    /// cargo's identifier of the package, as in `cargo metadata`.
    pub(crate) package_id: String,
    pub(crate) path: PathBuf,
}

/// The cargo that runs us, so that a toolchain chosen by `cargo +NAME` stays chosen.
pub(crate) fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command to its end with its output going to ours; an error if it fails.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let line = shown(command);
    println!("$ {line}");
    let status = command.status().map_err(|error| format!("cannot run `{line}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{line}` failed ({status})").into()) }
}

/// Runs a command and returns what it wrote to its standard output; an error if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let line = shown(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run `{line}`: {error}"))?;
    if !output.status.success() {
        return Err(format!("`{line}` failed ({})", output.status).into());
    }
    String::from_utf8(output.stdout)
        .map_err(|_| format!("`{line}` wrote something that is not UTF-8").into())
}

/// Runs `cargo build` and returns the programs and shared libraries that it made or found up to date.
///
/// Asking cargo is the only way that holds for every target directory, target and profile. `rustc` goes to the compiler.
pub(crate) fn build(command: &mut Command, rustc: &[String]) -> Result<Vec<Artifact>> {
    let line = shown(command);
    println!("$ {line}");
    command.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped());
    if !rustc.is_empty() {
        command.arg("--").args(rustc);
    }
    let mut child = command.spawn().map_err(|error| format!("cannot run `{line}`: {error}"))?;
    let stdout = child.stdout.take().expect("standard output was asked for as a pipe");
    let mut artifacts = Vec::new();
    for message in BufReader::new(stdout).lines() {
        collect(&serde_json::from_str(&message?)?, &mut artifacts);
    }
    let status = child.wait()?;
    if status.success() { Ok(artifacts) } else { Err(format!("`{line}` failed ({status})").into()) }
}

fn collect(message: &Value, artifacts: &mut Vec<Artifact>) {
    if message["reason"] != "compiler-artifact" {
        return;
    }
    let Some(package_id) = message["package_id"].as_str() else { return };
    let mut add = |path: &str| {
        artifacts.push(Artifact { package_id: package_id.to_owned(), path: path.into() })
    };
    if let Some(program) = message["executable"].as_str() {
        add(program);
    }
    let is_cdylib = message["target"]["crate_types"]
        .as_array()
        .is_some_and(|types| types.iter().any(|it| it == "cdylib"));
    if is_cdylib {
        let files = message["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
        files.filter(|file| file.ends_with(env::consts::DLL_SUFFIX)).for_each(add);
    }
}

fn shown(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let mut line = name.to_string_lossy().into_owned();
    for word in command.get_args() {
        line.push(' ');
        line.push_str(&word.to_string_lossy());
    }
    line
}
