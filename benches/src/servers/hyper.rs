//! hyper linked in statically: `hyper-static`, which lies beside this program.

use std::{path::PathBuf, process::Command};

use crate::Result;

/// The server's program.
pub(super) fn program() -> Result<PathBuf> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = here.with_file_name("hyper-static");
    if program.is_file() {
        return Ok(program);
    }
    Err("there is no hyper-static: `cargo build --release --package medusa-benches`".to_owned())
}

/// It has no configuration.
pub(super) fn configure(command: &mut Command, port: u16) {
    command.arg(format!("127.0.0.1:{port}"));
}
