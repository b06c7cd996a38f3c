//! `http-echo`: bodies that stream both ways, and WebSockets, which leave HTTP and its server.

use std::{
    cell::Cell,
    io::Write,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use medusa_tests::{
    Client, End, Folder, Server, tool, tool_from, wait_until,
    websocket::{self, WebSocket, frame, opcode},
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

fn client(server: &Server) -> Client {
    Client::connect(server.address("web"))
}

fn socket(server: &Server) -> WebSocket {
    WebSocket::connect(server.address("web"), "/echo")
}

/// Bytes of which no two pieces of a power of two are alike.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in body.chunks(10_000) {
        bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\nsum: 42\r\n\r\n");
    bytes
}

/// Sends a request while its response is read.
fn exchange(server: &Server, head: &str, body: Vec<u8>) -> medusa_tests::Response {
    let mut client = client(server);
    client.send(format!("{head}\r\n"));
    let mut writing = client.stream().try_clone().expect("a socket can be cloned");
    let writer = thread::spawn(move || writing.write_all(&body));
    let response = client.response();
    writer.join().expect("the writer does not panic").expect("the server reads all of the body");
    response
}

#[test]
fn bodies_of_every_length_come_back_as_they_go() {
    let server = server();
    for length in [0, 1, 64 << 10, 10 << 20] {
        let body = pattern(length);
        let head = "POST /echo/x HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n";
        let sized = format!("{head}Content-Length: {length}\r\n");
        let response = exchange(&server, &sized, body.clone());
        assert_eq!((response.status, response.body == body), (200, true), "{length} bytes");
        assert_eq!(response.header("content-length"), Some(length.to_string().as_str()));
        assert_eq!(response.header("content-type"), Some("image/png"));
        let coded = format!("{head}Transfer-Encoding: chunked\r\nTrailer: sum\r\nTE: trailers\r\n");
        let response = exchange(&server, &coded, chunked(&body));
        assert_eq!(
            (response.status, response.body == body),
            (200, true),
            "{length} bytes in chunks"
        );
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!(response.trailers, [("sum".to_owned(), "42".to_owned())]);
    }
}

#[test]
fn a_piece_comes_back_before_the_next_one_is_sent() {
    let server = server();
    let mut client = client(&server);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut seen = String::new();
    for piece in ["one", "two", "three"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
        while !seen.contains(piece) {
            seen += &String::from_utf8(client.read_some(1024)).expect("it is text");
        }
    }
    client.send("0\r\n\r\n");
    while !seen.ends_with("\r\n0\r\n\r\n") {
        seen += &String::from_utf8(client.read_some(1024)).expect("it is text");
    }
    // The connection is as good as new.
    assert_eq!(client.get("/echo").status, 200);
}

#[test]
fn a_client_that_does_not_read_is_not_read_either() {
    const LENGTH: usize = 256 << 20;
    let server = server();
    let mut client = client(&server);
    client.send(format!("PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
    let before = server.process().rss_bytes();
    let sent = AtomicUsize::new(0);
    let mut writing = client.stream().try_clone().expect("a socket can be cloned");
    thread::scope(|scope| {
        scope.spawn(|| {
            let piece = pattern(251 * 1024);
            while sent.load(Ordering::Relaxed) < LENGTH {
                let left = LENGTH - sent.load(Ordering::Relaxed);
                let count = writing.write(&piece[..left.min(piece.len())]);
                sent.fetch_add(count.expect("the server goes on reading"), Ordering::Relaxed);
            }
        });
        let last = Cell::new(0);
        let mut still = 0;
        wait_until("the writer to be stopped", Duration::from_secs(30), || {
            let now = sent.load(Ordering::Relaxed);
            still = if now > 0 && last.replace(now) == now { still + 1 } else { 0 };
            still == 10
        });
        assert!(last.get() < LENGTH / 2, "{} bytes were taken from it", last.get());
        let grown = server.process().rss_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "the server keeps {grown} bytes");
        let mut seen = 0;
        while seen < LENGTH {
            seen += client.read_some(1 << 20).len();
        }
    });
    let grown = server.process().rss_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "the server keeps {grown} bytes");
}

#[test]
fn every_method_is_answered() {
    let server = server();
    for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "BREW"] {
        let mut client = client(&server);
        for body in ["", method] {
            let length = body.len();
            client.send(format!(
                "{method} /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
            ));
            let response = client.response();
            assert_eq!((response.status, response.text()), (200, body), "{method}");
        }
    }
    let mut head = client(&server);
    assert_eq!(head.head("/echo").status, 200);
    head.send("HEAD /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(head.head_response().status, 200);
    assert_eq!(head.get("/echo").status, 200);
}

#[test]
fn http_1_0_gets_its_body_and_the_end() {
    let server = server();
    let mut old = client(&server);
    old.send("POST /echo HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc");
    let response = old.response();
    assert_eq!((response.status, response.text()), (200, "abc"));
    assert_eq!(old.end(), End::Eof);
}

#[test]
fn a_client_that_waits_for_100_is_told_to_go_on() {
    let server = server();
    let mut careful = client(&server);
    careful.send(
        "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    let told = careful.read_some(1024);
    assert_eq!(told, b"HTTP/1.1 100 Continue\r\n\r\n");
    careful.send("hello");
    let response = careful.response();
    assert_eq!((response.status, response.text()), (200, "hello"));
    assert_eq!(response.header("connection"), None);
}

#[test]
fn curl_gets_its_upload_back() {
    let Some(curl) = tool("curl") else { return };
    let server = server();
    let url = format!("http://{}/echo", server.address("web"));
    let file = server.folder().path("upload");
    let upload = pattern(10 << 20);
    std::fs::write(&file, &upload).expect("a file can be written");
    for how in ["--upload-file", "--data-binary"] {
        let name = file.to_str().expect("its path is text");
        let what = if how == "--data-binary" { format!("@{name}") } else { name.to_owned() };
        let got = Command::new(&curl).args(["-sS", "--fail", how, &what, &url]).output();
        let got = got.expect("curl runs");
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        assert!(got.stdout == upload, "{} bytes came back by {how}", got.stdout.len());
    }
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

#[test]
fn an_upgrade_of_the_extension_keeps_its_sockets() {
    let server = server();
    let (mut rests, mut half) = (socket(&server), socket(&server));
    rests.check_echo("one");
    let letter = frame(true, opcode::TEXT, b"in two pieces");
    half.send_bytes(&letter[..8]);
    for generation in 2..5 {
        assert_eq!(server.ctl_json(["upgrade", "echo"])["result"], "upgraded");
        wait_until("the old one to be gone", Duration::from_secs(30), || {
            let all = server.plugin("echo");
            all.len() == 1 && all[0]["generation"] == generation
        });
        rests.check_echo("still here");
    }
    half.send_bytes(&letter[8..]);
    half.check_next(opcode::TEXT, "in two pieces");
    half.check_echo("whole");
}

#[test]
fn filters_see_the_answer_that_switches_and_may_have_another_instead() {
    let chain =
        "[[plugin]]\nname = \"f\"\nlibrary = \"chain\"\nattach = \"web\"\n[plugin.config]\n";
    let server =
        Folder::new().start(&format!("{SITE}\n{chain}filters = [\"/\", \"/\"]\nobservers = 1\n"));
    let mut client = client(&server);
    client.send(websocket::request("/echo"));
    let answer = client.response();
    assert_eq!((answer.status, answer.header("x-out")), (101, Some("f-1,f")));
    let mut socket = WebSocket::of(client);
    socket.check_echo("through two filters");
    assert_eq!(server.ctl_json(["unload", "f"])["result"], "unloaded");
    socket.check_echo("and without them");

    let server =
        Folder::new().start(&format!("{SITE}\n{chain}filters = [\"/\", \"/\"]\nobservers = 1\n"));
    for instead in ["status", "answer", "whole", "panic-out"] {
        let mut client = Client::connect(server.address("web"));
        client.send(websocket::request(&format!("/echo?f={instead}")));
        assert_ne!(client.response().status, 101, "{instead}");
    }
    // Nobody waits for what never came.
    assert_eq!(server.ctl_json(["upgrade", "echo"])["drained"], 0);
}

#[test]
fn bad_requests_for_a_socket_are_told_why() {
    let server = server();
    let good = websocket::request("/echo");
    let check = |from: &str, to: &str, status: u16| {
        let request = good.replace(from, to);
        assert_ne!(request, good);
        let mut client = client(&server);
        client.send(&request);
        let response = client.response();
        assert_eq!(response.status, status, "{request}{}", response.text());
        // It is a connection of HTTP still.
        assert_eq!(client.get("/echo").status, 200);
        response
    };
    let other = check("Version: 13", "Version: 8", 426);
    assert_eq!(other.header("sec-websocket-version"), Some("13"));
    check("Sec-WebSocket-Key", "Sec-WebSocket-Kex", 400);
    check("Connection: keep-alive, Upgrade", "Connection: keep-alive", 400);
    // Another protocol is not spoken here, and the request is as good as any.
    check("websocket", "h2c", 200);
    // With a body, or by POST, it is a request like any other.
    check("GET", "POST", 200);
    check("\r\n\r\n", "\r\nContent-Length: 3\r\n\r\nabc", 400);
}

#[test]
fn a_request_behind_one_that_is_refused_its_protocol_is_answered() {
    let server = server();
    let mut client = client(&server);
    let refused = websocket::request("/echo").replace("Version: 13", "Version: 7");
    client.send(format!("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n{refused}{refused}GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"));
    let statuses: Vec<u16> = (0..4).map(|_| client.response().status).collect();
    assert_eq!(statuses, [200, 426, 426, 200]);
}

#[test]
fn a_socket_can_be_opened_behind_other_requests() {
    let server = server();
    let mut client = client(&server);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 70000\r\n\r\n");
    client.send(pattern(70_000));
    client.send(format!("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n{}", websocket::request("/echo")));
    client.send(frame(true, opcode::TEXT, b"at once"));
    assert_eq!(client.response().body.len(), 70_000);
    assert_eq!(client.response().status, 200);
    let mut socket = WebSocket::accepted(client);
    socket.check_next(opcode::TEXT, "at once");
    socket.check_echo("later");
}

#[test]
fn faults_close_a_socket_with_their_code() {
    let server = server();
    let check = |bytes: &[u8], code: u16| {
        let mut socket = socket(&server);
        socket.check_echo("before");
        socket.send_bytes(bytes);
        assert_eq!(socket.frame().close_code(), code, "{bytes:?}");
        assert_eq!(socket.end(), End::Eof);
    };
    let unmasked = b"\x81\x02hi";
    check(unmasked, 1002);
    let reserved_bit = [&[0xc1], &frame(true, opcode::TEXT, b"hi")[1..]].concat();
    check(&reserved_bit, 1002);
    check(&frame(true, 3, b"hi"), 1002);
    check(&frame(true, opcode::CONTINUATION, b"of nothing"), 1002);
    let twice = [frame(false, opcode::TEXT, b"a"), frame(true, opcode::TEXT, b"b")].concat();
    check(&twice, 1002);
    check(&frame(false, opcode::PING, b"in pieces"), 1002);
    check(&frame(true, opcode::PING, &[0; 126]), 1002);
    check(&frame(true, opcode::TEXT, b"\xff"), 1007);
    let half = [frame(false, opcode::TEXT, b"\xc3"), frame(true, opcode::CONTINUATION, b"a")];
    check(&half.concat(), 1007);
    check(&frame(true, opcode::CLOSE, b"\x03"), 1002);
    // Its length alone is too much: the rest need not come.
    check(&frame(true, opcode::BINARY, &[0; (64 << 10) + 1])[..14], 1009);
    let pieces: Vec<u8> =
        (0..65).flat_map(|at| frame(false, u8::from(at == 0), &[b'a'; 1024])).collect();
    check(&pieces, 1009);
}

#[test]
fn a_letter_may_lie_in_two_pieces_and_pieces_may_be_empty() {
    let server = server();
    let mut socket = socket(&server);
    socket.send_bytes(frame(false, opcode::TEXT, b"\xc3"));
    for _ in 0..1000 {
        socket.send_bytes(frame(false, opcode::CONTINUATION, b""));
    }
    socket.send_bytes(frame(true, opcode::CONTINUATION, b"\xa4"));
    socket.check_next(opcode::TEXT, "ä");
    // A byte at a time.
    for byte in frame(true, opcode::TEXT, b"slow") {
        socket.send_bytes([byte]);
    }
    socket.check_next(opcode::TEXT, "slow");
}

#[test]
fn the_unload_of_the_extension_tells_its_sockets() {
    let server = server();
    let mut polite = socket(&server);
    polite.check_echo("one");
    let mut rude = socket(&server);
    rude.send_bytes(frame(false, opcode::TEXT, b"never ended"));
    rude.send(opcode::PING, "");
    rude.check_next(opcode::PONG, "");
    let mut unload = server.ctl_command();
    unload.args(["--json", "unload", "echo"]);
    let told = thread::spawn(move || unload.output().expect("the command runs"));
    assert_eq!(polite.frame().close_code(), 1001);
    polite.send(opcode::CLOSE, 1001_u16.to_be_bytes());
    assert_eq!(polite.end(), End::Eof);
    // Who does not answer is not waited for long.
    assert_eq!(rude.frame().close_code(), 1001);
    assert_eq!(rude.end(), End::Eof);
    let output = told.join().expect("it does not panic");
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(answer.contains("\"unloaded\"") && answer.contains("\"mapped\":false"), "{answer}");
    assert!(answer.contains("\"leaked_bytes\":0"), "{answer}");
}

#[test]
fn no_more_sockets_than_the_instance_may_have() {
    let limited = SITE.replace(
        "path = \"/echo\"\n",
        "path = \"/echo\"\n[plugin.limits]\nconnections_per_instance_max = 2\n",
    );
    let server = Folder::new().start(&limited);
    let (mut one, mut two) = (socket(&server), socket(&server));
    let mut third = client(&server);
    third.send(websocket::request("/echo"));
    assert_eq!(third.response().status, 503);
    assert_eq!(third.get("/echo").status, 200);
    one.check_echo("one");
    two.send(opcode::CLOSE, "");
    assert_eq!(two.frame().opcode, opcode::CLOSE);
    assert_eq!(two.end(), End::Eof);
    wait_until("the place to be free", Duration::from_secs(30), || {
        third.send(websocket::request("/echo"));
        third.response().status == 101
    });
}

#[test]
fn a_socket_takes_no_place_of_the_server_of_http() {
    let limited = SITE.replace(
        "[[plugin]]\nname = \"echo\"",
        "[plugin.limits]\nconnections_per_instance_max = 1\n\n[[plugin]]\nname = \"echo\"",
    );
    let server = Folder::new().start(&limited);
    let mut sockets: Vec<_> = (0..5).map(|_| socket(&server)).collect();
    assert_eq!(client(&server).get("/echo").status, 200);
    sockets.iter_mut().for_each(|socket| socket.check_echo("still here"));
}

#[test]
fn an_operator_ends_a_socket() {
    let server = server();
    let mut socket = socket(&server);
    socket.check_echo("one");
    let id = server.ctl_json(["connections"])[0]["id"].to_string();
    let _ = server.ctl(["kill", &id]).succeeded();
    assert_eq!(socket.end(), End::Eof);
}

/// Sends, receives, pings and closes by the client that most programs in Python use.
const PYTHON: &str = r#"
import asyncio, sys, websockets

async def main(url):
    async with websockets.connect(url, max_size=None) as socket:
        for message in ["hello", "", "\u00e4" * 1000, b"\x00\xff", b"x" * 65000]:
            await socket.send(message)
            assert await socket.recv() == message
        await socket.send(["in ", "three ", "pieces"])
        assert await socket.recv() == "in three pieces"
        await (await socket.ping())
    assert (socket.close_code, socket.close_reason) == (1000, ""), socket.close_code
    sockets = [await websockets.connect(url) for _ in range(200)]
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
    for number, socket in enumerate(sockets):
        assert await socket.recv() == str(number)
    await asyncio.gather(*(socket.close(4000, "done") for socket in sockets))
    assert all(socket.close_code == 4000 for socket in sockets)
    async with websockets.connect(url) as socket:
        await socket.send("x" * 65537)
        try:
            await socket.recv()
        except websockets.ConnectionClosed as closed:
            assert closed.rcvd.code == 1009, closed
            print("content")

asyncio.run(main(sys.argv[1]))
"#;

#[test]
fn the_websockets_of_python_are_content() {
    // Debian's packages are found by Debian's python.
    let Some(python) = tool_from("/usr/bin/python3", "python3") else { return };
    let library = "/usr/lib/python3/dist-packages/websockets/__init__.py";
    if tool_from(library, "python3-websockets").is_none() {
        return;
    }
    let server = server();
    let url = format!("ws://{}/echo", server.address("web"));
    // Python's own settings of the machine may name a proxy.
    let ran = Command::new(python).args(["-c", PYTHON, &url]).env_remove("http_proxy").output();
    let ran = ran.expect("python runs");
    assert_eq!(
        String::from_utf8_lossy(&ran.stdout),
        "content\n",
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
}
