//! Connections that go over, and the figures that go on.

use std::fs;

use medusa_tests::{Levels, Monitor, Server, wait_until};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    PATIENCE,
    held::{Held, serve},
    lines::Lines,
    next::{again, copy, no_children, order, program_of, upgrade},
};

#[test]
fn every_kind_of_connection_goes_on_in_the_same_process() {
    let server = serve("");
    let mut held = Held::of(&server);
    let started = fs::read_to_string(format!("/proc/{}/stat", server.process().pid()));
    let since = |stat: &str| {
        stat.rsplit(") ").next().and_then(|it| it.split(' ').nth(19).map(str::to_owned))
    };
    let started = since(&started.expect("it runs"));
    for name in ["one", "two", "three"] {
        let next = copy(server.folder(), name);
        upgrade(&server, &next);
        assert_eq!(program_of(server.process()), next);
        held.go_on(&server);
    }
    let now = fs::read_to_string(format!("/proc/{}/stat", server.process().pid()));
    assert_eq!(since(&now.expect("it runs")), started, "the same process");
    no_children(server.process());
}

#[test]
fn a_signal_has_it_go_on_as_what_is_at_its_path_now() {
    let folder = crate::held::folder();
    let program = copy(&folder, "bin/medusa");
    let server = folder.with_program(&program).start(crate::held::CONFIGURATION);
    let mut held = Held::of(&server);
    for number in 1..4 {
        copy(server.folder(), "bin/medusa");
        server.signal(Signal::USR2);
        wait_until("the host to be upgraded", PATIENCE, || {
            server.log().matches("the host was upgraded").count() == number
        });
        assert_eq!(program_of(server.process()), program, "the file that is there now");
        held.go_on(&server);
    }
    let said = order(&server, None);
    assert!(said.succeeded().starts_with("upgraded from "), "{said:?}");
    held.go_on(&server);
}

#[test]
fn descriptors_mappings_and_threads_are_those_of_the_start() {
    // The pools get threads as there is work at the same time, so that each is to have one.
    let server = serve("[host.limits]\npool_threads = 1\n");
    let mut held = Held::of(&server);
    again(&server);
    held.go_on(&server);
    Held::rest(&server);
    no_children(server.process());
    let descriptors = at_rest(&server);
    let before = Levels::of(server.process());
    for _ in 0..10 {
        again(&server);
        held.go_on(&server);
    }
    Held::rest(&server);
    no_children(server.process());
    assert_eq!(at_rest(&server), descriptors);
    let now = Levels::of(server.process());
    assert_eq!((now.descriptors, now.threads), (before.descriptors, before.threads));
    // The heap is mapped in pieces, of which there are a few more or less.
    assert!(now.mappings <= before.mappings + 20, "{before:?} {now:?}");
    let images = |process: medusa_tests::Process| medusa_tests::images(process).len();
    assert_eq!(images(server.process()), 6, "one image of each instance");
}

#[test]
fn the_first_upgrade_leaves_no_descriptor_either() {
    // While it is on probation, the program before stays open.
    let server = serve("[host.limits]\nhost_probation_ms = 0\n");
    let mut held = Held::of(&server);
    Held::rest(&server);
    let before = at_rest(&server);
    again(&server);
    held.go_on(&server);
    Held::rest(&server);
    no_children(server.process());
    assert_eq!(at_rest(&server), before);
}

/// What is open, by kinds, when no session of the monitor is.
#[track_caller]
fn at_rest(server: &Server) -> Vec<String> {
    let pid = server.process().pid();
    let socket = server.socket().display().to_string();
    // As the system lists it: the one that listens, and one for each session.
    wait_until("the sessions of the monitor to end", PATIENCE, || {
        let all = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
        all.lines().filter(|line| line.ends_with(&socket)).count() == 1
    });
    let kind = |it: medusa_tests::Descriptor| {
        it.target.to_string_lossy().split(':').next().unwrap_or_default().to_owned()
    };
    let mut all: Vec<_> = server.process().descriptors().into_iter().map(kind).collect();
    all.sort();
    all
}

