//! `connections`: who is there, narrowed, sorted and counted, also where thousands are.

use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use medusa_tests::{Canary, Server, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

const THREE: &str = "[[plugin]]\nname = \"talk\"\nlibrary = \"echo\"\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"]\n\
    [[plugin]]\nname = \"door\"\nlibrary = \"echo\"\nlisten = [\"unix:s\"]\n\
    [[plugin]]\nname = \"rest\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n";

#[track_caller]
fn ids(server: &Server, options: &str) -> Vec<u64> {
    let words = ["connections"].into_iter().chain(options.split_whitespace());
    let rows = server.ctl_json(words);
    let rows = rows.as_array().expect("connections are an array");
    rows.iter().map(|row| row["id"].as_u64().expect("an id is a number")).collect()
}

fn echo(stream: &mut (impl Read + Write), bytes: &[u8]) {
    stream.write_all(bytes).expect("echo reads");
    stream.read_exact(&mut vec![0; bytes.len()]).expect("echo answers");
}

#[test]
fn each_filter_finds_its_own() {
    let server = Server::start(THREE);
    let addresses = server.addresses("talk");
    let mut v4 = TcpStream::connect(addresses[0]).expect("talk listens");
    echo(&mut v4, b"x");
    let mut v6 = TcpStream::connect(addresses[1]).expect("talk listens");
    echo(&mut v6, &[b'y'; 5000]);
    let mut unix = UnixStream::connect(server.folder().path("s")).expect("door listens");
    echo(&mut unix, b"z");
    let mut parked = TcpStream::connect(server.address("rest")).expect("rest listens");
    echo(&mut parked, b"p");
    wait_until("it to be parked", PATIENCE, || ids(&server, "--state parked") == [4]);

    assert_eq!(ids(&server, ""), [1, 2, 3, 4]);
    assert_eq!(ids(&server, "talk"), [1, 2]);
    assert_eq!(ids(&server, "rest talk"), [1, 2, 4]);
    assert_eq!(ids(&server, "--state open"), [1, 2, 3]);
    assert_eq!(ids(&server, "--peer 127.0.0.0/8"), [1, 4]);
    let port = v4.local_addr().expect("it is connected");
    assert_eq!(ids(&server, &format!("--peer {port}")), [1]);
    assert_eq!(ids(&server, "--peer ::1"), [2]);
    assert_eq!(ids(&server, "--peer unix"), [3]);
    assert_eq!(ids(&server, &format!("--local {}", addresses[1])), [2]);
    assert_eq!(ids(&server, "--bytes 5kB"), [2]);
    assert_eq!(ids(&server, "--sort bytes --limit 1"), [2]);
    assert_eq!(ids(&server, "--older 1h"), [] as [u64; 0]);
    assert_eq!(ids(&server, "--sort age --limit 1 rest talk"), [1]);

    // What talks is idle for less long than what does not.
    wait_until("the others to be idle", PATIENCE, || {
        echo(&mut v6, b"y");
        ids(&server, "--idle 300ms") == [1, 4]
    });
    assert_eq!(ids(&server, "--sort idle --limit 1 --reverse --peer ::1"), [2]);
    let rows = server.ctl_json(["connections"]);
    assert_eq!(rows[2]["idle_ms"], Value::Null, "the system does not keep that of Unix sockets");

    let text = server.ctl(["connections", "--peer", "127.0.0.1"]);
    let last = text.succeeded().lines().last().map(str::to_owned);
    assert_eq!(last.as_deref(), Some("2 of 4 connections: 1 open, 1 parked"));
    server.ctl(["connections", "takl"]).refused("did you mean `talk`?");
    let bad = server.ctl(["connections", "--peer", "localhost"]);
    assert!(bad.status == 2 && bad.stderr.contains("10.0.0.0/8"), "{bad:?}");
    let help = server.ctl(["help", "connections"]);
    assert!(help.succeeded().contains("--older DURATION"), "{help:?}");
}

#[test]
fn thousands_are_listed_while_others_are_served() {
    const MANY: usize = 3000;
    let server = Server::start(&format!("{}{THREE}", Canary::CONFIGURATION));
    let mut canary = Canary::of(&server);
    let address = server.address("rest");
    let held: Vec<_> =
        (0..MANY).map(|_| TcpStream::connect(address).expect("rest listens")).collect();
    let count = |options: &[&str]| {
        let words = ["connections", "rest", "--count"].iter().chain(options);
        server.ctl_json(words)["matched"].as_u64().unwrap_or_default()
    };
    wait_until("all to be parked", PATIENCE, || count(&["--state", "parked"]) == MANY as u64);
    canary.sings();

    let all = ids(&server, "rest");
    assert!(all.len() == MANY && all.is_sorted(), "each once");
    let text = server.ctl(["connections", "rest"]);
    let lines: Vec<_> = text.succeeded().lines().collect();
    assert_eq!(lines.len(), 1 + 100 + 1, "the heads, as many rows as one reads, the counts");
    assert!(
        lines[101].contains("3000 parked; 100 shown, `--limit N` shows more"),
        "{}",
        lines[101]
    );
    let text = server.ctl(["connections", "rest", "--limit", "9999"]);
    assert_eq!(text.succeeded().lines().count(), 1 + MANY + 1);
    canary.sings();
    drop(held);
    wait_until("all to be gone", PATIENCE, || count(&[]) == 0);
}
