//! The command line: what ends with which status, and says what.

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
};

use medusa_tests::{Folder, Server, Tree};
use rustix::process::Signal;

const NOTHING: &str = "";

#[test]
fn a_server_answers_its_monitor_and_ends_upon_sigterm() {
    let mut server = Server::start(NOTHING);
    let status = server.ctl_json(["status"]);
    assert_eq!(status["pid"], server.process().pid());
    assert_eq!(status["state"], "running");
    assert_eq!(server.ctl_json(["plugins"]).as_array().map(Vec::len), Some(0));
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(!server.socket().exists(), "the socket should go with its server");
}

#[test]
fn a_server_ends_upon_a_terminals_interrupt_and_upon_shutdown() {
    let mut server = Server::start(NOTHING);
    server.signal(Signal::INT);
    assert!(server.wait().success());

    let mut server = Server::start(NOTHING);
    server.ctl(["shutdown"]).succeeded();
    assert!(server.wait().success());
}

#[test]
fn only_its_owner_may_use_the_monitor() {
    let server = Server::start(NOTHING);
    let mode = server.socket().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn each_way_to_fail_has_its_status() {
    let server = Server::start(NOTHING);
    assert_eq!(server.ctl(["no-such-command"]).status, 2);
    assert_eq!(server.ctl(["unload"]).status, 2);
    server.ctl(["unload", "nobody"]).refused("nobody");
    server.ctl(["load", "nobody"]).refused("nobody");
    server.ctl(["load", "nobody", "--library", "./nothing.so"]).refused("nothing.so");
    server.ctl(["load", "nobody", "--library", "nothing"]).refused("nothing");
    assert_eq!(server.ctl_json(["plugins"]).as_array().map(Vec::len), Some(0));
}

#[test]
fn without_a_server_ctl_says_so() {
    let folder = Folder::new();
    let output = folder.medusa(["ctl", "--socket", "run/medusa.sock", "status"], "");
    output.refused("medusa.sock");
}

/// The request holds the client's folder as JSON, and JSON is UTF-8: the client panicked.
#[test]
fn ctl_works_in_a_folder_whose_name_is_not_utf_8() {
    let server = Server::start(NOTHING);
    let folder = server.folder().path(OsStr::from_bytes(b"caf\xe9"));
    std::fs::create_dir(&folder).unwrap();
    let output = server.ctl_command().arg("status").current_dir(&folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_second_server_leaves_the_first_one_its_socket() {
    let server = Server::start(NOTHING);
    let second = server.folder().medusa(["serve", "--config", "medusa.toml"], "");
    assert_eq!(second.status, 1, "{second:#?}");
    server.ctl(["status"]).succeeded();
}

#[test]
fn check_shows_every_mistake_with_its_line() {
    let folder = Folder::new();
    folder.configure(
        "[[plugin]]\nname = \"echo\"\nlibary = \"echo\"\nlisten = [\"127.0.0.1:99999\"]\n",
    );
    let output = folder.medusa(["check", "--config", "medusa.toml"], "");
    output.refused("medusa.toml:3");
    output.refused("medusa.toml:4");
    output.refused("library");

    folder.configure(NOTHING);
    folder.medusa(["check", "--config", "medusa.toml"], "").succeeded();
}

#[test]
fn a_server_does_not_start_with_a_mistake() {
    let folder = Folder::new();
    folder.configure("[host]\ndrain = \"soon\"\n");
    let output = folder.medusa(["serve", "--config", "medusa.toml"], "");
    assert_eq!(output.status, 1, "{output:#?}");
    assert!(output.stderr.contains("medusa.toml:"), "{output:#?}");
    folder.medusa(["serve", "--config", "missing.toml"], "").refused("missing.toml");
}

#[test]
fn passwd_prints_an_argon2id_hash() {
    let folder = Folder::new();
    let hashes =
        [(); 2].map(|()| folder.medusa(["passwd"], "correct horse\n").succeeded().to_owned());
    assert!(hashes.iter().all(|hash| hash.starts_with("$argon2id$v=19$") && hash.trim_end().lines().count() == 1));
    assert_ne!(hashes[0], hashes[1], "each hash has a salt of its own");
}

#[test]
fn what_is_no_library_is_refused_without_running_it() {
    let folder = Folder::new().with("text.so", "no library\n").with("empty.so", "");
    for file in ["text.so", "empty.so", "missing.so"] {
        let output = folder.medusa(["plugin", "inspect", file], "");
        assert_ne!(output.status, 0, "{output:#?}");
        assert!(output.stderr.contains(file), "{output:#?}");
    }
    let program = Tree::get().program();
    let output = folder.medusa(["plugin".as_ref(), "inspect".as_ref(), program.as_os_str()], "");
    assert_eq!(output.status, 1, "the host itself is no plugin: {output:#?}");
}
