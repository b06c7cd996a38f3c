//! Programs that pass, and fail once the process is theirs: it goes back to the one before, or, where the process has died of it, a copy
//! of it goes on. Nobody's connection is cut.

use std::path::{Path, PathBuf};

use medusa_tests::{Monitor, Process, Server, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    PATIENCE,
    held::{CONFIGURATION, Held, folder},
    lines::Lines,
    next::{children, copy, file, is_locked, no_children, order, program_of, script, upgrade},
};

fn config(fails: &str, how: &str) -> String {
    format!(
        "[host.limits]\ntakeover_ms_max = 3000\n\n{CONFIGURATION}\
         [[plugin]]\nname = \"wavers\"\nlibrary = \"fickle\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.limits]\nstart_ms_max = 1000\n\
         [plugin.config]\nlock = \"lock\"\nfails = \"{fails}\"\nhow = \"{how}\"\n"
    )
}

/// Whether the process is the one before when a program has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goes {
    /// The same, which has gone back.
    Back,
    /// A copy of it.
    Over,
}

/// A server whose `wavers`, which goes over after some and before others, fails so in a program that is called `bad`.
pub(crate) struct Failing {
    // Before the server, which drains until they have ended.
    pub(crate) held: Held,
    counter: Lines,
    lines: u64,
    count: u64,
    pub(crate) server: Server,
    bad: PathBuf,
    pid: u32,
    copy: Option<Left>,
}

/// A copy that has taken over, and that nobody else ends where the test fails.
struct Left(u32);

