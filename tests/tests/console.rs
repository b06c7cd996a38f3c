//! `medusa monitor`: typed at on a terminal of its own, and fed with lines.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use medusa_tests::{CtlOutput, Server, tool_from, wait_for, wait_until};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

const WEB: &str = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n";

const INTERRUPT: &str = "\u{3}";
const END: &str = "\u{4}";
const UP: &str = "\u{1b}[A";

/// `medusa monitor` on a terminal.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    /// What the terminal shows, escape sequences and all.
    screen: Arc<Mutex<String>>,
    /// How much of it has been looked at.
    seen: usize,
}

impl Terminal {
    /// `None` where there is no program that makes a terminal.
    fn open(server: &Server, home: &Path) -> Option<Self> {
        let script = tool_from("script", "bsdutils")?;
        let medusa = server.folder().program().display().to_string();
        let line = format!("exec {medusa} monitor --socket {}", server.socket().display());
        let mut child = Command::new(script)
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env("HOME", home)
            .env_remove("XDG_STATE_HOME")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script can be run");
        let keyboard = child.stdin.take().expect("it was asked for");
        let mut output = child.stdout.take().expect("it was asked for");
        let screen = Arc::new(Mutex::new(String::new()));
        let shown = screen.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                let text = String::from_utf8_lossy(&piece[..length]);
                shown.lock().expect("nobody panics with it").push_str(&text);
            }
        });
        let mut terminal = Self { child, keyboard, screen, seen: 0 };
        terminal.shows("medusa> ");
        Some(terminal)
    }

    fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// Waits until something is shown behind what was looked at before.
    #[track_caller]
    fn shows(&mut self, part: &str) -> String {
        let seen = self.seen;
        let shown = wait_for(&format!("the terminal to show `{part}`"), PATIENCE, || {
            let screen = self.screen.lock().expect("nobody panics with it");
            let at = screen[seen..].find(part)?;
            Some(screen[seen..seen + at + part.len()].to_owned())
        });
        self.seen += shown.len();
        shown
    }

    #[track_caller]
    fn ends(mut self) {
        let status = wait_for("the session to end", PATIENCE, || {
            self.child.try_wait().expect("it can be asked")
        });
        assert_eq!(
            status.code(),
            Some(0),
            "{}",
            self.screen.lock().expect("nobody panics with it")
        );
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_session_is_typed_completed_and_remembered() {
    let server = Server::start(WEB);
    let home = server.folder().path("home");
    let Some(mut terminal) = Terminal::open(&server, &home) else { return };
    terminal.types("plugins\r");
    terminal.shows("running");
    terminal.shows("medusa> ");
    // What is typed at Tab comes from the server: a command, an instance, an option and a state.
    terminal.types("conn\t");
    terminal.shows("connections ");
    terminal.types("w\t");
    terminal.shows("web ");
    terminal.types("--sta\tpar\t");
    terminal.shows("--state ");
    terminal.shows("parked ");
    terminal.types("\r");
    terminal.shows("0 connections");
    terminal.types("help log\r");
    terminal.shows("log level");
    terminal.types("load x --library nothing --set password=geheim\r");
    terminal.shows("there is no such file");
    terminal.shows("medusa> ");
    terminal.types("xxxx");
    terminal.shows("x");
    terminal.types(INTERRUPT);
    terminal.shows("\r\n");
    terminal.shows("medusa> ");
    terminal.types("log 'no end\r");
    terminal.shows("nothing closes the '");
    terminal.types("status\r");
    terminal.shows("configuration");
    terminal.shows("medusa> ");
    terminal.types(END);
    terminal.ends();

    let history = home.join(".local/state/medusa/history");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(
        (mode(&history), mode(history.parent().expect("it lies in a folder"))),
        (0o600, 0o700)
    );
    let kept = fs::read_to_string(&history).expect("it is text");
    assert!(
        kept.contains("connections web --state parked") && kept.ends_with("status\n"),
        "{kept}"
    );
    assert!(!kept.contains("geheim") && !kept.contains("xxx"), "{kept}");
    // Tab is pressed too often for the log.
    assert!(!server.log().contains("complete"), "{}", server.log());

    // The next session has what this one typed.
    let Some(mut terminal) = Terminal::open(&server, &home) else { return };
    terminal.types(UP);
    terminal.shows("status");
    terminal.types("\r");
    terminal.shows("configuration");
    terminal.shows("medusa> ");
    terminal.types("quit\r");
    terminal.ends();
}

#[test]
fn an_interrupt_ends_what_runs_and_not_the_session() {
    let server = Server::start(WEB);
    let Some(mut terminal) = Terminal::open(&server, &server.folder().path("home")) else { return };
    for _ in 0..2 {
        terminal.types("log follow\r");
        wait_until("the log to be followed", PATIENCE, || {
            server.ctl(["log", "level", "info"]).succeeded();
            let screen = terminal.screen.lock().expect("nobody panics with it");
            screen[terminal.seen..].contains("log level info")
        });
        terminal.types(INTERRUPT);
        terminal.shows("medusa> ");
    }
    terminal.types("status\r");
    terminal.shows("configuration");
    terminal.shows("medusa> ");
    terminal.types(END);
    terminal.ends();
}

#[test]
fn a_host_that_goes_and_comes_back_is_found_again() {
    let mut server = Server::start(WEB);
    let Some(mut terminal) = Terminal::open(&server, &server.folder().path("home")) else { return };
    server.restart();
    terminal.types("status\r");
    terminal.shows("connected again");
    terminal.shows("configuration");
    terminal.shows("medusa> ");

    server.signal(Signal::TERM);
    assert!(server.wait().success());
    terminal.types("status\r");
    terminal.shows("no medusa is listening");
    terminal.shows("Enter tries to connect again");
    terminal.shows("medusa (away)> ");
    terminal.types(END);
    terminal.ends();
}

#[track_caller]
fn fed(server: &Server, lines: &str) -> CtlOutput {
    let socket = server.socket();
    let words = ["monitor".as_ref(), "--socket".as_ref(), socket.as_os_str()];
    server.folder().medusa(words, lines)
}

#[test]
fn lines_from_a_pipe_are_run_one_after_the_other() {
    let mut server = Server::start(WEB);
    let all = fed(&server, "plugins\n\n# a remark\nhelp kill\nstatus");
    assert!(all.succeeded().contains("running") && all.stdout.contains("kill ID"), "{all:?}");
    assert!(all.stdout.contains("configuration") && !all.stdout.contains("medusa>"), "{all:?}");
    assert!(!all.stdout.contains('\u{1b}'), "{all:?}");

    let some = fed(&server, "unload nobody\nstatus\n");
    assert!(some.status == 1 && some.stdout.contains("configuration"), "{some:?}");
    assert_eq!(fed(&server, "frobnicate\nunload nobody\nstatus\n").status, 2);
    assert_eq!(fed(&server, "status 'x\nstatus\n").status, 2);
    assert_eq!(fed(&server, "status\nquit\nfrobnicate\n").status, 0);
    assert_eq!(fed(&server, "").status, 0);

    // A host that goes in between ends it: the rest would fail as well.
    let mut medusa = Command::new(server.folder().program())
        .args(["monitor", "--socket"])
        .arg(server.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be run");
    let mut lines = medusa.stdin.take().expect("it was asked for");
    lines.write_all(b"shutdown\n").expect("it reads");
    assert!(server.wait().success());
    lines.write_all(b"status\nstatus\n").expect("it reads");
    drop(lines);
    let ended = medusa.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stdout).contains("draining"), "{ended:?}");
}
