//! `cargo xtask new-plugin`: what it makes builds, passes its own test and can be loaded.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use medusa_tests::{Client, Folder, Server, Tree, exchange};

/// cargo, in a folder, with a target folder beside the tree: what is compiled once serves all these tests.
fn cargo(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(folder)
        .args(arguments)
        .env("CARGO_TARGET_DIR", target())
        .output()
        .expect("cargo can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} failed:\n{said}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn target() -> PathBuf {
    Tree::get().root().with_file_name("medusa-test-new-plugin")
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}

#[test]
fn a_new_service_builds_outside_of_the_workspace_and_serves() {
    let server = Server::start("");
    let folder = server.folder().path("shout");
    let path = folder.to_str().expect("a temporary folder's name is text");
    cargo(workspace(), &["xtask", "new-plugin", "shout", "--path", path]);
    cargo(&folder, &["build"]);
    assert!(cargo(&folder, &["test"]).contains("1 passed"));
    server.install("shout", &target().join("debug/libmedusa_shout.so"));

    server.ctl(["load", "shout", "--library", "shout", "--listen", "127.0.0.1:0"]).succeeded();
    assert_eq!(exchange(server.address("shout"), "hello\n"), b"HELLO\n");
    let unload = server.ctl_json(["unload", "shout"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
}

#[test]
fn a_new_http_extension_builds_outside_of_the_workspace_and_answers() {
    let server = Server::with_site(&[("index.html", b"the site\n")]);
    let folder = server.folder().path("greeting");
    let path = folder.to_str().expect("a temporary folder's name is text");
    cargo(workspace(), &["xtask", "new-plugin", "greeting", "--http", "--path", path]);
    cargo(&folder, &["build"]);
    assert!(cargo(&folder, &["test"]).contains("1 passed"));

    let library = target().join("debug/libmedusa_greeting.so");
    let load = ["load", "greeting", "--attach", "web", "--library"].map(OsStr::new);
    server.ctl(load.into_iter().chain([library.as_os_str()])).succeeded();
    let mut client = Client::connect(server.address("web"));
    assert_eq!(client.get("/greeting").text(), "greeting, number 1\n");
    assert_eq!(client.get("/greeting").text(), "greeting, number 2\n");
    assert_eq!(client.get("/").text(), "the site\n");
    server.ctl(["reload", "greeting"]).succeeded();
    assert_eq!(client.get("/greeting").text(), "greeting, number 1\n");
    let unload = server.ctl_json(["unload", "greeting"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert_eq!(client.get("/greeting").status, 404);
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
