//! `stats`: what each instance has in use and has done, to the byte where it is counted in bytes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, UNIX_EPOCH},
};

use medusa_tests::{
    Canary, Client, Server, exchange, wait_until,
    websocket::{self, WebSocket},
};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

const ECHOES: &str = "[[plugin]]\nname = \"talk\"\nlibrary = \"echo\"\nlisten = [\"127.0.0.1:0\"]\n\
    [[plugin]]\nname = \"rest\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n";

/// The figures of one instance.
#[track_caller]
fn of(server: &Server, name: &str) -> Value {
    let answer = server.ctl_json(["stats", name]);
    assert_eq!(answer.as_array().map(Vec::len), Some(1), "{answer}");
    answer[0].clone()
}

/// A figure in nanoseconds.
#[track_caller]
fn ns(durations: &Value, name: &str) -> u64 {
    durations[name].as_u64().unwrap_or_else(|| panic!("no {name}: {durations}"))
}

fn echo(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("echo reads");
    stream.read_exact(&mut vec![0; bytes.len()]).expect("echo answers");
}

fn connect(server: &Server, name: &str) -> TcpStream {
    TcpStream::connect(server.address(name)).expect("it listens")
}

#[test]
fn connections_and_bytes_are_counted_by_instance() {
    let server = Server::start(&format!("{}{ECHOES}", Canary::CONFIGURATION));
    let mut talkers = [connect(&server, "talk"), connect(&server, "talk")];
    echo(&mut talkers[0], &[b'x'; 1000]);
    echo(&mut talkers[1], &[b'y'; 234]);
    let mut resting = [(); 3].map(|()| connect(&server, "rest"));
    resting.iter_mut().for_each(|stream| echo(stream, b"12345"));
    wait_until("all to be parked", PATIENCE, || of(&server, "rest")["connections_parked"] == 3);

    let (talk, rest) = (of(&server, "talk"), of(&server, "rest"));
    assert_eq!((&talk["connections_active"], &talk["connections_parked"]), (&2.into(), &0.into()));
    assert_eq!((&talk["received_bytes"], &talk["sent_bytes"]), (&1234.into(), &1234.into()));
    assert_eq!(talk["tasks"], 2, "one for each connection");
    assert_eq!(rest["connections_active"], 0);
    assert_eq!((&rest["received_bytes"], &rest["tasks"]), (&15.into(), &0.into()));
    assert_eq!(of(&server, "canary")["received_bytes"], 0);

    // What went over a connection counts on when it is gone.
    let [first, mut second] = talkers;
    drop(first);
    wait_until("it to be gone", PATIENCE, || of(&server, "talk")["connections_active"] == 1);
    echo(&mut second, b"z");
    assert_eq!(of(&server, "talk")["received_bytes"], 1235);

    let all = server.ctl_json(["stats"]);
    let names = all.as_array().expect("an array").iter().map(|it| it["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["canary", "rest", "talk"]);
    server.ctl(["stats", "takl"]).refused("did you mean `talk`?");
    let text = server.ctl(["stats"]);
    assert!(text.succeeded().lines().all(|line| line.chars().count() <= 80), "{text:?}");
}

#[test]
fn what_is_sent_out_of_files_counts() {
    let server = Server::with_site(&[("large.bin", &[7; 300_000])]);
    let request = b"GET /large.bin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let received = exchange(server.address("web"), request).len();
    assert!(received > 300_000, "{received}");
    wait_until("it to be gone", PATIENCE, || of(&server, "web")["connections_active"] == 0);
    let web = of(&server, "web");
    assert_eq!(
        (&web["received_bytes"], &web["sent_bytes"]),
        (&request.len().into(), &received.into())
    );
    assert_eq!((&web["requests"], &of(&server, "site")["requests"]), (&1.into(), &1.into()));
    assert_eq!(of(&server, "site")["sent_bytes"], 0, "connections are the server's");
}

#[test]
fn what_went_over_a_connection_before_it_was_switched_stays_the_servers() {
    let server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"echo\"\nlibrary = \"http-echo\"\nattach = \"web\"\n",
    );
    let request = websocket::request("/");
    let mut client = Client::connect(server.address("web"));
    client.send(&request);
    assert_eq!(client.response().status, 101);
    let mut socket = WebSocket::of(client);
    socket.check_echo("hello");
    let (web, echo) = (of(&server, "web"), of(&server, "echo"));
    assert_eq!(web["received_bytes"], request.len());
    let sent = web["sent_bytes"].as_u64().expect("a number");
    assert!(sent > 0, "the answer that switched");
    // Two bytes of a frame before its text, and four more of a client's mask.
    assert_eq!((&echo["received_bytes"], &echo["sent_bytes"]), (&11.into(), &7.into()));
    drop(socket);
    wait_until("it to be gone", PATIENCE, || of(&server, "echo")["connections_active"] == 0);
    assert_eq!(of(&server, "echo")["received_bytes"], 11);
    assert_eq!(of(&server, "web")["sent_bytes"], sent);
}

#[test]
fn an_old_generation_counts_until_it_is_gone() {
    let server = Server::start(ECHOES);
    let mut old = connect(&server, "talk");
    echo(&mut old, b"abc");
    let heap_before = of(&server, "talk")["heap_bytes"].as_u64().expect("a number");
    let upgraded = server.ctl_json(["upgrade", "talk"]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    let mut new = connect(&server, "talk");
    echo(&mut new, b"de");
    let both = of(&server, "talk");
    assert_eq!((&both["generations"], &both["connections_active"]), (&2.into(), &2.into()));
    assert_eq!(both["received_bytes"], 5);
    assert!(both["heap_bytes"].as_u64().expect("a number") > heap_before, "both have one: {both}");
    drop(old);
    wait_until("the old one to go", PATIENCE, || of(&server, "talk")["generations"] == 1);
    assert_eq!(of(&server, "talk")["received_bytes"], 5, "what it received was received");
}

/// The extension blocks the loop in its poll, which is inside of the server's: the time is the extension's, and nobody else's.
#[test]
fn whoever_blocks_the_loop_has_the_longest_poll() {
    const BLOCKED_NS: u64 = 1_000_000_000;
    let server = Server::start(&format!(
        "{}[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nattach = \"web\"\nlisten = [\"127.0.0.1:0\"]\n",
        Canary::CONFIGURATION
    ));
    let mut canary = Canary::of(&server);
    let mut client = Client::connect(server.address("web"));
    for _ in 0..9 {
        assert_eq!(client.get("/unruly/nothing").status, 200);
    }
    let before_ms = UNIX_EPOCH.elapsed().expect("it is later").as_millis() as u64;
    assert_eq!(client.get("/unruly/stall?1000").text(), "did stall\n");
    let after_ms = UNIX_EPOCH.elapsed().expect("it is later").as_millis() as u64;
    canary.sings();

    let unruly = of(&server, "unruly");
    let polls = &unruly["polls"];
    assert!(ns(polls, "longest_ns") >= BLOCKED_NS, "{unruly}");
    assert!(ns(polls, "total_ns") >= ns(polls, "longest_ns"), "{unruly}");
    assert!((before_ms..=after_ms).contains(&ns(polls, "longest_at_ms")), "{unruly}");
    assert_eq!(unruly["latency"], Value::Null, "it is no server");
    for other in ["web", "canary"] {
        let figures = of(&server, other);
        assert!(ns(&figures["polls"], "count") > 0, "{figures}");
        assert!(ns(&figures["polls"], "total_ns") < BLOCKED_NS, "{figures}");
    }
    let latency = &of(&server, "web")["latency"];
    assert_eq!(latency["count"], 10);
    assert!(ns(latency, "longest_ns") >= BLOCKED_NS, "{latency}");
    let names = ["p50_ns", "p90_ns", "p99_ns", "longest_ns"];
    assert!(names.map(|name| ns(latency, name)).is_sorted(), "{latency}");
    assert!(ns(latency, "p90_ns") < BLOCKED_NS, "nine of ten were quick: {latency}");

    let text = server.ctl(["stats"]);
    let line = text.succeeded().lines().rfind(|line| line.starts_with("web"));
    assert!(line.is_some_and(|line| line.contains("1.0 s")), "{text:?}");
    assert!(text.succeeded().lines().all(|line| line.chars().count() <= 80), "{text:?}");
}

#[test]
fn answers_out_of_the_servers_cache_have_a_latency_too() {
    let server = Server::with_site(&[("small.txt", b"small")]);
    let mut client = Client::connect(server.address("web"));
    for _ in 0..5 {
        assert_eq!(client.get("/small.txt").text(), "small");
    }
    let web = of(&server, "web");
    assert_eq!((&web["requests"], &web["latency"]["count"]), (&5.into(), &5.into()), "{web}");
}

#[test]
fn without_counters_there_are_no_durations_and_everything_else() {
    let server = Server::start(&format!("[host]\ncounters = false\n{ECHOES}"));
    let mut talk = connect(&server, "talk");
    echo(&mut talk, b"abc");
    let figures = of(&server, "talk");
    assert_eq!((&figures["polls"], &figures["received_bytes"]), (&Value::Null, &3.into()));
    let text = server.ctl(["stats"]);
    assert!(text.succeeded().contains("`counters = false`"), "{text:?}");
    assert!(server.ctl(["config", "show"]).succeeded().contains("counters = false"));
    server.folder().configure(ECHOES);
    let applied = server.ctl_json(["config", "apply"]);
    assert_eq!(applied["restart"], serde_json::json!(["[host] counters"]), "{applied}");
}

/// The watchdog looks every now and then, and does not see what is over between two looks.
#[test]
fn a_poll_over_its_limit_is_told_and_counted_however_short() {
    let server = Server::start(
        "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\n[plugin.limits]\nstall_ms = \"10 ms\"\n",
    );
    let stalls = || server.ctl_json(["status"])["stalls"].as_u64().expect("a number");
    let before = stalls();
    for _ in 0..3 {
        server.ctl(["unruly", "do", "stall", "11"]).succeeded();
    }
    assert!(stalls() >= before + 3, "{}", server.log());
    let told = || {
        let lines = server.log().lines().map(str::to_owned).collect::<Vec<_>>();
        lines.into_iter().filter(|line| line.contains("the plugin block")).collect::<Vec<_>>()
    };
    wait_until("all to be told", PATIENCE, || told().len() >= 3);
    assert!(told().iter().all(|line| line.contains("unruly")), "{:?}", told());
}
