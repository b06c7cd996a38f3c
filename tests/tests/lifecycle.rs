//! Unloading and upgrading in the middle of things: what is in flight ends in good order, and what keeps a library mapped
//! is named until it is gone.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::{Child, Stdio},
    time::Duration,
};

use medusa_tests::{Canary, Client, Server, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// `unruly` beside a canary.
struct Host {
    // Dropped first: a server drains until its connections have ended.
    canary: Canary,
    server: Server,
}

impl Host {
    fn new() -> Self {
        Self::with("", "")
    }

    fn behind_web() -> Self {
        Self::with(
            "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n",
            "attach = \"web\"\n",
        )
    }

    fn with(web: &str, attach: &str) -> Self {
        let server = Server::start(&format!(
            "{}{web}[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nlisten = [\"127.0.0.1:0\"]\n{attach}",
            Canary::CONFIGURATION
        ));
        let canary = Canary::of(&server);
        Self { server, canary }
    }

    #[track_caller]
    fn command(&mut self, words: &[&str]) {
        self.server.ctl(["unruly", "do"].iter().chain(words)).succeeded();
        self.canary.sings();
    }

    #[track_caller]
    fn unload(&mut self, how: &[&str]) -> Value {
        let unloaded = self.server.ctl_json(["unload", "unruly"].iter().chain(how));
        self.canary.sings();
        unloaded
    }

    /// The images of the plugin that are mapped, by their inodes.
    fn images(&self) -> BTreeSet<u64> {
        let mappings = self.server.process().mappings_of("unruly");
        mappings.iter().map(|mapping| mapping.inode).collect()
    }

    /// Waits until no image is mapped and no generation is listed but these many.
    #[track_caller]
    fn is_left_with(&mut self, generations: usize) {
        let (server, images) = (&self.server, || self.images().len());
        wait_until(&format!("{generations} generations to be left"), PATIENCE, || {
            server.plugin("unruly").len() == generations && images() == generations
        });
        self.canary.sings();
    }

    fn connect(&self) -> Talk {
        let stream = TcpStream::connect(self.server.address("unruly")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        Talk(stream)
    }

    #[track_caller]
    fn serves(&self) {
        self.connect().answers();
    }

    /// Begins an unload that does not end at once.
    fn begin_unload(&self) -> Child {
        let mut command = self.server.ctl_command();
        command.args(["--json", "unload", "unruly"]).stdout(Stdio::piped());
        let child = command.spawn().expect("the host's program can be run");
        let server = &self.server;
        wait_until("the drain to begin", PATIENCE, || {
            server.plugin("unruly")[0]["state"] == "draining"
        });
        child
    }

    fn gate(&self) -> String {
        self.server.folder().path("gate").to_str().expect("a plain name").to_owned()
    }
}

struct Talk(TcpStream);

impl Talk {
    #[track_caller]
    fn answers(&mut self) {
        self.0.write_all(b"nothing\n").expect("it reads");
        let mut answer = [0; 8];
        self.0.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer, b"nothing\n");
    }

    #[track_caller]
    fn has_ended(mut self) {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
}

#[track_caller]
fn is_unloaded(outcome: &Value) {
    assert_eq!(outcome["result"], "unloaded", "{outcome}");
    assert_eq!(outcome["mapped"], false, "{outcome}");
}

#[track_caller]
fn is_pinned(outcome: &Value, by: &str) {
    assert_eq!(outcome["result"], "pinned", "{outcome}");
    assert_eq!(outcome["mapped"], true, "{outcome}");
    assert!(outcome["reason"].as_str().unwrap_or_default().contains(by), "{outcome}");
}

#[track_caller]
fn outcome_of(child: Child) -> Value {
    let output = child.wait_with_output().expect("a child can be waited for");
    serde_json::from_slice(&output.stdout).expect("it answers in JSON")
}

#[test]
fn a_detached_thread_pins_until_it_ends() {
    let mut host = Host::new();
    let gate = host.gate();
    host.command(&["detach", &gate]);
    is_pinned(&host.unload(&[]), "`stray`");
    let pinned = &host.server.plugin("unruly")[0];
    assert_eq!(pinned["state"], "pinned", "{pinned}");
    host.server.ctl(["unload", "unruly"]).refused("still mapped");
    // The next version is none the worse for it.
    host.server.ctl(["load", "unruly"]).succeeded();
    host.serves();
    assert_eq!(host.images().len(), 2);
    fs::write(&gate, "").expect("the gate can be opened");
    host.is_left_with(1);
    host.serves();
    is_unloaded(&host.unload(&[]));
    host.is_left_with(0);
}

#[test]
fn an_upgrade_does_not_wait_for_a_detached_thread() {
    let mut host = Host::new();
    let gate = host.gate();
    host.command(&["detach", &gate]);
    let upgraded = host.server.ctl_json(["upgrade", "unruly"]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    host.serves();
    host.server.wait_for_log("pinned, for 1 running thread (`stray`)");
    assert_eq!(host.images().len(), 2);
    fs::write(&gate, "").expect("the gate can be opened");
    host.is_left_with(1);
    host.serves();
}

#[test]
fn a_job_that_ends_soon_is_waited_for() {
    let mut host = Host::new();
    let gate = host.gate();
    host.command(&["block", &gate]);
    wait_for_file(&format!("{gate}.begun"));
    let unload = host.begin_unload();
    host.canary.sings();
    fs::write(&gate, "").expect("the gate can be opened");
    is_unloaded(&outcome_of(unload));
    host.is_left_with(0);
}

#[test]
fn a_job_that_does_not_end_pins_until_it_does() {
    let mut host = Host::new();
    let gate = host.gate();
    host.command(&["block", &gate]);
    wait_for_file(&format!("{gate}.begun"));
    is_pinned(&host.unload(&["--now"]), "running blocking job");
    host.server.ctl(["load", "unruly"]).succeeded();
    host.serves();
    fs::write(&gate, "").expect("the gate can be opened");
    host.is_left_with(1);
    host.serves();
}

#[test]
fn a_thread_that_the_host_made_is_stopped() {
    let mut host = Host::new();
    host.command(&["owned-thread"]);
    let named = |host: &Host| {
        host.server.process().threads().iter().filter(|thread| thread.name == "owned").count()
    };
    // A new thread gives itself its name.
    wait_until("the thread to be seen", PATIENCE, || named(&host) == 1);
    is_unloaded(&host.unload(&["--now"]));
    assert_eq!(named(&host), 0);
}

#[test]
fn connections_and_timers_are_drained_then_gone() {
    let mut host = Host::new();
    host.command(&["timers"]);
    let (mut one, mut other) = (host.connect(), host.connect());
    one.answers();
    other.answers();
    let unload = host.begin_unload();
    let address = host.server.addresses("unruly");
    assert!(address.is_empty(), "nobody new is let in: {address:?}");
    one.answers();
    host.canary.sings();
    other.answers();
    drop((one, other));
    is_unloaded(&outcome_of(unload));
    host.is_left_with(0);
}

#[test]
fn connections_are_cut_by_an_unload_now() {
    let mut host = Host::new();
    host.command(&["timers"]);
    let (mut one, mut half) = (host.connect(), host.connect());
    one.answers();
    half.0.write_all(b"half a li").expect("it reads");
    is_unloaded(&host.unload(&["--now"]));
    one.has_ended();
    half.has_ended();
    host.server.ctl(["load", "unruly"]).succeeded();
    host.serves();
}

#[test]
fn a_half_read_body_ends_with_its_handler() {
    let mut host = Host::behind_web();
    let mut client = Client::connect(host.server.address("web"));
    client.send("POST /unruly/read HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nhalf");
    let server = &host.server;
    wait_until("the handler to have read", PATIENCE, || server.log().contains("read 4 bytes"));
    is_unloaded(&host.unload(&["--now"]));
    let answer = client.try_response(false);
    assert!(answer.as_ref().map_or(true, |answer| answer.status >= 500), "{answer:?}");
    let mut client = Client::connect(host.server.address("web"));
    assert_eq!(client.get("/unruly/nothing").status, 404);
    host.server.ctl(["load", "unruly"]).succeeded();
    assert_eq!(client.get("/unruly/nothing").text(), "did nothing\n");
}

#[test]
fn whoever_blocks_the_loop_is_named() {
    let mut host = Host::new();
    host.command(&["stall", "400"]);
    host.server.wait_for_log("the plugin blocks the loop");
    host.server.wait_for_log("the plugin has let the loop go again");
    let log = host.server.log();
    let named = log.lines().find(|line| line.contains("the plugin blocks the loop"));
    assert!(named.is_some_and(|line| line.contains("unruly")), "{log}");
    assert_eq!(host.server.ctl_json(["status"])["stalls"], 1);
}

#[track_caller]
fn wait_for_file(path: &str) {
    wait_until(path, PATIENCE, || fs::exists(path).unwrap_or(false));
}
