//! Connections of HTTP that rest between two requests, of which there may be very many: they arrive while the host serves already.

use std::{
    collections::BTreeMap,
    process::Stdio,
    time::{Duration, Instant},
};

use medusa_tests::{Client, Folder, Levels, Monitor, Server, Tree, wait_until};

use crate::{
    PATIENCE,
    next::{again, no_children},
};

/// More than arrive at a time.
const COUNT: usize = 300;

/// A server of HTTP whose connections rest soon; `more` is said of it besides.
#[track_caller]
fn serve(more: &str) -> Server {
    let configuration = format!(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n[plugin.config]\n\
         park_after = \"20 ms\"\n{more}\n\
         [[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\n\n\
         [[plugin]]\nname = \"bad\"\nlibrary = \"unruly\"\nattach = \"web\"\npath = \"/bad\"\n"
    );
    Folder::new().start(&configuration)
}

/// Connections that rest, with what the host shows of each: when it is seen first, and how old it was then.
struct Idle {
    clients: Vec<Client>,
    known: BTreeMap<u64, (Instant, Duration)>,
}

impl Idle {
    #[track_caller]
    fn at(server: &Server) -> Idle {
        let clients = (0..COUNT).map(|_| Client::connect(server.address("web"))).collect();
        let mut idle = Idle { clients, known: BTreeMap::new() };
        idle.ask();
        wait_until("all to rest", PATIENCE, || parked(server).len() == COUNT);
        let shown = parked(server);
        // Not before it was shown.
        let seen = Instant::now();
        idle.known = shown.into_iter().map(|(id, age)| (id, (seen, age))).collect();
        idle
    }

    /// Each has an answer.
    #[track_caller]
    fn ask(&mut self) {
        for client in &mut self.clients {
            let response = client.get("/hello");
            assert_eq!((response.status, response.header("connection")), (200, None));
        }
    }

    /// The host shows the same ones at once, and they are older than they were.
    #[track_caller]
    fn are_there(&self, server: &Server) {
        let now = Instant::now();
        let shown = parked(server);
        assert!(shown.keys().eq(self.known.keys()), "{} of {COUNT} are shown", shown.len());
        for (id, (seen, age)) in &self.known {
            // Both are rounded.
            let least = *age + now.duration_since(*seen) - Duration::from_millis(5);
            assert!(shown[id] >= least, "{id} was {age:?}, and is {:?}", shown[id]);
        }
    }
}

/// The numbers of those that rest, and how old they are.
#[track_caller]
fn parked(server: &Server) -> BTreeMap<u64, Duration> {
    let all = Monitor::of(server).json(["connections", "web", "--state", "parked"]);
    let number = |it: &serde_json::Value, field: &str| it[field].as_u64().expect("a number");
    let all = all.as_array().expect("an array").iter();
    all.map(|it| (number(it, "id"), Duration::from_millis(number(it, "age_ms")))).collect()
}

#[test]
fn they_are_shown_as_they_were_and_served_over_two_upgrades_in_a_row() {
    let server = serve("");
    let mut idle = Idle::at(&server);
    again(&server);
    idle.are_there(&server);
    again(&server);
    again(&server);
    idle.are_there(&server);
    idle.ask();
    no_children(server.process());
    let before = Levels::of(server.process()).descriptors;
    again(&server);
    idle.ask();
    no_children(server.process());
    assert_eq!(Levels::of(server.process()).descriptors, before);
    idle.clients.clear();
    wait_until("the connections to end", PATIENCE, || parked(&server).is_empty());
    assert!(server.log().lines().all(|line| !line.contains(" WARN ") && !line.contains(" ERROR ")));
}

#[test]
fn what_is_asked_during_the_pause_is_answered() {
    let server = serve("");
    let mut idle = Idle::at(&server);
    for _ in 0..3 {
        let program = Tree::get().program();
        let mut command = server.ctl_command();
        command.args(["upgrade-host", "--binary"]).arg(program).stdout(Stdio::null());
        let mut upgrading = command.spawn().expect("it can be run");
        // Some come before the pause, some in it, some after it.
        while upgrading.try_wait().expect("it is a child").is_none() {
            for client in &mut idle.clients {
                client.send("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
            }
            for client in &mut idle.clients {
                assert_eq!(client.response().status, 200);
            }
        }
        assert!(upgrading.wait().expect("it is a child").success(), "{}", server.log());
    }
    idle.ask();
}

#[test]
fn requests_are_counted_on() {
    let server = serve("requests_max = 3");
    let mut client = Client::connect(server.address("web"));
    for is_last in [false, false, true] {
        let response = client.get("/hello");
        assert_eq!(response.header("connection") == Some("close"), is_last);
        if !is_last {
            wait_until("it to rest", PATIENCE, || parked(&server).len() == 1);
            again(&server);
        }
    }
}

#[test]
fn each_ends_at_the_deadline_that_it_had() {
    let server = serve("idle_timeout = \"1 s\"");
    let idle = Idle::at(&server);
    // If an upgrade gave them another second, they would be there for ever.
    wait_until("the connections to end", PATIENCE, || {
        again(&server);
        parked(&server).is_empty()
    });
    for mut client in idle.clients {
        client.end();
    }
}

#[test]
fn a_crash_right_after_the_upgrade_leaves_them() {
    let server = serve("");
    let mut idle = Idle::at(&server);
    again(&server);
    let mut culprit = Client::connect(server.address("web"));
    culprit.send("GET /bad/unruly/abort HTTP/1.1\r\nHost: test\r\n\r\n");
    culprit.end();
    wait_until("the host to go on", PATIENCE, || server.log().contains("the host has crashed"));
    idle.ask();
}

#[test]
fn a_plugin_is_upgraded_or_unloaded_right_after() {
    let server = serve("");
    let mut idle = Idle::at(&server);
    again(&server);
    server.ctl(["reload", "web"]).succeeded();
    idle.are_there(&server);
    idle.ask();
    again(&server);
    server.ctl(["unload", "web"]).succeeded();
    for mut client in idle.clients {
        client.end();
    }
}
