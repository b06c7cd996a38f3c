//! Hundreds of upgrades of the host in place, with a thousand connections that outlive them all, and thousands of changes of every kind.

#[allow(dead_code, reason = "what else it does is for another test")]
#[path = "../soak_hand_over/build.rs"]
mod build;
mod crowd;
#[allow(dead_code, reason = "what else it does is for another test")]
#[path = "../soak_hand_over/http.rs"]
mod http;
mod idle;
mod load;
mod mixed;
#[path = "../soak_upgrade/random.rs"]
mod random;
#[allow(dead_code, reason = "what else it does is for another test")]
#[path = "../soak_hand_over/sockets.rs"]
mod sockets;
#[allow(dead_code, reason = "what else it does is for another test")]
#[path = "../soak_hand_over/talkers.rs"]
mod talkers;
#[allow(dead_code, reason = "what else it does is for another test")]
#[path = "../soak_hand_over/wire.rs"]
mod wire;

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use medusa_tests::{Folder, Monitor, Process, Server, Tree, soak_count, wait_until};

use crate::{crowd::Crowd, load::Load, random::Random};

const PATIENCE: Duration = Duration::from_secs(60);

/// What is in the files that are served.
pub(crate) struct Files {
    pub(crate) small: Vec<u8>,
    pub(crate) large: Vec<u8>,
}

impl Files {
    fn new() -> Files {
        Files { small: Random::new(7).bytes(1000), large: Vec::new() }
    }
}

#[test]
fn a_thousand_connections_outlive_upgrades_of_the_host_under_load() {
    let files = Files::new();
    let server = serve(&files, "");
    let mut monitor = Monitor::of(&server);
    let mut crowd = Crowd::gather(&server, &files, 1000);
    let (before, pid) = (ids(&mut monitor), server.process().pid());
    assert_eq!(before.len(), 1000);
    // So that what is opened once is open.
    upgrade(&mut monitor, &server);
    // It answers: all of the new program is there.
    monitor.json(["status"]);
    no_children(server.process());
    let descriptors = server.process().descriptors().len();
    let load = Load::begin(server.address("web"), server.address("lines"), &files.small);
    let mut pauses = Pauses::default();
    let started = Instant::now();
    for number in 0..soak_count(5, 200) {
        load.wait_for_more();
        load.forget_slowest();
        pauses.hosts_us.push(upgrade(&mut monitor, &server));
        load.wait_for_more();
        pauses.clients_us.push(load.slowest_us());
        crowd.go_on(number);
        assert_eq!(monitor.json(["status"])["pid"], pid, "the process of the start");
    }
    let report = load.end();
    wait_until("the connections to be those of the start", PATIENCE, || {
        ids(&mut monitor) == before
    });
    (0..crowd::STEPS).for_each(|step| crowd.go_on(step));
    crowd.part();
    no_children(server.process());
    assert_eq!(server.process().descriptors().len(), descriptors, "those of the start");
    println!(
        "1,000 connections through {} upgrades of the host in {:.1?}: {} exchanges of theirs, {report}, all right",
        pauses.hosts_us.len(),
        started.elapsed(),
        crowd.exchanges(),
    );
    pauses.print();
    nothing_is_amiss(&server);
}

/// How long nothing was served.
#[derive(Default)]
struct Pauses {
    /// By the host's own account.
    hosts_us: Vec<u64>,
    /// The slowest request of each upgrade.
    clients_us: Vec<u64>,
}

impl Pauses {
    fn print(&mut self) {
        println!("pause by the host's own account: {}", quantiles(&mut self.hosts_us));
        println!("slowest request while it was upgraded: {}", quantiles(&mut self.clients_us));
    }
}

pub(crate) fn quantiles(values: &mut [u64]) -> String {
    values.sort_unstable();
    let at = |permille: usize| values[(values.len() - 1) * permille / 1000];
    format!("median {} µs, p99 {} µs, longest {} µs", at(500), at(990), at(1000))
}

/// A server of all that serves sessions. `more` is its configuration besides.
#[track_caller]
pub(crate) fn serve(files: &Files, more: &str) -> Server {
    Folder::new().with("site/small", &files.small).start(&configuration(more))
}

pub(crate) fn configuration(more: &str) -> String {
    // Deadlines that no slow machine meets: clients wait on purpose.
    let web = "head_timeout = \"1 h\"\nbody_timeout = \"1 h\"\nsend_timeout = \"1 h\"\nidle_timeout = \"1 h\"\n";
    format!(
        "[host.limits]\npreflight_ms_max = \"5 min\"\nfreeze_ms_max = \"5 s\"\ntakeover_ms_max = \"5 min\"\n\n\
         [[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n[plugin.config]\n{web}\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n[plugin.config]\nroot = \"site\"\n\n\
         [[plugin]]\nname = \"echo\"\nlibrary = \"http-echo\"\nattach = \"web\"\npath = \"/echo\"\n\n\
         [[plugin]]\nname = \"talk\"\nlibrary = \"talk\"\nlisten = [\"127.0.0.1:0\"]\n\n\
         [[plugin]]\nname = \"lines\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n\n{more}"
    )
}

/// Has the host go on as the tree's program, and answers its own pause in microseconds.
#[track_caller]
pub(crate) fn upgrade(monitor: &mut Monitor, server: &Server) -> u64 {
    let program = Tree::get().program();
    let outcome =
        monitor.json(["upgrade-host", "--binary", program.to_str().expect("a plain name")]);
    assert_eq!(outcome["result"], "upgraded", "{outcome}\n{}", server.log());
    outcome["pause_us"].as_u64().unwrap_or_else(|| panic!("no pause in {outcome}"))
}

/// The numbers of all connections, by instance and peer.
fn ids(monitor: &mut Monitor) -> BTreeMap<wire::Place, u64> {
    let all = monitor.json(["connections"]);
    let text = |it: &serde_json::Value, field: &str| it[field].as_str().expect("a text").to_owned();
    let known =
        all.as_array().into_iter().flatten().map(|it| {
            ((text(it, "instance"), text(it, "peer")), it["id"].as_u64().expect("a number"))
        });
    known.collect()
}

/// Waits until a process has no child, alive or not.
#[track_caller]
pub(crate) fn no_children(process: Process) {
    let path = format!("/proc/{0}/task/{0}/children", process.pid());
    wait_until("the children to end", PATIENCE, || {
        fs::read_to_string(&path).is_ok_and(|children| children.is_empty())
    });
}

/// The log complains of nothing.
#[track_caller]
pub(crate) fn nothing_is_amiss(server: &Server) {
    let log = server.log();
    let is_amiss = |line: &&str| {
        let leaks = line.contains("leaked_bytes=") && !line.contains("leaked_bytes=0 ");
        // A slow machine has the watchdog speak.
        let warns = line.contains(" WARN ") && !line.contains("watchdog");
        leaks || warns || line.contains(" ERROR ")
    };
    let amiss: Vec<_> = log.lines().filter(is_amiss).collect();
    assert!(amiss.is_empty(), "{amiss:#?}");
}
