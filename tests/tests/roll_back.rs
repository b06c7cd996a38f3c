//! An upgrade that goes wrong, at the switch or in its probation, leaves the old version serving, with its connections; what is lost by
//! that is said.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use medusa_tests::{Canary, Folder, Monitor, Server, Tree, wait_for, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// `keeper` 0.1.0 with these limits, beside a canary.
struct Host {
    // Dropped first: a server drains until its connections have ended.
    canary: Canary,
    monitor: Monitor,
    server: Server,
}

impl Host {
    fn new(limits: &str) -> Self {
        let folder = Folder::new().with("plugins/first.so", version(&[]));
        let server = folder.start(&format!(
            "{}[[plugin]]\nname = \"keeper\"\nlibrary = \"first\"\nlisten = [\"127.0.0.1:0\"]\n\
             [plugin.limits]\n{limits}\n[plugin.config]\nlock = \"lock\"\n",
            Canary::CONFIGURATION
        ));
        Self { canary: Canary::of(&server), monitor: Monitor::of(&server), server }
    }

    /// An upgrade to another version of the library, in which each of these texts is exchanged for one of its length.
    #[track_caller]
    fn upgrade(&mut self, changes: &[(&str, &str)]) -> Value {
        self.server.folder().write("plugins/other.so", version(changes));
        self.server.ctl_json(["upgrade", "keeper", "--library", "other"])
    }

    #[track_caller]
    fn upgraded(&mut self, changes: &[(&str, &str)]) -> Value {
        let upgraded = self.upgrade(changes);
        assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
        upgraded
    }

    /// Clients that have each said one line, and rest.
    fn clients(&mut self, count: usize) -> Vec<Lines> {
        let address = self.server.address("keeper");
        let mut clients: Vec<_> = (0..count)
            .map(|_| Lines::of(TcpStream::connect(address).expect("it listens")))
            .collect();
        clients.iter_mut().for_each(|client| client.says("count", "1"));
        self.all_parked(count);
        clients
    }

    fn connections(&mut self) -> Vec<Value> {
        let all = self.monitor.json(["connections"]);
        let all = all.as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|it| it["instance"] == "keeper").collect()
    }

    fn ids(&mut self) -> BTreeSet<u64> {
        self.connections().iter().filter_map(|it| it["id"].as_u64()).collect()
    }

    #[track_caller]
    fn all_parked(&mut self, count: usize) {
        wait_until("the connections to rest", PATIENCE, || {
            let all = self.connections();
            all.len() == count && all.iter().all(|it| it["state"] == "parked")
        });
    }

    #[track_caller]
    fn count(&mut self, count: &str) {
        let output = self.monitor.ask(["keeper", "count"]);
        output.succeeded();
        assert_eq!(output.stdout.trim(), count);
    }

    #[track_caller]
    fn panics(&mut self, count: usize) {
        for _ in 0..count {
            self.monitor.ask(["keeper", "panic"]).refused("the plugin panicked");
        }
    }

    /// Waits for a version to be alone, and returns what `plugins` shows of it.
    #[track_caller]
    fn is_left_with(&mut self, version: &str) -> Value {
        let found = wait_for(&format!("keeper {version} to be alone"), PATIENCE, || {
            let mut all = self.monitor.plugin("keeper");
            (all.len() == 1 && all[0]["version"] == version && all[0]["state"] == "running")
                .then(|| all.remove(0))
        });
        self.canary.sings();
        found
    }

    /// The one line of the log that holds a text.
    #[track_caller]
    fn logged(&self, part: &str) -> String {
        let log = self.server.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(part)).collect();
        assert_eq!(lines.len(), 1, "`{part}`: {lines:#?}\n{log}");
        lines[0].to_owned()
    }
}

/// A client of lines.
struct Lines(BufReader<TcpStream>);

impl Lines {
    fn of(stream: TcpStream) -> Lines {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        Lines(BufReader::new(stream))
    }

    #[track_caller]
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("the server takes it");
    }

    #[track_caller]
    fn reads(&mut self, line: &str) {
        let mut said = String::new();
        self.0.read_line(&mut said).expect("the server answers");
        assert_eq!(said, format!("{line}\n"));
    }

    #[track_caller]
    fn says(&mut self, line: &str, answer: &str) {
        self.send(&format!("{line}\n"));
        self.reads(answer);
    }

    #[track_caller]
    fn has_ended(&mut self) {
        let mut rest = String::new();
        assert_eq!(self.0.read_line(&mut rest).expect("it ends in good order"), 0, "{rest}");
    }
}

#[track_caller]
fn holds(text: &Value, part: &str) {
    assert!(text.as_str().is_some_and(|text| text.contains(part)), "no `{part}` in {text}");
}

