//! The control plane from outside: the real binary, its configuration, its monitor's socket, its signals.

#![allow(clippy::unwrap_used, reason = "a test ends with what went wrong")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::ExitStatusExt},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const MEDUSA: &str = env!("CARGO_BIN_EXE_medusa");

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a configuration in it.
struct Site {
    folder: TempDir,
}

/// A host that runs; it is killed if the test does not end it.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Site {
    fn new(config: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("medusa.toml"), config).unwrap();
        Site { folder }
    }

    fn medusa(&self, words: &str) -> Output {
        let mut command = Command::new(MEDUSA);
        command.current_dir(self.folder.path()).args(words.split(' ')).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Checks a line's exit status, and that its output (both streams) has the expected text in it.
    fn check(&self, words: &str, exit: i32, expected: &str) -> String {
        let output = self.medusa(words);
        let text =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(
            output.status.code() == Some(exit) && text.contains(expected),
            "{words}: {}\n{text}",
            output.status
        );
        text
    }

    fn serve(&self) -> Server {
        let mut command = Command::new(MEDUSA);
        command.current_dir(self.folder.path()).args(["serve", "--config", "medusa.toml"]);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Server { child, socket: self.folder.path().join("run/medusa.sock") };
        until("the socket is there", || {
            assert_eq!(server.child.try_wait().unwrap(), None, "the server has ended");
            UnixStream::connect(&server.socket).is_ok()
        });
        server
    }
}

