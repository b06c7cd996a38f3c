//! Tells the crate which compiler builds it, and for which target: a plugin's manifest states both.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(&rustc)
        .arg("--version")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "rustc of an unknown version".to_owned());
    println!("cargo::rustc-env=MEDUSA_RUSTC={}", version.trim());
    println!("cargo::rustc-env=MEDUSA_TARGET={}", env::var("TARGET").unwrap_or_default());
}
