//! Limits on connections and times: each is met, and nobody else suffers.

use std::{fs, io::Read as _, time::Duration};

use medusa_tests::{Broken, Client, End, Folder, Server, wait_until};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

/// A server with these settings, and a file that no socket's buffers hold.
fn server(settings: &str) -> Server {
    let site = "[[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n\
                [plugin.config]\nroot = \"site\"\ncheck_every = \"0 s\"\n";
    let web = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n[plugin.config]\n";
    Folder::new()
        .with("site/small", "small\n")
        .with("site/large", vec![b'x'; 32 * 1024 * 1024])
        .start(&format!("{web}{settings}\n{site}"))
}

fn client(server: &Server) -> Client {
    Client::connect(server.address("web"))
}

#[test]
fn one_connection_too_many_is_told_to_come_again() {
    let server = server("connections_max = 2");
    let (mut first, mut second) = (client(&server), client(&server));
    assert_eq!(first.get("/small").text(), "small\n");
    assert_eq!(second.get("/small").text(), "small\n");
    let mut third = client(&server);
    let response = third.response();
    assert_eq!((response.status, response.header("connection")), (503, Some("close")));
    assert_eq!(third.end(), End::Eof);
    drop(second);
    wait_until("the place to be free", Duration::from_secs(20), || {
        let mut again = client(&server);
        // If it is refused, it may be while the request is on its way.
        let _ = again.try_send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n");
        again.try_response(false).is_ok_and(|response| response.text() == "small\n")
    });
    assert_eq!(first.get("/small").text(), "small\n");
}

#[test]
fn an_idle_connection_is_closed_in_order() {
    let server = server("idle_timeout = \"300 ms\"");
    let mut client = client(&server);
    for _ in 0..3 {
        assert_eq!(client.get("/small").text(), "small\n");
    }
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn a_client_that_does_not_read_is_given_up() {
    let server = server("send_timeout = \"300 ms\"");
    let mut stuck = client(&server);
    stuck.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client(&server).get("/small").text(), "small\n");
    wait_until("the connection to be given up", Duration::from_secs(20), || {
        let status = server.ctl_json(["connections"]);
        status.as_array().is_some_and(Vec::is_empty)
    });
    let broken = stuck.try_response(false);
    assert!(matches!(broken, Err(Broken::Reset { .. } | Broken::Closed { .. })), "{broken:?}");
}

#[test]
fn a_server_that_can_open_no_more_files_says_so() {
    let server = server("");
    let mut client = client(&server);
    assert_eq!(client.get("/small").text(), "small\n");
    // With room for no more than the three that every process begins with, there is none for another.
    let pid = i32::try_from(server.process().pid()).ok().and_then(Pid::from_raw);
    let no_more = Rlimit { current: Some(3), maximum: getrlimit(Resource::Nofile).maximum };
    let before = prlimit(pid, Resource::Nofile, no_more).expect("a child's limit can be set");
    let response = client.get("/small");
    prlimit(pid, Resource::Nofile, before).expect("a child's limit can be set");
    assert_eq!(response.status, 503);
    assert_eq!(client.get("/small").text(), "small\n");
}

#[test]
fn a_file_that_gets_shorter_while_it_is_sent_is_no_whole_response() {
    let server = server("");
    let mut stuck = client(&server);
    stuck.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!stuck.read_some(1000).is_empty());
    let file = fs::File::options().write(true).open(server.folder().path("site/large"));
    file.and_then(|file| file.set_len(100_000)).expect("a file can be cut");
    let mut received = 1000;
    let broken = loop {
        match stuck.stream().read(&mut [0; 64 * 1024]) {
            Ok(0) => break "ended",
            Ok(count) => received += count,
            Err(_) => break "reset",
        }
    };
    assert!(broken == "reset" && received < 32 * 1024 * 1024, "{broken} after {received}");
    assert_eq!(client(&server).get("/small").text(), "small\n");
}

#[test]
fn a_slow_reader_gets_all_of_it() {
    let server = server("send_timeout = \"10 s\"");
    let mut slow = client(&server);
    slow.send("GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut received = 0;
    loop {
        let piece = slow.read_some(100_000);
        if piece.is_empty() {
            break;
        }
        received += piece.len();
    }
    assert!(received > 32 * 1024 * 1024, "{received}");
}