/// A version of `keeper` that cannot read what comes after it, and in which each of these texts is exchanged for one of its length.
#[track_caller]
fn version(changes: &[(&str, &str)]) -> Vec<u8> {
    let mut library = fs::read(Tree::get().library("keeper")).expect("it was built");
    let first = (r#""reads":[0,1,2]}"#, r#""reads":[0,1,3]}"#);
    for (from, to) in [&first].into_iter().chain(changes) {
        assert_eq!(from.len(), to.len(), "`{from}` and `{to}`");
        let length = from.len();
        let at = library.windows(length).position(|part| part == from.as_bytes());
        let at = at.unwrap_or_else(|| panic!("no `{from}` in the library"));
        library[at..at + length].copy_from_slice(to.as_bytes());
    }
    library
}

const LATER: (&str, &str) = (r#""version":"0.1.0""#, r#""version":"0.2.0""#);
const READS_BOTH: (&str, &str) =
    (r#""state":{"writes":1,"reads":[0,1,3]}"#, r#""state":{"writes":2,"reads":[0,1,2]}"#);

/// One with that fault.
fn fault(name: &str) -> (String, String) {
    let text = |name: &str| format!("keeper's fault: {name:16}");
    (text("nothing"), text(name))
}

#[test]
fn whatever_fails_before_the_switch_leaves_the_old_version_with_its_connections() {
    let mut host = Host::new("");
    let mut clients = host.clients(5);
    let before = host.ids();
    let faults = [
        ("load", "the plugin panicked in prepare"),
        ("start", "the plugin panicked in start"),
        ("import", "import is to fail"),
        ("acquire", "acquire is to fail"),
        ("session", "the session is to fail"),
        ("session-panic", "the plugin panicked in the import of a session"),
    ];
    let faults = faults.map(|(name, sentence)| (fault(name), sentence));
    let changes = faults.iter().map(|((from, to), sentence)| ((&**from, &**to), *sentence));
    let manifests = [
        ((r#""abi":{"major":1"#, r#""abi":{"major":9"#), "ABI 9.0"),
        (
            (r#""state":{"writes":1,"reads":[0,1,3]}"#, r#""state":{"writes":2,"reads":[0,2,3]}"#),
            "keeps state in version 1",
        ),
    ];
    for (turn, (change, sentence)) in (2..).zip(manifests.into_iter().chain(changes)) {
        let kept = host.upgrade(&[LATER, change]);
        assert_eq!(kept["result"], "kept", "{kept}");
        holds(&kept["reason"], sentence);
        let left = host.is_left_with("0.1.0");
        assert_eq!((&left["generation"], &left["reason"]), (&1.into(), &Value::Null), "{left}");
        assert_eq!(host.ids(), before);
        clients.iter_mut().for_each(|client| client.says("count", &turn.to_string()));
        host.count(&(turn - 1).to_string());
    }
    // The lock is its own again, so that another can have it.
    host.upgraded(&[LATER]);
    clients.iter_mut().for_each(|client| client.says("hello", "hello"));
}

#[test]
fn a_panic_in_the_first_turn_of_a_connection_costs_none() {
    let mut host = Host::new("");
    let mut clients = host.clients(200);
    clients[0].send("cou");
    wait_until("half a line to be read", PATIENCE, || {
        host.connections().iter().any(|it| it["received_bytes"] == 9)
    });
    host.all_parked(200);
    host.count("1");
    let before = host.ids();
    let (from, to) = fault("resumed");
    let upgraded = host.upgraded(&[LATER, (&from, &to)]);
    assert_eq!(upgraded["handed_over"], 200, "{upgraded}");
    let back = host.is_left_with("0.1.0");
    for part in ["rolled back from 0.2.0", "a panic in the first turn", "nothing is lost"] {
        holds(&back["reason"], part);
    }
    assert_eq!(host.ids(), before);
    clients[0].send("nt\n");
    clients[0].reads("2");
    clients[1..].iter_mut().for_each(|client| client.says("count", "2"));
    host.count("2");
    let line = host.logged("rolled back from 0.2.0 to 0.1.0");
    assert!(line.contains("handed_over=200"), "{line}");
}

#[test]
fn too_many_panics_on_probation_put_the_old_version_back_with_all_that_has_happened_since() {
    let mut host = Host::new("probation_panics_max = 2\n");
    let mut clients = host.clients(20);
    let before = host.ids();
    host.count("1");
    host.upgraded(&[LATER]);
    holds(&host.is_left_with("0.2.0")["reason"], "is on probation for another");
    clients.iter_mut().for_each(|client| client.says("count", "2"));
    host.count("2");
    host.all_parked(20);
    host.panics(2 + 1);
    let back = host.is_left_with("0.1.0");
    holds(
        &back["reason"],
        "for 3 panics on probation (`probation_panics_max` is 2); nothing is lost",
    );
    assert_eq!((&back["panics"], &back["restarts"]), (&0.into(), &0.into()), "{back}");
    assert_eq!(host.ids(), before);
    clients.iter_mut().for_each(|client| client.says("count", "3"));
    host.count("3");
    let line = host.logged("rolled back from");
    for part in ["instance=\"keeper\"", "from 0.2.0 to 0.1.0", "handed_over=20", "nothing is lost"]
    {
        assert!(line.contains(part), "no `{part}` in {line}");
    }
    // What is back is not on probation.
    host.panics(2 + 1);
    assert_eq!(host.is_left_with("0.1.0")["generation"], back["generation"]);
}

#[test]
fn what_the_old_version_cannot_read_is_as_it_was_at_the_switch_and_that_is_said() {
    let mut host = Host::new("probation_panics_max = 2\n");
    let mut clients = host.clients(20);
    host.count("1");
    host.upgraded(&[LATER, READS_BOTH]);
    host.count("2");
    // Two have talked to it, and cannot be what they were before.
    let mut talked = clients.split_off(18);
    talked.iter_mut().for_each(|client| client.says("count", "2"));
    host.all_parked(20);
    host.panics(2 + 1);
    talked.iter_mut().for_each(Lines::has_ended);
    let back = host.is_left_with("0.1.0");
    for part in [
        "2 connections that it cannot read come to an end",
        "what its state was since 2",
        "0.2.0 keeps state in version 2, and 0.1.0 reads [0, 1, 3]",
    ] {
        holds(&back["reason"], part);
    }
    assert!(host.logged("rolled back from").contains("is lost"));
    assert_eq!(host.ids().len(), 18);
    clients.iter_mut().for_each(|client| client.says("count", "2"));
    host.count("2");
}

#[test]
fn too_many_stalls_put_it_back_too() {
    let mut host = Host::new("stall_ms = 50\nprobation_stalls_max = 1\n");
    let mut clients = host.clients(3);
    host.upgraded(&[LATER]);
    for _ in 0..1 + 1 {
        host.monitor.ask(["keeper", "stall"]).succeeded();
    }
    let back = host.is_left_with("0.1.0");
    holds(&back["reason"], "stalls on probation (`probation_stalls_max` is 1)");
    clients.iter_mut().for_each(|client| client.says("count", "2"));
}

#[test]
fn an_instance_that_is_ill_or_does_not_say_is_put_back() {
    for (name, sentence) in [("ill", "it is to be ill"), ("silent", "no answer within 20ms")] {
        let mut host = Host::new("health_every_ms = 10\nhealth_ms_max = 20\n");
        let mut clients = host.clients(3);
        let before = host.ids();
        let (from, to) = fault(name);
        host.upgraded(&[LATER, (&from, &to)]);
        let back = host.is_left_with("0.1.0");
        for part in ["2 failed checks of its health", sentence, "nothing is lost"] {
            holds(&back["reason"], part);
        }
        assert_eq!(host.ids(), before);
        clients.iter_mut().for_each(|client| client.says("count", "2"));
    }
}

#[test]
fn a_probation_that_passes_leaves_nothing_behind_and_no_way_back() {
    let mut host = Host::new("probation_ms = 1500\nprobation_panics_max = 1\n");
    let mut clients = host.clients(3);
    let descriptors = host.server.process().descriptors().len();
    host.upgraded(&[LATER]);
    host.is_left_with("0.2.0");
    assert_eq!(host.server.process().descriptors().len(), descriptors + 1, "the old library");
    host.server.wait_for_log("its probation is over; there is no way back to 0.1.0");
    host.logged("its probation is over");
    assert_eq!(host.server.process().descriptors().len(), descriptors);
    host.panics(1 + 1);
    let stays = host.is_left_with("0.2.0");
    assert_eq!((&stays["panics"], &stays["reason"]), (&2.into(), &Value::Null), "{stays}");
    clients.iter_mut().for_each(|client| client.says("count", "2"));
}

#[test]
fn a_further_upgrade_ends_a_probation_and_the_way_back_is_to_the_version_before_it() {
    let mut host = Host::new("probation_panics_max = 1\n");
    let mut clients = host.clients(3);
    host.upgraded(&[LATER]);
    host.panics(1);
    host.upgraded(&[(LATER.0, r#""version":"0.3.0""#)]);
    host.is_left_with("0.3.0");
    host.panics(1 + 1);
    host.is_left_with("0.2.0");
    host.logged("rolled back from 0.3.0 to 0.2.0");
    clients.iter_mut().for_each(|client| client.says("count", "2"));
    // An unload ends it as well.
    host.upgraded(&[(LATER.0, r#""version":"0.4.0""#)]);
    drop(clients);
    let unloaded = host.monitor.json(["unload", "keeper"]);
    assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
    assert!(host.server.process().mappings_of("keeper").is_empty());
}
