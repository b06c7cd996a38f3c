//! `http-echo`: bodies that stream both ways, and WebSockets, which leave HTTP and its server.

use std::time::Duration;

use medusa_tests::{
    Client, End, Folder, Server, wait_until,
    websocket::{WebSocket, frame, opcode},
};

const SITE: &str = r#"
[[plugin]]
name = "web"
library = "http"
listen = ["127.0.0.1:0"]

[[plugin]]
name = "echo"
library = "http-echo"
attach = "web"
path = "/echo"
[plugin.config]
message_bytes_max = "64 KiB"
"#;

fn server() -> Server {
    Folder::new().start(SITE)
}

fn socket(server: &Server) -> WebSocket {
    WebSocket::connect(server.address("web"), "/echo")
}

#[test]
fn messages_come_back() {
    let server = server();
    let mut socket = socket(&server);
    socket.check_echo("hello");
    socket.check_echo("");
    socket.send(opcode::BINARY, [0, 255, 7]);
    socket.check_next(opcode::BINARY, [0, 255, 7]);
    let long = "ä".repeat(32 * 1024);
    socket.check_echo(&long);
    // Pieces of one message, and a ping between them.
    socket.send_bytes(frame(false, opcode::TEXT, b"one, "));
    socket.send_bytes(frame(false, opcode::CONTINUATION, b"two, "));
    socket.send(opcode::PING, "still there?");
    socket.check_next(opcode::PONG, "still there?");
    socket.send_bytes(frame(true, opcode::CONTINUATION, b"three"));
    socket.check_next(opcode::TEXT, "one, two, three");
    socket.send(opcode::CLOSE, 1000_u16.to_be_bytes());
    assert_eq!(socket.frame().close_code(), 1000);
    assert_eq!(socket.end(), End::Eof);
}

#[test]
fn what_comes_in_one_piece_with_the_request_is_not_lost() {
    let server = server();
    let early = [frame(true, opcode::TEXT, b"early"), frame(true, opcode::TEXT, b"bird")].concat();
    // All of a frame, and all but its last byte.
    for cut in [0, 1] {
        let (now, later) = early.split_at(early.len() - cut);
        let client = Client::connect(server.address("web"));
        let mut socket = WebSocket::open(client, "/echo", now);
        socket.check_next(opcode::TEXT, "early");
        socket.send_bytes(later);
        socket.check_next(opcode::TEXT, "bird");
        socket.check_echo("late");
    }
}

#[test]
fn a_socket_that_rests_is_one_of_the_extension() {
    let server = server();
    let mut socket = socket(&server);
    socket.check_echo("one");
    let connections = || server.ctl_json(["connections"]);
    wait_until("the socket to rest", Duration::from_secs(30), || {
        let connections = connections();
        connections[0]["instance"] == "echo" && connections[0]["state"] == "parked"
    });
    assert_eq!(connections().as_array().map(Vec::len), Some(1));
    socket.check_echo("two");
}

#[test]
fn a_socket_outlives_the_server_of_http() {
    let server = server();
    let mut before = socket(&server);
    before.check_echo("one");
    assert_eq!(server.ctl_json(["upgrade", "web"])["result"], "upgraded");
    before.check_echo("two");
    let unloaded = server.ctl_json(["unload", "web"]);
    assert_eq!((&unloaded["result"], &unloaded["mapped"]), (&"unloaded".into(), &false.into()));
    before.check_echo("three");
}
