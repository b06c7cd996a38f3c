//! A plugin that takes the process down: it goes on in place, without that plugin, and what rested lives on.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant, SystemTime},
};

use medusa_tests::{Client, Folder, Server, wait_for, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// Connections of HTTP and of `echo` that rest; half of each.
const PARKED: usize = 1000;
/// Connections that are in the middle of a request.
const ACTIVE: usize = 50;

fn configuration(limits: &str, bad: &[&str]) -> String {
    let bad = bad.iter().map(|name| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nlibrary = \"unruly\"\nattach = \"web\"\npath = \"/{name}\"\n\
             listen = [\"127.0.0.1:0\"]\n"
        )
    });
    let bad: String = bad.collect();
    format!(
        "[host.limits]\n{limits}\n\
         [[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\npark_after = \"20 ms\"\n\
         [[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\n\
         [[plugin]]\nname = \"echo\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n{bad}"
    )
}

fn start(limits: &str, bad: &[&str]) -> Server {
    Folder::new().start(&configuration(limits, bad))
}

/// A connection of `echo` with what it was told of it.
struct Echo(TcpStream);

impl Echo {
    fn connect(address: SocketAddr) -> Echo {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
        Echo(stream)
    }

    #[track_caller]
    fn says_back(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("it is open");
        let mut back = vec![0; text.len()];
        self.0.read_exact(&mut back).expect("it is said back");
        assert_eq!(String::from_utf8_lossy(&back), text);
    }
}

/// Waits until so many connections rest.
#[track_caller]
fn rest(server: &Server, count: usize) {
    wait_until("the connections to rest", PATIENCE, || {
        let all = server.ctl_json(["connections"]);
        let all = all.as_array().cloned().unwrap_or_default();
        all.iter().filter(|it| it["state"] == "parked").count() == count
    });
}