impl Drop for Left {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(pid) = Pid::from_raw(self.0.cast_signed())
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Failing {
    #[track_caller]
    pub(crate) fn of(fails: &str, how: &str) -> Failing {
        let server = folder().start(&config(fails, how));
        let counter = Lines::connect(server.address("wavers"));
        let bad = copy(server.folder(), "bad");
        let held = Held::of(&server);
        let pid = server.process().pid();
        Failing { held, counter, lines: 0, count: 0, server, bad, pid, copy: None }
    }

    /// This is the process that serves.
    fn is_now(&mut self, pid: u64) {
        let pid = u32::try_from(pid).expect("it is a process");
        self.copy = (pid != self.server.process().pid()).then_some(Left(pid));
        self.pid = pid;
    }

    /// All that there was before goes on.
    #[track_caller]
    pub(crate) fn goes_on(&mut self) {
        self.held.answer();
        self.lines += 1;
        self.counter.says("count", &self.lines.to_string());
        self.count += 1;
        assert_eq!(self.server.ctl(["wavers", "count"]).succeeded(), format!("{}\n", self.count));
        assert!(is_locked(&self.server), "somebody has the lock");
        assert_eq!(self.server.ctl_json(["status"])["pid"], self.pid);
    }

    /// Has it go on as a program that fails, and answers what was said.
    #[track_caller]
    pub(crate) fn fails(&mut self, binary: &Path, goes: Goes, reason: &str) {
        self.goes_on();
        let program = program_of(Process::of(self.pid));
        let said = order(&self.server, Some(binary));
        let (before, now) = (self.pid, self.server.ctl_json(["status"])["pid"].as_u64());
        let now = now.expect("a number");
        self.is_now(now);
        let log = self.server.log();
        assert_eq!(said.status, 1, "{goes:?}: {said:?}\n{log}");
        assert!(said.stderr.contains("the host goes on as it"), "{said:?}\n{log}");
        assert!(said.stderr.contains(reason), "no `{reason}` in {said:?}\n{log}");
        assert!(log.contains(reason), "no `{reason}` in\n{log}");
        match goes {
            Goes::Back => assert_eq!(now, u64::from(before), "{said:?}\n{log}"),
            Goes::Over => assert_ne!(now, u64::from(before), "{said:?}"),
        }
        assert_eq!(program_of(Process::of(self.pid)), program, "the program before");
        self.goes_on();
        no_children(Process::of(self.pid));
    }

    /// It can still go on as a good program.
    #[track_caller]
    pub(crate) fn a_good_one_follows(&mut self) {
        let good = copy(self.server.folder(), "good");
        upgrade(&self.server, &good);
        assert_eq!(program_of(Process::of(self.pid)), good);
        self.goes_on();
        no_children(Process::of(self.pid));
    }

    /// It ends, as whatever process it is by now.
    #[track_caller]
    pub(crate) fn ends(mut self) {
        if self.pid == self.server.process().pid() {
            return;
        }
        let first = self.server.wait();
        assert!(!first.success(), "it has died: {first:?}");
        drop((self.held, self.counter));
        let pid = Pid::from_raw(self.pid.cast_signed()).expect("it is above zero");
        kill_process(pid, Signal::TERM).expect("it is there");
        wait_until("it to end", PATIENCE, || {
            !std::path::Path::new(&format!("/proc/{}/fd/0", self.pid)).exists()
        });
        let log = self.server.log();
        assert!(log.contains("medusa has stopped"));
        assert!(!log.contains("pinned"), "it has unmapped what it had:\n{log}");
    }
}

#[track_caller]
fn it_fails(fails: &str, how: &str, goes: Goes, reason: &str) {
    let mut failing = Failing::of(fails, how);
    let bad = failing.bad.clone();
    failing.fails(&bad, goes, reason);
    if goes == Goes::Back {
        failing.fails(&bad, goes, reason);
    }
    failing.a_good_one_follows();
    failing.ends();
}

const ANY: &str = "";

macro_rules! failures {
    ($($name:ident: $fails:literal $how:literal $goes:ident $reason:expr;)*) => {
        $(#[test]
        fn $name() {
            it_fails($fails, $how, Goes::$goes, $reason);
        })*
    };
}

failures! {
    a_plugin_that_refuses_to_load_has_it_go_back: "load" "refuse" Back "load is to fail";
    a_plugin_that_panics_in_load_has_it_go_back: "load" "panic" Back ANY;
    a_plugin_that_blocks_in_load_has_it_go_back: "load" "block" Back "did not come to serve";
    a_plugin_that_refuses_to_start_has_it_go_back: "start" "refuse" Back "start is to fail";
    a_plugin_that_panics_in_start_has_it_go_back: "start" "panic" Back ANY;
    a_plugin_that_hangs_in_start_has_it_go_back: "start" "hang" Back "start";
    a_plugin_that_blocks_in_start_has_it_go_back: "start" "block" Back "did not come to serve";
    a_plugin_that_overflows_the_stack_in_start_has_it_go_back: "start" "segv" Back "did not come to serve";
    a_plugin_that_aborts_in_start_has_it_go_back: "start" "abort" Back "did not come to serve";
    a_plugin_that_ends_the_process_in_start_has_a_copy_go_on: "start" "exit" Over ANY;
    a_plugin_that_cannot_acquire_has_it_go_back: "acquire" "refuse" Back "acquire is to fail";
    a_plugin_that_panics_in_acquire_has_it_go_back: "acquire" "panic" Back ANY;
    a_plugin_that_hangs_in_acquire_has_it_go_back: "acquire" "hang" Back ANY;
    a_plugin_that_cannot_read_its_state_has_it_go_back: "import" "refuse" Back "import is to fail";
    a_plugin_that_panics_over_its_state_has_it_go_back: "import" "panic" Back ANY;
    a_plugin_that_blocks_over_its_state_has_it_go_back: "import" "block" Back "did not come to serve";
    a_plugin_that_crashes_over_its_state_has_it_go_back: "import" "segv" Back "did not come to serve";
    a_plugin_that_cannot_read_a_session_has_it_go_back: "session" "refuse" Back "session is to fail";
    a_plugin_that_panics_over_a_session_has_it_go_back: "session" "panic" Back ANY;
    a_plugin_that_blocks_over_a_session_has_it_go_back: "session" "block" Back "did not come to serve";
    a_plugin_that_crashes_over_a_session_has_it_go_back: "session" "abort" Back "did not come to serve";
}

/// A program that is not even medusa when the process is its own.
#[track_caller]
fn a_stranger_fails(rest: &str) {
    let mut failing = Failing::of("nowhere", "refuse");
    let stranger = script(failing.server.folder(), "stranger", rest);
    failing.fails(&stranger, Goes::Over, "the new program ended, or stood still, before it served");
    failing.a_good_one_follows();
    // And once more, from the process that is the server now.
    failing.fails(&stranger, Goes::Over, "the new program ended, or stood still, before it served");
    failing.ends();
}

#[test]
fn a_program_that_ends_has_a_copy_go_on() {
    a_stranger_fails("exit 1");
}

#[test]
fn a_program_that_is_killed_has_a_copy_go_on() {
    a_stranger_fails("kill -SEGV $$");
}

#[test]
fn a_program_that_hangs_is_ended_and_a_copy_goes_on() {
    a_stranger_fails("while :; do sleep 0.1; done");
}

#[test]
fn a_program_that_hangs_and_ignores_the_alarm_is_ended_and_a_copy_goes_on() {
    a_stranger_fails("trap '' ALRM\nwhile :; do sleep 0.1; done");
}

#[test]
fn what_had_begun_when_a_program_failed_is_finished() {
    let large: Vec<u8> = (0..8 * 1024 * 1024_u32).map(|at| (at / 7) as u8).collect();
    for (fails, how, goes) in [("start", "refuse", Goes::Back), ("start", "exit", Goes::Over)] {
        let mut failing = Failing::of(fails, how);
        failing.server.folder().write("site/large", &large);
        let mut slow = medusa_tests::Client::connect(failing.server.address("web"));
        slow.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
        let mut read = slow.read_some(1000);
        let bad = failing.bad.clone();
        let said = order(&failing.server, Some(&bad));
        assert_eq!(said.status, 1, "{said:?}");
        failing.held.answer();
        let head = read.windows(4).position(|four| four == b"\r\n\r\n").expect("it has come") + 4;
        while read.len() < head + large.len() {
            let more = slow.read_some(64 * 1024);
            assert!(!more.is_empty(), "{goes:?}: it was cut at {}", read.len());
            read.extend(more);
        }
        assert!(read.ends_with(&large[large.len() / 2..]), "every byte is right");
        drop(slow);
        let now = failing.server.ctl_json(["status"])["pid"].as_u64().expect("a number");
        assert_eq!(now == u64::from(failing.pid), goes == Goes::Back);
        failing.is_now(now);
        failing.goes_on();
        no_children(Process::of(failing.pid));
        failing.ends();
    }
}

#[test]
fn a_peer_that_goes_while_a_program_fails_takes_nobody_along() {
    let mut failing = Failing::of("session", "refuse");
    failing.goes_on();
    let leaves: Vec<_> = (0..20)
        .map(|_| {
            let client = medusa_tests::Client::connect(failing.server.address("lines"));
            client.stream().set_nodelay(true).expect("it can be");
            client
        })
        .collect();
    wait_until("they to be accepted", PATIENCE, || {
        let all = failing.server.ctl_json(["connections", "lines"]);
        all.as_array().is_some_and(|all| all.len() >= leaves.len())
    });
    // They go when the process has been frozen, and before what follows it has looked.
    let real = failing.bad.display().to_string();
    let waits = format!(
        "#!/bin/sh\nif [ \"$1\" = preflight ]; then exec '{real}' \"$@\"; fi\ncd '{0}'\necho >begun\nwhile [ ! -e go ]; do sleep 0.01; done\nexec '{real}' \"$@\"\n",
        failing.server.folder().path("").display()
    );
    let waits = file(failing.server.folder(), "waits", waits.as_bytes(), 0o755);
    let mut command = failing.server.ctl_command();
    command.args(["upgrade-host", "--binary"]).arg(&waits).stderr(std::process::Stdio::piped());
    let asked = command.spawn().expect("it can be run");
    wait_until("it to be under way", PATIENCE, || failing.server.folder().path("begun").exists());
    leaves.into_iter().for_each(medusa_tests::Client::reset);
    failing.server.folder().write("go", "");
    let said = asked.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("session is to fail"), "{said}\n{}", failing.server.log());
    failing.goes_on();
    failing.held.go_on(&failing.server);
    failing.a_good_one_follows();
}

