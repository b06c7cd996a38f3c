//! Servers of this package's own: `hyper-static` has hyper linked in statically, `bare-loop` has nothing but the loop. They lie beside
//! this program.

use std::{path::PathBuf, process::Command};

use crate::Result;

/// The program of that name.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = here.with_file_name(name);
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("there is no {name}: `cargo build --release --package medusa-benches`"))
}

/// They have no configuration.
pub(super) fn configure(command: &mut Command, port: u16) {
    command.arg(format!("127.0.0.1:{port}"));
}
