//! The README's tour: what a newcomer types has to work as it stands there.

use std::{net::TcpStream, time::Duration};

use medusa_tests::{Client, Server, exchange, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn echo_is_loaded_upgraded_and_unloaded_while_the_server_runs() {
    let server = Server::start("");
    let load = ["load", "echo", "--library", "echo", "--listen", "127.0.0.1:0"];
    server.ctl(load).succeeded();
    server.ctl(load).refused("echo");
    let address = server.address("echo");
    assert_eq!(exchange(address, "hello\n"), b"hello\n");

    let upgrade = server.ctl_json(["upgrade", "echo"]);
    assert_eq!(upgrade["result"], "upgraded", "{upgrade}");
    assert_eq!(server.address("echo"), address, "an upgrade keeps the listener");
    assert_eq!(exchange(address, "hello\n"), b"hello\n");
    wait_until("the old generation to go", PATIENCE, || server.plugin("echo").len() == 1);
    assert_eq!(server.plugin("echo")[0]["generation"], 2);

    let unload = server.ctl_json(["unload", "echo"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert_eq!(unload["mapped"], false, "{unload}");
    assert!(server.plugin("echo").is_empty());
    assert_eq!(server.process().mappings_of("echo"), [], "nothing of it should be mapped");
    TcpStream::connect(address).unwrap_err();

    server.ctl(load).succeeded();
    assert_eq!(exchange(server.address("echo"), "hello\n"), b"hello\n");
}

#[test]
fn hello_joins_a_running_site_and_leaves_it() {
    let server = Server::with_site(&[("index.html", b"the site\n")]);
    let mut client = Client::connect(server.address("web"));
    assert_eq!(client.get("/hello").status, 404);
    server.ctl(["load", "hello", "--library", "hello", "--attach", "web"]).succeeded();
    assert_eq!(client.get("/hello").text(), "hello, number 1\n");
    assert_eq!(client.get("/").text(), "the site\n");

    let unload = server.ctl_json(["unload", "hello"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert_eq!(client.get("/hello").status, 404);
    assert_eq!(client.get("/").text(), "the site\n");
}

#[test]
fn a_download_goes_on_while_both_plugins_that_send_it_are_replaced() {
    // More than sockets hold, so that most of it is sent after the upgrades.
    let file: Vec<u8> = (0..24 * 1024 * 1024_u32).map(|at| (at / 7) as u8).collect();
    let server = Server::with_site(&[("large", &file)]);
    let address = server.address("web");
    let mut client = Client::connect(address);
    client.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    let begun = client.read_some(1000);
    assert!(begun.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", begun.escape_ascii());

    assert_eq!(server.ctl_json(["upgrade", "site"])["result"], "upgraded");
    assert_eq!(server.ctl_json(["upgrade", "web"])["result"], "upgraded");
    assert_eq!(Client::connect(address).get_with("/large", "Range: bytes=7-7\r\n").body, [1]);

    let mut received = begun;
    let head = received.windows(4).position(|it| it == b"\r\n\r\n").expect("the head came") + 4;
    while received.len() < head + file.len() {
        let more = client.read_some(256 * 1024);
        assert!(!more.is_empty(), "the download ended after {} bytes", received.len());
        received.extend(more);
    }
    assert!(received[head..] == file, "a byte of the download is wrong");
    drop(client);
    let is_one = |name: &str| server.plugin(name).len() == 1;
    wait_until("the old generations to go", PATIENCE, || is_one("web") && is_one("site"));
}