/// Has the plugin do it, and waits until somebody is answered again. Answers how long that was.
#[track_caller]
fn crash(server: &Server, name: &str, what: &str) -> Duration {
    let web = server.address("web");
    let mut culprit = TcpStream::connect(web).expect("it listens");
    culprit.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
    let begun = Instant::now();
    let request = format!("GET /{name}/unruly/{what} HTTP/1.1\r\nHost: test\r\n\r\n");
    culprit.write_all(request.as_bytes()).expect("it is open");
    // It is closed, without an answer.
    let mut answer = Vec::new();
    let _ = culprit.read_to_end(&mut answer);
    assert_eq!(String::from_utf8_lossy(&answer), "");
    wait_for("an answer", PATIENCE, || {
        let mut stream = TcpStream::connect(web).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(b"GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.contains("hello, number").then_some(())
    });
    begun.elapsed()
}

/// The reason why an instance is quarantined.
#[track_caller]
fn quarantined(server: &Server, name: &str) -> String {
    let plugins = server.plugin(name);
    assert_eq!(plugins.len(), 1, "{plugins:?}");
    assert_eq!(plugins[0]["state"], "quarantined", "{plugins:?}");
    plugins[0]["reason"].as_str().unwrap_or_default().to_owned()
}

/// What rests lives through this, and the plugin is named.
#[track_caller]
fn lives_on(limits: &str, what: &str, expected: &[&str]) {
    let server = start(limits, &["bad"]);
    let process = server.process().pid();
    let (web, echo) = (server.address("web"), server.address("echo"));
    let mut clients: Vec<_> = (0..PARKED / 2).map(|_| Client::connect(web)).collect();
    for client in &mut clients {
        assert_eq!(client.get("/hello").status, 200);
    }
    let mut echoes: Vec<_> = (0..PARKED / 2).map(|_| Echo::connect(echo)).collect();
    echoes.iter_mut().for_each(|echo| echo.says_back("before"));
    let active: Vec<_> = (0..ACTIVE)
        .map(|_| {
            let mut stream = TcpStream::connect(web).expect("it listens");
            stream.write_all(b"GET /hello HTTP/1.1\r\nHo").expect("it is open");
            stream
        })
        .collect();
    rest(&server, PARKED);
    let took = crash(&server, "bad", what);
    for client in &mut clients {
        assert_eq!(client.get("/hello").status, 200);
    }
    echoes.iter_mut().for_each(|echo| echo.says_back("after"));
    // What was being answered is cut, and not answered wrong.
    for mut stream in active {
        stream.set_read_timeout(Some(PATIENCE)).expect("it is a socket");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    let reason = quarantined(&server, "bad");
    println!(
        "{what}: served again after {took:?}, with {PARKED} parked and {ACTIVE} active connections: {reason}"
    );
    for part in expected {
        assert!(reason.contains(part), "{part} in: {reason}");
    }
    assert_eq!(server.process().pid(), process);
    assert_eq!(server.ctl_json(["status"])["crashes"], 1);
    // Where its handlers stood nobody else answers.
    assert_eq!(Client::connect(web).get("/bad/unruly/x").status, 503);
    let report = wait_for("the report", PATIENCE, || {
        let files = std::fs::read_dir(server.folder().path("state")).ok()?;
        let mut reports = files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok());
        reports.find(|text| text.contains("what seems to have called it") && text.ends_with('\n'))
    });
    assert!(report.contains(&reason), "{report}");
    // The operator ends it.
    server.ctl(["load", "bad"]).succeeded();
    assert_eq!(Client::connect(web).get("/bad/unruly/x").status, 200);
}

#[test]
fn a_segmentation_fault() {
    lives_on("", "segfault", &["SIGSEGV at address 0x8", "`bad`", "unruly", "fatal::segfault"]);
}

#[test]
fn an_abort() {
    lives_on("", "abort", &["SIGABRT", "`bad`", "called from", "unruly"]);
}

#[test]
fn a_stack_overflow() {
    lives_on("", "overflow", &["a stack overflow", "`bad`", "fatal::overflow"]);
}

#[test]
fn more_memory_than_there_is() {
    lives_on("", "exhaust", &["SIGABRT", "`bad`", "unruly"]);
}

#[test]
fn a_loop_without_end() {
    lives_on("stall_ms_max = \"500 ms\"", "spin", &["stood still", "`bad`", "fatal::do_now"]);
}

#[test]
fn a_fault_in_a_blocking_job() {
    lives_on("", "job-segfault", &["SIGSEGV", "`bad`", "fatal::segfault"]);
}

#[test]
fn a_stack_overflow_in_a_blocking_job() {
    lives_on("", "job-overflow", &["a stack overflow", "`bad`", "fatal::overflow"]);
}

#[test]
fn a_stack_overflow_on_a_thread_of_the_plugins_own() {
    lives_on("", "thread-overflow", &["a stack overflow", "`bad`", "fatal::overflow"]);
}

#[test]
fn a_stack_overflow_on_a_thread_that_the_host_knows_nothing_of() {
    lives_on("", "stray-overflow", &["a stack overflow", "`bad`", "fatal::overflow"]);
}

#[test]
fn a_fault_on_a_thread_that_the_host_knows_nothing_of() {
    lives_on("", "stray-segfault", &["SIGSEGV", "`bad`", "fatal::segfault"]);
}

#[test]
fn one_after_the_other_is_fenced_off_and_the_fourth_within_a_minute_ends_the_process() {
    let mut server = start("", &["a", "b", "c", "d"]);
    let mut echo = Echo::connect(server.address("echo"));
    echo.says_back("before");
    for (name, count) in [("a", 1), ("b", 2), ("c", 3)] {
        rest(&server, 1);
        crash(&server, name, "segfault");
        assert!(quarantined(&server, name).contains(&format!("`{name}`")));
        assert_eq!(server.ctl_json(["status"])["crashes"], count);
        echo.says_back("after");
    }
    for name in ["a", "b", "c"] {
        quarantined(&server, name);
    }
    let mut culprit = TcpStream::connect(server.address("web")).unwrap();
    culprit.write_all(b"GET /d/unruly/abort HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let status = server.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{status:?}");
    server.wait_for_log("too often within a minute to go on");
}

#[test]
fn crashes_are_counted_over_an_upgrade_of_the_host_and_the_fourth_within_a_minute_ends_the_process()
{
    let mut server = start("", &["a", "b", "c", "d"]);
    for name in ["a", "b", "c"] {
        crash(&server, name, "segfault");
        quarantined(&server, name);
    }
    server.signal(rustix::process::Signal::USR2);
    server.wait_for_log("the host was upgraded");
    assert_eq!(server.ctl_json(["status"])["crashes"], 3);
    let mut culprit = TcpStream::connect(server.address("web")).unwrap();
    culprit.write_all(b"GET /d/unruly/abort HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let status = server.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{status:?}");
    server.wait_for_log("too often within a minute to go on");
}

#[test]
fn state_that_was_put_aside_is_there_after_a_crash() {
    let server = start("state_every_ms = \"20 ms\"", &["bad", "good"]);
    for expected in ["1\n", "2\n"] {
        assert_eq!(server.ctl(["good", "count"]).succeeded(), expected);
    }
    // The first that is seen may be one that was made before.
    for _ in 0..2 {
        let before = picture(&server);
        wait_until("another picture of what there is", PATIENCE, || picture(&server) != before);
    }
    crash(&server, "bad", "segfault");
    assert_eq!(server.ctl(["good", "count"]).succeeded(), "3\n");
}

/// When the process last wrote down what there is, in one of two memory files.
fn picture(server: &Server) -> Option<SystemTime> {
    let process = server.process();
    let all = process.descriptors().into_iter();
    let pictures = all.filter(|it| it.target.to_string_lossy().contains("medusa:picture"));
    let paths = pictures.map(|it| format!("/proc/{}/fd/{}", process.pid(), it.number));
    paths.filter_map(|path| std::fs::metadata(path).ok()?.modified().ok()).max()
}

#[test]
fn a_signal_from_outside_ends_the_process_as_ever() {
    let mut server = start("", &[]);
    server.signal(rustix::process::Signal::ABORT);
    let status = server.wait();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "{status:?}");
}

