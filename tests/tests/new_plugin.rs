//! `cargo xtask new-plugin`: each kind that it makes is tested, built and loaded as its own README says, and what it refuses.
//! What `guide.rs` follows in the guide, a handler and a service, is not repeated here.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use medusa_tests::{Client, Folder, Server, Tree, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace")
}

fn cargo(folder: &Path, arguments: &[&str]) -> Output {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).args(arguments);
    if folder != workspace() {
        // Where the guide's plugins are built too: what they depend on is compiled once.
        cargo.env("CARGO_TARGET_DIR", target());
    }
    cargo.output().expect("cargo can be run")
}

fn target() -> PathBuf {
    Tree::get().root().with_file_name("medusa-test-new-plugin")
}

/// Makes a plugin, has its own tests run, builds it, and loads it with what its README has for it.
#[track_caller]
fn made_and_loaded(server: &Server, name: &str, option: &str) {
    let folder = server.folder().path(name);
    let path = folder.to_str().expect("a temporary folder's name is text");
    let done = |output: Output, what: &str| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let more = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{what} of {name}: {said}\n{more}");
        assert!(!said.contains("warning:"), "{what} of {name}: {said}");
    };
    done(cargo(workspace(), &["xtask", "new-plugin", name, option, "--path", path]), "the making");
    done(cargo(&folder, &["test", "--quiet"]), "the test");
    done(cargo(&folder, &["build", "--quiet"]), "the build");
    let readme = fs::read_to_string(folder.join("README.md")).expect("it has a README");
    let line = readme.lines().find(|line| line.contains(" load ")).expect("it says how to load it");
    let (_, line) = line.split_once(" load ").expect("it was just found");
    let library = target().join(format!("debug/libmedusa_{name}.so"));
    let words: Vec<String> = ["load"]
        .into_iter()
        .chain(line.split(' '))
        .map(|word| match word {
            "127.0.0.1:7070" => "127.0.0.1:0".to_owned(),
            word if word.ends_with(".so") => library.display().to_string(),
            word => word.to_owned(),
        })
        .collect();
    assert!(server.ctl(&words).succeeded().contains("is running"));
}

#[test]
fn a_session_a_filter_and_an_observer_are_made_and_loaded() {
    let server = Server::with_site(&[("index.html", b"the site\n")]);
    made_and_loaded(&server, "numbers", "--session");
    let mut stream = TcpStream::connect(server.address("numbers")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
    let mut answers = BufReader::new(stream.try_clone().expect("a descriptor can be copied"));
    let parked = || {
        let all = server.ctl_json(["connections", "numbers", "--state", "parked"]);
        all.as_array().map(Vec::len) == Some(1)
    };
    for (line, answer) in [("one\n", "1: one\n"), ("two\n", "2: two\n")] {
        wait_until("it to rest", PATIENCE, parked);
        stream.write_all(line.as_bytes()).expect("it reads");
        let mut said = String::new();
        answers.read_line(&mut said).expect("it answers");
        assert_eq!(said, answer);
    }
    drop((stream, answers));

    made_and_loaded(&server, "marker", "--filter");
    made_and_loaded(&server, "watcher", "--observer");
    let mut client = Client::connect(server.address("web"));
    let page = client.get("/");
    assert_eq!((page.text(), page.header("x-marker")), ("the site\n", Some("seen")));
    assert_eq!(client.get("/marker").text(), "marker is here\n");
    assert_eq!(client.get("/missing").status, 404);
    let metric = |instance: &str, name: &str| {
        let metrics = server.ctl_json(["metrics", instance]);
        let found = metrics.as_array().into_iter().flatten().find(|it| it["name"] == name);
        found.and_then(|it| it["value"].as_u64())
    };
    assert_eq!(metric("marker", "seen_total"), Some(3));
    wait_until("the observer to hear of all", PATIENCE, || {
        metric("watcher", "ended_total") == Some(3)
    });
    assert_eq!(metric("watcher", "failed_total"), Some(0));
    for name in ["numbers", "marker", "watcher"] {
        assert_eq!(server.ctl_json(["unload", name])["mapped"], false, "{name}");
    }
}

#[test]
fn two_kinds_at_once_are_refused() {
    let output = cargo(workspace(), &["xtask", "new-plugin", "both", "--http", "--filter"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("`--http` and `--filter`"), "{said}");
}

#[test]
fn what_is_there_is_never_overwritten() {
    let folder = Folder::new().with("mine/notes.txt", "mine");
    let path = folder.path("mine");
    let path = path.to_str().expect("a temporary folder's name is text");
    let output = cargo(workspace(), &["xtask", "new-plugin", "mine", "--path", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("exists"), "{output:?}");
    assert!(!folder.path("mine/Cargo.toml").exists());
}
