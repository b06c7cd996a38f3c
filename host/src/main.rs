//! The `medusa` binary.

use medusa::plugin::interpose;

fn main() {
    // First of all, so that the linker keeps what plugins have to bind to.
    if let Err(error) = interpose::install() {
        eprintln!("medusa: {error}");
    }
}
