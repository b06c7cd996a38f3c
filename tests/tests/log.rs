//! The log: nobody waits for its reader, and what it says at the end is there.

use std::{
    io::Read,
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use medusa_tests::{Client, Folder, Server, wait_for, wait_until};
use rustix::{
    pipe::fcntl_setpipe_size,
    process::{Pid, Signal, kill_process},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Every request and command leaves a line, and few lines fit into the pipe and into the queue before it.
const TALKATIVE: &str = "\
[log]
level = \"debug\"
[host.limits]
log_queue_bytes_max = \"4 KiB\"
[[plugin]]
name = \"web\"
library = \"http\"
listen = [\"unix:web.sock\"]
[[plugin]]
name = \"hello\"
library = \"hello\"
attach = \"web\"
";

/// A server whose standard error is a small pipe that nobody reads, filled up.
fn unread() -> (Folder, Child) {
    let folder = Folder::new();
    let configuration = folder.configure(TALKATIVE);
    let child = Command::new(folder.program())
        .arg("serve")
        .arg("--config")
        .arg(configuration)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the tree's program can be run");
    let pipe = child.stderr.as_ref().expect("it was asked for");
    fcntl_setpipe_size(pipe, 4096).expect("a pipe can be made small");
    wait_until("the server to serve", PATIENCE, || {
        UnixStream::connect(folder.path("web.sock")).is_ok()
    });
    // A page of a pipe, a queue, and what the writer has in its hands: more lines than fit into all three.
    for _ in 0..200 {
        ctl(&folder, &["log", "1"]);
    }
    (folder, child)
}

fn ctl(folder: &Folder, words: &[&str]) -> String {
    let mut arguments = vec!["ctl", "--config", "medusa.toml"];
    arguments.extend(words);
    folder.medusa(arguments, "").succeeded().to_owned()
}

fn end(child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::TERM).expect("it runs");
    let status = wait_for("the server to end", PATIENCE, || {
        child.try_wait().expect("a child can be waited for")
    });
    assert!(status.success(), "{status}");
}

#[test]
fn a_server_whose_log_nobody_reads_goes_on() {
    let (folder, mut child) = unread();
    assert!(ctl(&folder, &["plugins"]).contains("hello"));
    assert!(ctl(&folder, &["log", "1000"]).contains("monitor command"), "the monitor has them all");
    // It waits a second for a reader, and no longer.
    end(&mut child);
}

#[test]
fn lines_that_were_lost_are_told_once_there_is_room_again() {
    let (folder, mut child) = unread();
    let mut stderr = child.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    wait_until("the loss in the log", PATIENCE, || {
        ctl(&folder, &["log", "1000"]).contains("lines of this log were lost")
    });
    end(&mut child);
    let text = reader.join().unwrap().unwrap();
    assert!(text.contains("lines of this log were lost here"), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains("medusa has stopped"), "the end of the log is there: {last}");
}

#[test]
fn the_last_line_is_there_when_the_server_has_ended() {
    let mut server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let _ = Client::connect(server.address("web")).get("/");
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(server.log().trim_end().ends_with("medusa has stopped"), "{}", server.log());
}

/// The level of the file was read at the start only; `config apply` and SIGHUP said that all was applied, and changed nothing.
#[test]
fn a_changed_level_is_in_force_after_the_configuration_is_applied() {
    let level = |level: &str| format!("[log]\nlevel = \"{level}\"\n");
    let server = Server::start(&level("info"));
    let shows = |expected: &str| server.ctl(["log", "level"]).succeeded().trim() == expected;
    server.folder().configure(&level("warn"));
    server.ctl(["config", "apply"]).succeeded();
    assert!(shows("warn"));
    server.folder().configure(&level("debug"));
    server.signal(Signal::HUP);
    wait_until("the level", PATIENCE, || shows("debug"));
    // What an operator has set since lasts until the file says something else.
    server.ctl(["log", "level", "trace"]).succeeded();
    server.ctl(["config", "apply"]).succeeded();
    assert!(shows("trace"));
}

#[test]
fn the_log_is_shown_and_followed_for_one_instance_and_by_severity() {
    let instance = |name: &str| {
        format!("[[plugin]]\nname = \"{name}\"\nlibrary = \"echo\"\nlisten = [\"127.0.0.1:0\"]\n")
    };
    let server = Server::start(&(instance("one") + &instance("two")));
    let lines = |words: &[&str]| {
        let said = server.ctl(words).succeeded().to_owned();
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let about = lines(&["log", "50", "--instance", "one"]);
    assert!(
        !about.is_empty() && about.iter().all(|line| line.contains("instance=\"one\"")),
        "{about:?}"
    );
    assert_eq!(lines(&["log", "--instance", "one", "--level", "warn"]), [""; 0]);
    let both = lines(&["log", "50", "--instance", "one", "--instance", "two"]);
    assert!(both.iter().any(|line| line.contains("instance=\"two\"")), "{both:?}");
    server.ctl(["log", "--instance", "tow"]).refused("did you mean `two`?");

    let mut follows = server.ctl_command();
    follows.args(["log", "follow", "--instance", "two"]).stdout(Stdio::piped());
    let mut follows = follows.spawn().expect("it can be run");
    let mut told = std::io::BufReader::new(follows.stdout.take().expect("it was asked for"));
    let first = std::thread::spawn(move || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut told, &mut line).map(|_| line)
    });
    // It is not known when it has begun to follow.
    wait_until("a line to be told", PATIENCE, || {
        for name in ["one", "two"] {
            server.ctl(["reload", name]).succeeded();
        }
        first.is_finished()
    });
    let line = first.join().expect("reading does not panic").expect("it is text");
    assert!(line.contains("instance=\"two\""), "{line}");
    follows.kill().expect("it is ours");
    follows.wait().expect("it is ours");
    // Whoever is gone may be looked for still.
    server.ctl(["load", "three", "--library", "echo", "--listen", "127.0.0.1:0"]).succeeded();
    server.ctl(["unload", "three"]).succeeded();
    assert!(
        lines(&["log", "50", "--instance", "three"]).iter().any(|line| line.contains("unloaded"))
    );
}