#[test]
fn what_has_come_through_an_upgrade_of_the_host_lives_through_a_crash() {
    let server = start("", &["bad"]);
    let (mut client, mut echo) =
        (Client::connect(server.address("web")), Echo::connect(server.address("echo")));
    assert_eq!(client.get("/hello").status, 200);
    echo.says_back("before");
    rest(&server, 2);
    server.signal(rustix::process::Signal::USR2);
    server.wait_for_log("the host was upgraded");
    rest(&server, 2);
    crash(&server, "bad", "segfault");
    echo.says_back("after");
    assert_eq!(client.get("/hello").status, 200);
    quarantined(&server, "bad");
}

#[test]
fn a_plugin_that_crashes_as_it_is_loaded_is_left_out() {
    let worse = "[[plugin]]\nname = \"worse\"\nlibrary = \"unruly\"\n[plugin.config]\npanic_at = \"crash-at-load\"\n";
    let last = "[[plugin]]\nname = \"last\"\nlibrary = \"echo\"\nlisten = [\"127.0.0.1:0\"]\n";
    // Whoever asks meanwhile is cut.
    let server = Folder::new().begin(&(configuration("", &[]) + worse + last));
    server.wait_for_log("in `worse`");
    wait_until("the last to be loaded", PATIENCE, || server.plugin("last").len() == 1);
    Echo::connect(server.address("last")).says_back("x");
    Echo::connect(server.address("echo")).says_back("x");
    let failed = &server.plugin("worse")[0];
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["reason"].as_str().unwrap_or_default().contains("SIGSEGV"), "{failed}");
    assert_eq!(server.ctl_json(["status"])["crashes"], 1);
}
