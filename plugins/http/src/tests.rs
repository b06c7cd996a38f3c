//! The plugin without a server, on a clock that the tests move: what is a matter of time, or of pipes that are full.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use medusa_plugin_api::testing::{Host, TestConnection};

/// How much a client may leave unread before writing waits.
const PIPE_BYTES: usize = 64 * 1024;

const GET: &str = "GET /PATH HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server with these settings, whose site answers `/123` with 123 bytes.
fn server(settings: &str) -> Host {
    let host = Host::builder(crate::load).config(settings).start().expect("the plugin starts");
    host.answer(|request: Request<Bytes>| {
        let length = request.uri().path()[1..].parse().unwrap_or(0);
        Response::new(Bytes::from(vec![b'x'; length]))
    });
    host
}

fn get(path: impl ToString) -> String {
    GET.replace("PATH", &path.to_string())
}

fn connections(host: &Host) -> u64 {
    host.metric("http_connections").expect("the server counts its connections")
}

/// A connection whose pipe has room for so many bytes more: all else is a response that nobody reads.
fn crowded(host: &Host, room: usize) -> TestConnection {
    let mut connection = host.connect();
    connection.send(get(1));
    let head = connection.read().len() - 1;
    // The length of the body has five digits instead of one.
    connection.send(get(PIPE_BYTES - room - head - 4));
    connection
}

#[test]
fn a_refusal_that_nobody_reads_is_given_up() {
    let host = server("send_timeout = \"5 s\"");
    let mut connection = crowded(&host, 100);
    connection.send("nonsense\n");
    assert_eq!(connections(&host), 1, "the page waits for room");
    host.advance(Duration::from_secs(4));
    assert_eq!(connections(&host), 1, "it counts as long as it waits");
    host.advance(Duration::from_secs(2));
    assert_eq!(connections(&host), 0);
    assert!(connection.is_reset(), "half a page is no page");
}

#[test]
fn what_was_answered_is_not_lost_for_half_a_request() {
    let host = server("");
    for length in [10_000, 300_000] {
        for rest in ["", "GET", "\r\n", "GET /1 HTTP/1.1\r\nHost: a"] {
            let mut connection = host.connect();
            connection.send(get(length) + rest);
            connection.shutdown();
            let received = connection.read();
            assert!(received.ends_with(b"xxx") && received.len() > length, "{rest:?}: all of it");
            assert!(connection.is_ended() && !connection.is_reset(), "{rest:?}: in good order");
        }
    }
    assert_eq!(connections(&host), 0);
}

#[test]
fn a_response_is_sent_whole_though_a_body_is_left_and_an_upgrade_asked_for() {
    let host = server("");
    for upgrade in ["", "Upgrade: h2c\r\nConnection: upgrade\r\n"] {
        for body in
            ["", "Content-Length: 100000\r\n", "Expect: 100-continue\r\nContent-Length: 1\r\n"]
        {
            let mut connection = host.connect();
            let fields = format!("\r\n{upgrade}{body}Connection: close\r\n\r\n");
            connection.send(get(300_000).replace("\r\n\r\n", &fields));
            let received = connection.read();
            assert!(received.ends_with(b"xxx") && received.len() > 300_000, "{fields}: all of it");
            assert!(connection.is_ended() && !connection.is_reset(), "{fields}: in good order");
        }
    }
}

#[test]
fn an_empty_line_after_a_request_begins_no_other() {
    let host = server("head_timeout = \"15 s\"\nidle_timeout = \"75 s\"");
    let mut connection = host.connect();
    connection.send(get(3));
    assert!(connection.read().ends_with(b"xxx"));
    connection.send("\r\n");
    host.advance(Duration::from_secs(60));
    assert!(!connection.is_closed(), "it is idle, not late with a head");
    connection.send(get(5));
    assert!(connection.read().ends_with(b"xxxxx"));
    connection.send("\r\n");
    host.advance(Duration::from_secs(80));
    assert_eq!(connection.read(), b"");
    assert!(connection.is_ended(), "it was idle for too long");
}

#[test]
fn an_empty_line_can_come_in_two_pieces() {
    let host = server("");
    let mut connection = host.connect();
    for length in [3, 5] {
        connection.send(get(length) + "\r");
        assert!(connection.read().ends_with(&b"xxxxx"[..length]));
        host.advance(Duration::from_secs(30));
        connection.send("\n");
        host.advance(Duration::from_secs(30));
    }
    connection.send(get(2));
    let received = connection.read();
    assert!(
        received.ends_with(b"\r\n\r\nxx"),
        "{} {}",
        received.escape_ascii(),
        connection.is_closed()
    );
}

#[test]
fn a_head_gets_its_time_and_no_more_however_it_dribbles() {
    let host = server("head_timeout = \"15 s\"");
    let mut connection = host.connect();
    for byte in &get(3).as_bytes()[..14] {
        connection.send([*byte]);
        host.advance(Duration::from_secs(1));
        assert_eq!(connection.read(), b"");
    }
    host.advance(Duration::from_secs(1));
    assert!(connection.read().starts_with(b"HTTP/1.1 408 "));
    assert!(connection.is_ended());
}
