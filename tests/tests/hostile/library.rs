//! Libraries that no plugin's author would make: built from C, or with a few bytes of a good one changed.

use std::{env, fs, path::PathBuf, process::Command};

use medusa_tests::{Folder, Tree};

/// Reads a library of the tree.
#[track_caller]
pub(crate) fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(Tree::get().library(name)).expect("a library of the tree can be read")
}

/// Replaces the one place where `from` stands; both are of the same length.
#[track_caller]
pub(crate) fn patch(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len(), "a patch keeps lengths");
    let found: Vec<_> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(from.as_bytes())).collect();
    assert_eq!(found.len(), 1, "`{from}` should stand in one place");
    bytes[found[0]..found[0] + to.len()].copy_from_slice(to.as_bytes());
}

/// Builds a plugin in C with the platform's compiler. It has a manifest by the name `probe`; `arguments` are the
/// compiler's.
#[track_caller]
pub(crate) fn build_c(folder: &Folder, code: &str, arguments: &[&str]) -> PathBuf {
    let target = folder
        .medusa(
            [
                "plugin".as_ref(),
                "inspect".as_ref(),
                Tree::get().library("echo").as_os_str(),
                "--json".as_ref(),
            ],
            "",
        )
        .json();
    let target = target["target"].as_str().expect("a manifest names its target").to_owned();
    let manifest = format!(
        r#"{{"format":1,"name":"probe","version":"1.0.0","abi":{{"major":1,"minor":0}},"kind":"plugin","rustc":"cc","target":"{target}","panic":"unwind"}}"#
    );
    let source = format!(
        "__attribute__((section(\".medusa.manifest\"), used)) static const char manifest[] = {manifest:?};\n{code}\n"
    );
    folder.write("probe.c", source);
    let library = folder.path("probe.so");
    let mut cc = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(folder.path("probe.c")).args(arguments);
    run(cc.current_dir(folder.path("")));
    library
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{said}");
}
