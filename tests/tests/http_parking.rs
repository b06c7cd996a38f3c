//! Connections of HTTP that ask for nothing rest in the host: nobody notices but by what they cost.

use std::{net::SocketAddr, time::Duration};

use medusa_tests::{Client, End, Folder, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// More than sockets hold.
const LARGE: usize = 8 * 1024 * 1024;

fn server(settings: &str) -> (Server, SocketAddr) {
    let large: Vec<u8> = (0..LARGE).map(|at| (at / 7) as u8).collect();
    let server = Folder::new().with("site/a.txt", "a\n").with("site/large", large).start(&format!(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\n{settings}\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n\
         [plugin.config]\nroot = \"site\"\n\
         [[plugin]]\nname = \"busy\"\nlibrary = \"busy\"\nattach = \"web\"\npath = \"/busy\"\n"
    ));
    let address = server.address("web");
    (server, address)
}

/// Waits until so many connections rest, and no other is there.
#[track_caller]
fn rest(server: &Server, count: usize) {
    wait_until("the connections to rest", PATIENCE, || {
        let all = server.ctl_json(["connections"]);
        let states: Vec<_> =
            all.as_array().into_iter().flatten().map(|it| it["state"].clone()).collect();
        states.len() == count && states.iter().all(|state| state == "parked")
    });
}

#[test]
fn whatever_a_connection_that_rested_is_asked_it_answers() {
    let (server, address) = server("park_after = \"20 ms\"");
    let mut client = Client::connect(address);
    assert_eq!(client.get("/a.txt").text(), "a\n");
    // Each of these begins with a connection that rests, and ends with one.
    for _ in 0..2 {
        rest(&server, 1);
        assert_eq!(client.get("/a.txt").text(), "a\n");
        rest(&server, 1);
        client.send(
            "GET /a.txt HTTP/1.1\r\nHost: test\r\n\r\nGET /none HTTP/1.1\r\nHost: test\r\n\r\n",
        );
        assert_eq!((client.response().status, client.response().status), (200, 404));
        rest(&server, 1);
        client.send("POST /busy/mirror HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhe");
        client.send("llo");
        assert_eq!(client.response().text(), "hello");
        rest(&server, 1);
        for piece in ["G", "ET /a.txt HTT", "P/1.1\r\nHo", "st: test\r\n\r", "\n"] {
            client.send(piece);
        }
        assert_eq!(client.response().text(), "a\n");
        rest(&server, 1);
        assert_eq!(client.get("/large").body.len(), LARGE);
    }
    rest(&server, 1);
    client.send("NONSENSE\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn a_connection_that_rests_is_closed_in_order_when_its_time_is_over() {
    let (server, address) = server("park_after = \"20 ms\"\nidle_timeout = \"400 ms\"");
    let mut client = Client::connect(address);
    assert_eq!(client.get("/a.txt").text(), "a\n");
    rest(&server, 1);
    assert_eq!(client.end(), End::Eof);
    rest(&server, 0);
}

#[test]
fn a_connection_that_rests_is_told_of_the_draining_and_served_once_more() {
    let (server, address) = server("park_after = \"20 ms\"");
    let mut gone = Client::connect(address);
    assert_eq!(gone.get("/a.txt").text(), "a\n");
    let mut client = Client::connect(address);
    assert_eq!(client.get("/a.txt").text(), "a\n");
    rest(&server, 2);
    drop(gone);
    rest(&server, 1);
    let mut unload = server.ctl_command().args(["unload", "web"]).spawn().expect("ctl can be run");
    wait_until("the draining", PATIENCE, || server.plugin("web")[0]["state"] == "draining");
    // It was about to ask: once more it is answered, and says that this was the last time.
    let last = client.get_with("/", "");
    assert_eq!((last.status, last.header("connection")), (404, Some("close")));
    assert_eq!(client.end(), End::Eof);
    assert!(unload.wait().expect("it is our child").success());
    assert_eq!(server.plugin("web").len(), 0);
}

#[test]
fn many_connections_rest_and_each_is_answered() {
    let (server, address) = server("park_after = \"20 ms\"");
    let mut clients: Vec<_> = (0..300).map(|_| Client::connect(address)).collect();
    for round in 0..3 {
        for client in &mut clients {
            assert_eq!(client.get("/a.txt").text(), "a\n", "round {round}");
        }
        rest(&server, clients.len());
    }
    let before = server.process().descriptors().len();
    drop(clients.split_off(100));
    rest(&server, 100);
    assert!(server.process().descriptors().len() <= before - 200);
}

#[test]
fn a_client_that_says_nothing_is_accepted_after_a_while_and_its_time_is_bounded() {
    let (server, address) = server("head_timeout = \"300 ms\"");
    let mut silent = Client::connect(address);
    // Whoever speaks is not kept waiting by whoever does not.
    assert_eq!(Client::connect(address).get("/a.txt").text(), "a\n");
    assert_eq!(silent.end(), End::Eof);
    let listeners = server.ctl_json(["listeners"]);
    assert_eq!(listeners[0]["accepted"], 2, "{listeners}");
}

#[test]
fn a_new_connection_rests_once_it_is_answered_and_one_that_asks_again_is_kept() {
    let (server, address) = server("park_after = \"60 s\"");
    let mut client = Client::connect(address);
    assert_eq!(client.get("/a.txt").text(), "a\n");
    rest(&server, 1);
    assert_eq!(client.get("/a.txt").text(), "a\n");
    let all = server.ctl_json(["connections"]);
    assert_eq!(all[0]["state"], "open", "{all}");
}

#[test]
fn a_client_that_says_nothing_rests_too_and_its_time_is_that_of_a_head() {
    let server = Folder::new().start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\n\
         listen = { address = \"127.0.0.1:0\", deferred = false }\n\
         [plugin.config]\nhealth = \"/up\"\npark_after = \"20 ms\"\nhead_timeout = \"2 s\"\nidle_timeout = \"1 h\"\n",
    );
    let mut silent = Client::connect(server.address("web"));
    rest(&server, 1);
    assert_eq!(silent.end(), End::Eof);
    let mut late = Client::connect(server.address("web"));
    rest(&server, 1);
    assert_eq!(late.get("/up").status, 200);
}

/// Nothing else can come, so that nobody has to wait for the client's end.
#[test]
fn a_connection_whose_client_has_said_that_it_leaves_is_gone_with_its_answer() {
    let (server, address) = server("");
    for request in [
        "GET /a.txt HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        "GET /a.txt HTTP/1.0\r\nHost: test\r\n\r\n",
        "POST /busy/mirror HTTP/1.1\r\nHost: test\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\na\n",
    ] {
        let mut client = Client::connect(address);
        client.send(request);
        assert_eq!(client.response().text(), "a\n");
        assert_eq!(client.end(), End::Eof);
        let all = server.ctl_json(["connections"]);
        assert_eq!(all.as_array().map(Vec::len), Some(0), "{all}");
    }
    // One that breaks its word still gets its answer.
    let mut client = Client::connect(address);
    let one = "GET /a.txt HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    client.send([one, &"x".repeat(300_000)].concat());
    assert_eq!(client.response().text(), "a\n");
}