impl Server {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the server has ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

#[test]
fn a_running_host_answers_its_operator() {
    let site = Site::new("[log]\nlevel = \"info\"\n");
    let mut server = site.serve();
    site.check("ctl help", 0, "unload NAME");
    site.check("ctl help load", 0, "--library");
    site.check("ctl status", 0, "running");
    site.check("ctl --json plugins", 0, "[]\n");
    site.check("ctl plugins --json", 0, "[]\n");
    site.check("ctl --socket run/medusa.sock config show", 0, "[host.limits]");
    site.check("ctl frobnicate", 2, "there is no command");
    site.check("ctl unload", 2, "usage: unload NAME");
    site.check("ctl unload nobody", 1, "nobody");
    site.check("ctl log level trace", 0, "trace");
    site.check("ctl log level", 0, "trace");
    let status: serde_json::Value =
        serde_json::from_slice(&site.medusa("ctl --json status").stdout).unwrap();
    assert_eq!(status["pid"], server.child.id());
    site.check("ctl shutdown", 0, "draining");
    assert_eq!(server.wait().code(), Some(0));
    assert!(!server.socket.exists());
}

#[test]
fn the_socket_is_its_owners_alone() {
    let site = Site::new("");
    let server = site.serve();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&server.socket), mode(server.socket.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn every_command_leaves_a_line_in_the_audit_and_no_secret() {
    let site = Site::new("[log]\nlevel = \"error\"\n");
    let _server = site.serve();
    site.check("ctl load x --library nowhere --set password=hunter2", 1, "x");
    let log = site.check("ctl log 50", 0, "load x --library nowhere --set password=(not shown)");
    let line = log.lines().find(|line| line.contains("load x")).unwrap();
    assert!(
        line.contains("audit")
            && line.contains("uid=")
            && line.contains("pid=")
            && line.contains("exit=1"),
        "{line}"
    );
    assert!(!log.contains("hunter2"), "{log}");
}

#[test]
fn an_over_long_line_is_refused() {
    let site = Site::new("[host.limits]\nmonitor_line_bytes_max = 1000\n");
    let server = site.serve();
    let mut stream = UnixStream::connect(&server.socket).unwrap();
    // The host may hang up before it has read all.
    let _ = stream.write_all(&[b'x'; 5000]);
    let answer: Vec<String> = BufReader::new(stream).lines().map_while(Result::ok).collect();
    assert!(
        answer[0].contains("monitor_line_bytes_max") && answer[1] == "{\"exit\":2}",
        "{answer:?}"
    );
    site.check(&format!("ctl unload {}", "x".repeat(2000)), 2, "monitor_line_bytes_max");
    site.check("ctl status", 0, "running");
}

#[test]
fn signals_end_it_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let site = Site::new("");
        let mut server = site.serve();
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{signal:?}");
        assert!(!server.socket.exists());
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_respected() {
    let site = Site::new("");
    let mut server = site.serve();
    site.check("serve --config medusa.toml", 1, "another medusa is listening");
    site.check("ctl status", 0, "running");
    server.signal(Signal::KILL);
    assert_eq!(server.wait().signal(), Some(9));
    assert!(server.socket.exists());
    site.check("ctl status", 1, "no medusa is listening on");
    let mut server = site.serve();
    site.check("ctl shutdown", 0, "");
    assert!(server.wait().success());
}

#[test]
fn the_log_can_be_followed() {
    let site = Site::new("");
    let _server = site.serve();
    let mut command = Command::new(MEDUSA);
    command.current_dir(site.folder.path()).args(["ctl", "log", "follow"]);
    let mut follow = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    let reader =
        thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    until("a line comes", || {
        site.check("ctl status", 0, "running");
        receiver.try_iter().any(|line| line.contains("audit") && line.contains("status"))
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
    drop(receiver);
    // It ends with an error if it had one more line for us.
    let _ = reader.join().unwrap();
}

#[test]
fn the_interactive_monitor_takes_a_command_a_line() {
    let site = Site::new("");
    let _server = site.serve();
    let mut command = Command::new(MEDUSA);
    command.current_dir(site.folder.path()).args(["monitor", "--socket", "run/medusa.sock"]);
    let mut monitor = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let typed = b"status\n\nhelp 'log' \"level\"\nbad 'quote\nfrobnicate\nquit\nstatus\n";
    monitor.stdin.take().unwrap().write_all(typed).unwrap();
    let output = monitor.wait_with_output().unwrap();
    let (out, err) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(
        out.contains("running") && out.contains("log level [LEVEL]") && !out.contains("medusa>"),
        "{out}"
    );
    assert!(err.contains("nothing closes the '") && err.contains("frobnicate"), "{err}");
    assert_eq!((output.status.code(), out.matches("blocking jobs").count()), (Some(2), 1));
}

#[test]
fn mistakes_in_the_configuration_are_shown_with_their_lines() {
    let site = Site::new(
        "[host]\nplugin_dri = \"x\"\n[[plugin]]\nname = \"a\"\nlibrary = \"x\"\nlisten = \"80\"\n",
    );
    let text = site.check("check", 1, "--> medusa.toml:2:1");
    assert!(
        text.contains("did you mean `plugin_dir`?") && text.contains("medusa.toml:6:10"),
        "{text}"
    );
    assert!(text.contains("2 mistakes"), "{text}");
    site.check("serve --config medusa.toml", 1, "did you mean `plugin_dir`?");
    site.check("check --config none.toml", 1, "cannot read the configuration");
    fs::create_dir(site.folder.path().join("plugins")).unwrap();
    fs::write(site.folder.path().join("plugins/x.so"), "not a library").unwrap();
    fs::write(
        site.folder.path().join("medusa.toml"),
        "[[plugin]]\nname = \"a\"\nlibrary = \"x\"\n",
    )
    .unwrap();
    site.check("check --config medusa.toml", 1, "medusa.toml:3:11");
    fs::remove_file(site.folder.path().join("plugins/x.so")).unwrap();
    site.check("check --config medusa.toml", 0, "fine, 1 instance");
}

#[test]
fn the_command_line_has_its_exit_statuses() {
    let site = Site::new("");
    site.check("--version", 0, env!("CARGO_PKG_VERSION"));
    site.check("frobnicate", 2, "unrecognized");
    site.check("ctl", 2, "COMMAND");
    site.check("ctl status", 1, "start it with `medusa serve");
    site.check("plugin inspect medusa.toml", 1, "cannot inspect medusa.toml");
    site.check("passwd", 1, "the password is empty");
}

#[test]
fn a_broken_configuration_does_not_lock_the_operator_out() {
    let site = Site::new("");
    let _server = site.serve();
    fs::write(site.folder.path().join("medusa.toml"), "[host\nnonsense = = 1\n").unwrap();
    site.check("ctl status", 0, "running");
    site.check("ctl config check", 1, "not TOML");
    site.check("ctl config apply", 1, "not TOML");
}
