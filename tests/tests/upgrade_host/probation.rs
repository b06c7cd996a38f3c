//! Programs that come to serve, and fail in the host's own code soon after: the one before is back in their place.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use medusa_tests::{Client, Server, wait_until};

use crate::{
    PATIENCE,
    held::{CONFIGURATION, folder},
    lines::Lines,
    next::{copy, no_children, program_of, script, upgrade},
};

/// A library that fails on the loop when it is told to by a signal, in a program that is called `bad`. Each is a real fault: of memory,
/// an abort, a loop, and a clock that cannot be read, over which the host panics.
const FAILS: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile int clock_fails;

static void fail(int number) {
    switch (number - SIGRTMIN) {
    case 3: *(volatile int *)8 = 1; break;
    case 4: abort();
    case 5: clock_fails = 1; break;
    case 6: for (;;) { }
    }
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    if (clock_fails && getpid() == gettid()) {
        clock_fails = 0;
        errno = EINVAL;
        return -1;
    }
    return real(clock, time);
}

__attribute__((constructor)) static void begin(void) {
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length < 4 || memcmp(path + length - 4, "/bad", 4)) return;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (int number = 3; number <= 6; number++) {
        struct sigaction action = { .sa_handler = fail, .sa_flags = SA_NODEFER };
        sigaction(SIGRTMIN + number, &action, 0);
    }
}
"#;

/// What the program is to do, as a signal's number beyond the first of them.
#[derive(Clone, Copy)]
enum Fails {
    Segfault = 3,
    Abort,
    Panic,
    Stall,
}

/// Of the C library's: it keeps two of them to itself.
const SIGRTMIN: i32 = 34;

/// A server, the connections that live on, and a program that fails when it is told to.
struct OnProbation {
    server: Server,
    web: Client,
    echo: Lines,
    bad: PathBuf,
    old: PathBuf,
}

impl OnProbation {
    #[track_caller]
    fn begin(limits: &str, more: &str) -> OnProbation {
        let config = format!("[host.limits]\n{limits}\n{CONFIGURATION}{more}");
        let config = config.replacen(
            "listen = [\"127.0.0.1:0\"]\n",
            "listen = [\"127.0.0.1:0\"]\n[plugin.config]\npark_after = \"20 ms\"\n",
            1,
        );
        let server = folder().start(&config);
        server.folder().write("fails.c", FAILS);
        let library = server.folder().path("fails.so");
        let built = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(server.folder().path("fails.c"))
            .arg("-ldl")
            .output()
            .expect("a compiler is there");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let program = copy(server.folder(), "bad");
        let rest = format!(
            "export LD_PRELOAD='{}'\nexec '{}' \"$@\"",
            library.display(),
            program.display()
        );
        script(server.folder(), "wrapper", &rest);
        let mut web = Client::connect(server.address("web"));
        assert_eq!(web.get("/small").status, 200);
        let mut echo = Lines::connect(server.address("lines"));
        echo.says("before", "before");
        let old = program_of(server.process());
        let mut this = OnProbation { server, web, echo, bad: program, old };
        this.upgrade();
        this
    }

    #[track_caller]
    fn upgrade(&mut self) {
        upgrade(&self.server, &self.server.folder().path("wrapper"));
        self.runs(&self.bad.clone());
    }

    /// It runs this program, and serves whoever was and is connected.
    #[track_caller]
    fn runs(&mut self, program: &Path) {
        assert_eq!(program_of(self.server.process()), program, "{}", self.server.log());
        assert_eq!(self.web.get("/small").status, 200);
        self.echo.says("a line", "a line");
        assert_eq!(Client::connect(self.server.address("web")).get("/small").status, 200);
        assert_eq!(self.server.ctl_json(["status"])["pid"], self.server.process().pid());
        self.rests();
    }

