//! A server of all that serves sessions, and one connection to each, which has to outlive whatever happens to the host.

use std::collections::BTreeMap;

use medusa_tests::{
    Client, Folder, Monitor, Server, wait_until,
    websocket::{WebSocket, frame, opcode},
};

use crate::{PATIENCE, lines::Lines};

/// HTTP with a file and WebSockets, the chat, lines, and lines at a Unix socket.
pub(crate) const CONFIGURATION: &str = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\n\
    [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n[plugin.config]\nroot = \"site\"\n\n\
    [[plugin]]\nname = \"ws\"\nlibrary = \"http-echo\"\nattach = \"web\"\npath = \"/echo\"\n\n\
    [[plugin]]\nname = \"talk\"\nlibrary = \"talk\"\nlisten = [\"127.0.0.1:0\"]\n\n\
    [[plugin]]\nname = \"lines\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n\n\
    [[plugin]]\nname = \"local\"\nlibrary = \"echo-session\"\nlisten = [\"unix:lines.sock\"]\n\n";

/// A folder with what is served.
pub(crate) fn folder() -> Folder {
    Folder::new().with("site/small", "a small file")
}

/// A server of [`CONFIGURATION`] and more.
#[track_caller]
pub(crate) fn serve(more: &str) -> Server {
    folder().start(&format!("{CONFIGURATION}{more}"))
}

/// One connection of each kind.
pub(crate) struct Held {
    web: Client,
    /// Half of a head was sent.
    half: Client,
    socket: WebSocket,
    alice: Lines,
    bob: Lines,
    lines: Lines,
    unix: Lines,
    said: u32,
    ids: BTreeMap<String, u64>,
}

impl Held {
    /// Connects all, and leaves each in the middle of something where it can be.
    #[track_caller]
    pub(crate) fn of(server: &Server) -> Held {
        let [web, talk, lines] = ["web", "talk", "lines"].map(|name| server.address(name));
        let (mut alice, mut bob) = (Lines::connect(talk), Lines::connect(talk));
        alice.reads("your nick:");
        alice.send("alice\n/who\n");
        alice.reads("alice");
        bob.reads("your nick:");
        bob.send("bob\n");
        alice.reads("* somebody is bob");
        let mut held = Held {
            web: Client::connect(web),
            half: Client::connect(web),
            socket: WebSocket::connect(web, "/echo"),
            alice,
            bob,
            lines: Lines::connect(lines),
            unix: Lines::connect_unix(&server.folder().path("lines.sock")),
            said: 0,
            ids: BTreeMap::new(),
        };
        held.half.send("GET /small HTTP/1.1\r\nHo");
        held.alice.send("message ");
        held.socket.send_bytes(&frame(true, opcode::TEXT, b"text 0")[..4]);
        held.answer();
        held.ids = ids(server);
        held
    }

    /// All of them go on where they were, and are in the middle of something again.
    #[track_caller]
    pub(crate) fn answer(&mut self) {
        let number = self.said;
        self.said += 1;
        small(self.web.get("/small"));
        self.half.send("st: test\r\n\r\nGET /small HTTP/1.1\r\nHost: test\r\n\r\nGET /sm");
        small(self.half.response());
        small(self.half.response());
        self.half.send("all HTTP/1.1\r\nHost: test\r\n\r\nGET /small HTTP/1.1\r\nHo");
        small(self.half.response());
        let text = |number: u32| format!("text {number}");
        self.socket.send_bytes(&frame(true, opcode::TEXT, text(number).as_bytes())[4..]);
        self.socket.check_next(opcode::TEXT, text(number));
        self.socket.send_bytes(&frame(true, opcode::TEXT, text(number + 1).as_bytes())[..4]);
        self.alice.send(&format!("{number}\nmessage "));
        self.bob.reads(&format!("alice: message {number}"));
        self.bob.says("/who", "alice bob");
        self.lines.says("a line", "a line");
        self.unix.says("another", "another");
    }

    /// The same, and they are the connections of the beginning by the host's own count.
    #[track_caller]
    pub(crate) fn go_on(&mut self, server: &Server) {
        self.answer();
        assert_eq!(ids(server), self.ids, "the connections of the beginning");
    }

    /// Waits until nothing of them is under way, but for the half of a head.
    #[track_caller]
    pub(crate) fn rest(server: &Server) {
        let mut monitor = Monitor::of(server);
        wait_until("all connections to rest", PATIENCE, || {
            let all = monitor.json(["connections"]);
            let all = all.as_array().expect("an array");
            all.iter().filter(|it| it["state"] != "parked").count() <= 1
        });
    }
}

/// The numbers of the connections, by instance and peer.
#[track_caller]
fn ids(server: &Server) -> BTreeMap<String, u64> {
    let all = Monitor::of(server).json(["connections"]);
    let all = all.as_array().expect("an array").iter();
    all.map(|it| {
        (
            format!("{} {} {}", it["instance"], it["peer"], it["id"]),
            it["id"].as_u64().expect("a number"),
        )
    })
    .collect()
}

#[track_caller]
fn small(response: medusa_tests::Response) {
    assert_eq!(response.text(), "a small file");
    assert_eq!(response.header("connection"), None, "{:?}", response.headers);
}
