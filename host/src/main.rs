//! The `medusa` binary.

use medusa::{app::cli, plugin::interpose};

fn main() -> std::process::ExitCode {
    // First of all, so that the linker keeps what plugins have to bind to.
    if let Err(error) = interpose::install() {
        eprintln!("medusa: {error}");
    }
    cli::run()
}
