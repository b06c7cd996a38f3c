//! `cargo xtask new-plugin`: what it makes is told by `guide.rs`, which builds, tests and loads it; here is what it refuses.

use std::{env, path::Path, process::Command};

use medusa_tests::Folder;

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}

#[test]
fn what_is_there_is_never_overwritten() {
    let folder = Folder::new().with("mine/notes.txt", "mine");
    let path = folder.path("mine");
    let path = path.to_str().expect("a temporary folder's name is text");
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(workspace())
        .args(["xtask", "new-plugin", "mine", "--path", path])
        .output()
        .expect("cargo can be run");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists"), "{output:?}");
    assert!(!folder.path("mine/Cargo.toml").exists());
}
