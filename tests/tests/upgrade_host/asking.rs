//! Whoever orders the upgrade is told what became of it, by whichever program is there then.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::{Command, Stdio},
};

use medusa_tests::Monitor;

use crate::{
    held::{Held, serve},
    next::{again, copy, file, no_children},
};

#[test]
fn a_session_hears_the_outcome_and_goes_on_asking() {
    let server = serve("");
    let mut held = Held::of(&server);
    let mut monitor = Monitor::of(&server);
    let next = copy(server.folder(), "next");
    for number in 1..6 {
        let said = monitor.ask(["upgrade-host", "--binary", next.to_str().expect("plain")]);
        let text = said.succeeded();
        let pause = text.split(' ').rev().nth(1).and_then(|it| it.parse::<f64>().ok());
        assert!(text.starts_with("upgraded from ") && pause.is_some(), "{number}: {text}");
        let status = monitor.json(["status"]);
        assert_eq!(
            (&status["pid"], &status["upgrades"]),
            (&server.process().pid().into(), &number.into())
        );
        monitor.ask(["unload", "nobody"]).refused("nobody");
        let said = monitor.ask(["upgrade-host", "--binary", "/nowhere"]);
        said.refused("it is not there");
        held.answer();
    }
}

#[test]
fn sessions_that_wait_for_a_request_go_over_with_what_they_have_sent_of_it() {
    let server = serve("");
    let mut held = Held::of(&server);
    let [mut asks, mut waits] = [Monitor::of(&server), Monitor::of(&server)];
    waits.json(["status"]);
    let mut half = UnixStream::connect(server.socket()).expect("it listens");
    let request = b"{\"v\":1,\"command\":[\"status\"],\"json\":true}\n";
    let next = copy(server.folder(), "next");
    let next = next.to_str().expect("plain");
    for at in [1, 10, request.len() - 1] {
        half.write_all(&request[..at]).expect("it is open");
        // By the time that this is answered it was read, most probably.
        waits.json(["status"]);
        asks.ask(["upgrade-host", "--binary", next]).succeeded();
        assert_eq!(waits.json(["status"])["pid"], server.process().pid());
        half.write_all(&request[at..]).expect("it is open");
        let mut lines = BufReader::new(&half).lines();
        let answer = lines.next().expect("it is answered").expect("it is open");
        assert!(answer.contains("out") && answer.contains("pid"), "{answer}");
        let exit = lines.next().expect("it is answered").expect("it is open");
        assert!(exit.contains("exit"), "{exit}");
        held.go_on(&server);
    }
    no_children(server.process());
}

#[test]
fn for_programs_the_outcome_is_an_object() {
    let server = serve("");
    let mut monitor = Monitor::of(&server);
    let outcome = monitor.json(["upgrade-host"]);
    assert!(outcome["pause_us"].is_u64(), "{outcome}");
}

#[test]
fn the_monitor_shows_the_outcome_and_takes_the_next_line() {
    let server = serve("");
    let mut held = Held::of(&server);
    let mut medusa = Command::new(server.folder().program())
        .args(["monitor", "--socket"])
        .arg(server.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it can be run");
    let mut keys = medusa.stdin.take().expect("it was asked for");
    let mut shown = BufReader::new(medusa.stdout.take().expect("it was asked for")).lines();
    let mut shows = |part: &str| loop {
        let line = shown.next().expect("it shows more").expect("it is text");
        if line.contains(part) {
            break;
        }
    };
    for _ in 0..3 {
        keys.write_all(b"upgrade-host\n").expect("it reads");
        shows("upgraded from ");
        keys.write_all(b"plugins\n").expect("it reads");
        shows("lines");
        held.go_on(&server);
    }
    drop(keys);
    assert!(medusa.wait().expect("it ends").success());
}

#[test]
fn two_orders_at_a_time_are_one_upgrade_and_the_other_is_told() {
    let server = serve("");
    let mut held = Held::of(&server);
    // One that answers slowly, so that the other comes in between.
    let slow = crate::next::script(server.folder(), "slow", "exec \"$real\" \"$@\"");
    let text = std::fs::read_to_string(&slow).expect("it is there");
    let waits = text.replace("exec ", "while [ ! -e go ]; do sleep 0.01; done; exec ");
    let waits = waits.replacen("#!/bin/sh\n", "#!/bin/sh\necho >begun\n", 1);
    let slow = file(server.folder(), "slow", waits.as_bytes(), 0o755);
    let folder = server.folder().path("");
    let mut command = server.ctl_command();
    command
        .current_dir(folder)
        .args(["upgrade-host", "--binary"])
        .arg(&slow)
        .stdout(Stdio::piped());
    let first = command.spawn().expect("it can be run");
    medusa_tests::wait_until("the first to be under way", crate::PATIENCE, || begun(&server));
    crate::next::order(&server, None).refused("another change of the host is under way");
    held.go_on(&server);
    for path in ["go", "run/go"] {
        server.folder().write(path, "");
    }
    std::fs::write(cwd(&server).join("go"), "").expect("it can be written");
    let first = first.wait_with_output().expect("it ends");
    assert!(first.status.success(), "{first:?}");
    let _ = std::fs::remove_file(cwd(&server).join("go"));
    let _ = std::fs::remove_file(cwd(&server).join("begun"));
    held.go_on(&server);
    again(&server);
    no_children(server.process());
}

fn cwd(server: &medusa_tests::Server) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{}/cwd", server.process().pid())).expect("it runs")
}

fn begun(server: &medusa_tests::Server) -> bool {
    cwd(server).join("begun").exists()
}