    /// Waits until both connections rest.
    #[track_caller]
    fn rests(&self) {
        wait_until("the connections to rest", PATIENCE, || {
            let all = self.server.ctl_json(["connections"]);
            all.as_array().is_some_and(|all| {
                all.len() == 2 && all.iter().all(|connection| connection["state"] == "parked")
            })
        });
    }

    #[track_caller]
    fn fail(&self, how: Fails) {
        let (number, pid) = (SIGRTMIN + how as i32, self.server.process().pid());
        let killed = Command::new("kill").args([format!("-{number}"), pid.to_string()]).status();
        assert!(killed.expect("it can be run").success());
    }

    #[track_caller]
    fn is_back(&mut self, reason: &str) {
        self.server.wait_for_log("the host is back at");
        let old = self.old.clone();
        self.runs(&old);
        let status = self.server.ctl_json(["status"]);
        let back = status["back"].as_str().unwrap_or_default().to_owned();
        assert!(back.contains(reason), "{reason} in {status}\n{}", self.server.log());
        assert_eq!(status["crashes"], 1, "{status}");
        let plugins = self.server.ctl_json(["plugins"]);
        let all = plugins.as_array().expect("an array");
        assert!(all.iter().all(|it| it["state"] == "running"), "{plugins}");
        assert!(!self.has_way_back());
        no_children(self.server.process());
        let good = copy(self.server.folder(), "good");
        upgrade(&self.server, &good);
        self.runs(&good);
    }

    /// Whether the program before is open.
    fn has_way_back(&self) -> bool {
        let all = self.server.process().descriptors().into_iter();
        let old = fs::canonicalize(&self.old).expect("it is there");
        all.map(|it| it.target).any(|target| target == old)
            && program_of(self.server.process()) != old
    }
}

#[track_caller]
fn comes_back(limits: &str, how: Fails, reason: &str) {
    let mut on = OnProbation::begin(limits, "");
    assert!(on.has_way_back());
    assert!(on.server.ctl_json(["status"])["probation_ms"].as_u64().is_some());
    on.fail(how);
    on.is_back(reason);
}

#[test]
fn a_fault_of_memory_brings_the_old_program_back() {
    comes_back("", Fails::Segfault, "SIGSEGV at address 0x8");
}

#[test]
fn an_abort_brings_the_old_program_back() {
    comes_back("", Fails::Abort, "SIGABRT, an abort");
}

#[test]
fn a_panic_brings_the_old_program_back() {
    comes_back("", Fails::Panic, "a panic (");
}

#[test]
fn a_standstill_brings_the_old_program_back() {
    comes_back("stall_ms_max = \"1 s\"", Fails::Stall, "the loop stood still for");
}

#[test]
fn after_the_probation_the_old_program_is_let_go() {
    let mut on = OnProbation::begin("host_probation_ms = \"2 s\"", "");
    on.server.wait_for_log("the probation of the host's program is over, and the upgrade is kept");
    assert!(!on.has_way_back());
    assert!(on.server.ctl_json(["status"])["probation_ms"].is_null());
    on.fail(Fails::Segfault);
    on.server.wait_for_log("the host has crashed, and goes on");
    let bad = on.bad.clone();
    on.runs(&bad);
}

#[test]
fn a_plugin_that_crashes_within_the_probation_keeps_the_new_program() {
    let more = "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nattach = \"web\"\npath = \"/unruly\"\n\
                listen = [\"127.0.0.1:0\"]\n";
    let mut on = OnProbation::begin("", more);
    let mut culprit = Client::connect(on.server.address("web"));
    culprit.send("GET /unruly/unruly/segfault HTTP/1.1\r\nHost: test\r\n\r\n");
    on.server.wait_for_log("the host has crashed, and goes on");
    drop(culprit);
    let bad = on.bad.clone();
    on.runs(&bad);
    assert!(on.has_way_back(), "its probation goes on");
    // And a fault of its own brings the old one back still.
    on.fail(Fails::Segfault);
    on.server.wait_for_log("the host is back at");
    let old = on.old.clone();
    on.runs(&old);
}