#[test]
fn what_the_host_counts_goes_on() {
    let server = serve("");
    let mut held = Held::of(&server);
    server.ctl(["reload", "lines"]).succeeded();
    held.answer();
    server.ctl(["load", "unruly", "--library", "unruly", "--listen", "127.0.0.1:0"]).succeeded();
    server.ctl(["unruly", "do", "panic"]).refused("the plugin panicked");
    // So that there are bytes of connections that are gone.
    assert_eq!(medusa_tests::Client::connect(server.address("web")).get("/small").status, 200);
    let (before, lines) = (server.ctl_json(["status"]), server.plugin("lines"));
    assert_eq!(lines[0]["generation"], 2);
    let stats_before = server.ctl_json(["stats"]);
    again(&server);
    let stats = server.ctl_json(["stats"]);
    for (before, after) in stats_before
        .as_array()
        .into_iter()
        .zip(stats.as_array())
        .flat_map(|(before, after)| before.iter().zip(after))
    {
        for figure in [
            "/received_bytes",
            "/sent_bytes",
            "/restarts",
            "/polls/count",
            "/polls/longest_ns",
            "/latency/count",
            "/latency/total_ns",
        ] {
            let (was, is) = (before.pointer(figure), after.pointer(figure));
            let (was, is) = (was.and_then(Value::as_u64), is.and_then(Value::as_u64));
            assert!(is >= was, "{}: {figure} was {was:?}, and is {is:?}", before["name"]);
        }
    }
    let web = |all: &Value| {
        let all = all.as_array().expect("an array");
        let web = all.iter().find(|it| it["name"] == "web").expect("it is there");
        ["/sent_bytes", "/polls/count", "/latency/count"]
            .map(|it| web.pointer(it).and_then(Value::as_u64))
    };
    assert!(web(&stats_before).iter().all(|figure| *figure > Some(0)), "{stats_before}");
    let after = server.ctl_json(["status"]);
    for figure in ["uptime_ms", "requests", "panics", "connections", "connections_total"] {
        let (before, after) = (before[figure].as_u64(), after[figure].as_u64());
        assert!(after >= before && before.is_some(), "{figure} was {before:?}, and is {after:?}");
    }
    assert_eq!(after["pid"], before["pid"]);
    let now = server.plugin("lines");
    assert!(now[0]["generation"].as_u64() > lines[0]["generation"].as_u64(), "{now:?}");
    assert_eq!(now.len(), 1, "{now:?}");
    held.answer();
    // What each connection has sent and got is known still.
    let all = Monitor::of(&server).json(["connections", "lines"]);
    let all = all.as_array().expect("an array");
    let bytes = "a line\n".len() as u64 * 3;
    assert!(all.iter().any(|it| it["received_bytes"] == bytes), "{bytes} in {all:#?}");
}

#[test]
fn numbers_of_connections_never_come_again() {
    let server = serve("");
    let id = || {
        let mut lines = Lines::connect(server.address("lines"));
        lines.says("x", "x");
        let all = Monitor::of(&server).json(["connections", "lines"]);
        let all = all.as_array().expect("an array").iter();
        all.filter_map(|it| it["id"].as_u64()).max().expect("one is there")
    };
    let mut last = 0;
    for _ in 0..4 {
        let (one, other) = (id(), id());
        assert!(last < one && one < other, "{last} {one} {other}");
        last = other;
        again(&server);
    }
}

#[test]
fn no_descriptor_goes_on_to_children() {
    let server = serve("");
    let before = inherited(&server);
    let mut held = Held::of(&server);
    for _ in 0..2 {
        again(&server);
        held.go_on(&server);
        assert_eq!(inherited(&server), before);
    }
}

/// The descriptors that a child would have.
#[track_caller]
fn inherited(server: &Server) -> Vec<medusa_tests::Descriptor> {
    let pid = server.process().pid();
    let is_inherited = |descriptor: &medusa_tests::Descriptor| {
        // One may be closed while we look.
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", descriptor.number));
        let info = info.unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        // The system says it in octal digits.
        let flags = flags.and_then(|it| u32::from_str_radix(it.trim(), 8).ok());
        flags.is_some_and(|flags| flags & rustix::fs::OFlags::CLOEXEC.bits() == 0)
    };
    server.process().descriptors().into_iter().filter(is_inherited).collect()
}