#[test]
fn after_a_failure_the_path_is_where_it_was() {
    // An installation replaces the file: the running program has no name then.
    let folder = folder();
    let program = copy(&folder, "medusa");
    let server = folder.with_program(&program).start(CONFIGURATION);
    let mut held = Held::of(&server);
    let pid = server.process().pid();
    script(server.folder(), "medusa", "exit 1");
    // Nobody asks with the file that is broken by now.
    let mut monitor = Monitor::of(&server);
    monitor.ask(["upgrade-host"]).refused("before it served");
    let now = Monitor::of(&server).json(["status"])["pid"].as_u64().expect("a number");
    assert_ne!(now, u64::from(pid));
    held.answer();
    copy(server.folder(), "medusa");
    Monitor::of(&server).ask(["upgrade-host"]).succeeded();
    let now = Process::of(u32::try_from(now).expect("a process"));
    assert_eq!(program_of(now), program);
    held.answer();
    drop(held);
    kill_process(Pid::from_raw(now.pid().cast_signed()).expect("it is one"), Signal::TERM)
        .expect("it is there");
    let mut server = server;
    server.wait();
    wait_until("it to end", PATIENCE, || !Path::new(&format!("/proc/{}/fd/0", now.pid())).exists());
}

#[test]
fn after_it_went_back_the_path_is_where_it_was() {
    let folder = folder();
    let program = copy(&folder, "bad");
    // The first program is no bad one: the plugin is told of another name.
    let server = folder
        .with_program(&program)
        .start(&config("start", "refuse").replace("how =", "program = \"worse\"\nhow ="));
    let mut held = Held::of(&server);
    let worse = copy(server.folder(), "worse");
    copy(server.folder(), "bad");
    order(&server, Some(&worse)).refused("start is to fail");
    held.go_on(&server);
    let said = order(&server, None);
    assert!(said.succeeded().starts_with("upgraded from "), "{said:?}");
    assert_eq!(program_of(server.process()), program);
    held.go_on(&server);
}

#[test]
fn failures_leave_no_descriptor_and_no_child() {
    let mut failing = Failing::of("import", "panic");
    let bad = failing.bad.clone();
    failing.fails(&bad, Goes::Back, ANY);
    Held::rest(&failing.server);
    let before = failing.server.process().descriptors().len();
    for _ in 0..5 {
        failing.fails(&bad, Goes::Back, ANY);
    }
    Held::rest(&failing.server);
    wait_until("the descriptors to be those of before", PATIENCE, || {
        failing.server.process().descriptors().len() <= before
    });
    assert_eq!(children(failing.server.process()), [] as [u32; 0]);
    failing.a_good_one_follows();
}
