//! The `medusa` binary.

fn main() {}
