//! `stats`: what each instance has in use and has done, to the byte where it is counted in bytes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use medusa_tests::{Canary, Server, exchange, wait_until};
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
