//! What a plugin fails with is told in the log, once, with its name and its own word; what a peer did is not.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use medusa_tests::{Client, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// The lines of the log at the level WARN that hold a text.
fn warnings(server: &Server, part: &str) -> Vec<String> {
    let log = server.log();
    let is_one = |line: &&str| line.contains("WARN") && line.contains(part);
    log.lines().filter(is_one).map(str::to_owned).collect()
}

#[track_caller]
fn warns_once(server: &Server, part: &str, instance: &str) {
    server.wait_for_log(part);
    let warnings = warnings(server, part);
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains(&format!("instance=\"{instance}\"")), "{warnings:#?}");
}

#[test]
fn of_a_handler_and_of_a_body() {
    let server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"probe\"\nlibrary = \"http-probe\"\nattach = \"web\"\n",
    );
    let mut client = Client::connect(server.address("web"));
    assert_eq!(client.get("/fail").status, 500);
    warns_once(&server, "this one always fails", "probe");
    client.send("GET /breaks HTTP/1.1\r\nHost: test\r\n\r\n");
    client.try_response(false).unwrap_err();
    warns_once(&server, "the body breaks", "probe");
    // The client's fault: its body is not what it said.
    let mut client = Client::connect(server.address("web"));
    client.send("POST /count HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n");
    let _ = client.try_response(false);
    assert_eq!(warnings(&server, "failed:").len(), 2, "{}", server.log());
}

#[test]
fn of_a_connection_but_not_what_its_peer_did() {
    let server = Server::start(
        "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let connect = || {
        let stream = TcpStream::connect(server.address("unruly")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        stream
    };
    let mut stream = connect();
    stream.write_all(b"stall\n").expect("it reads");
    assert_eq!(stream.read(&mut [0]).expect("it ends"), 0);
    warns_once(&server, "cannot parse integer from empty string", "unruly");

    // Whoever closes with an answer unread resets the connection.
    let mut stream = connect();
    stream.write_all(b"nothing\n").expect("it reads");
    stream.peek(&mut [0]).expect("it answers");
    drop(stream);
    // Whoever is killed has not failed either.
    let killed = connect();
    let id = || {
        let connections = server.ctl_json(["connections"]);
        let connections = connections.as_array().cloned().unwrap_or_default();
        (connections.len() == 1).then(|| connections[0]["id"].to_string())
    };
    let id = medusa_tests::wait_for("one connection to be left", PATIENCE, id);
    server.ctl(["kill", &id]).succeeded();
    wait_until("it to be killed", PATIENCE, || {
        server.ctl_json(["connections"]).as_array().is_some_and(Vec::is_empty)
    });
    drop(killed);
    assert_eq!(warnings(&server, "failed:").len(), 1, "{}", server.log());
}
