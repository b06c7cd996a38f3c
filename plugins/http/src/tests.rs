//! The plugin without a server, on a clock that the tests move: what is a matter of time, or of pipes that are full.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use medusa_plugin_api::testing::{Host, TestConnection};

/// How much a client may leave unread before writing waits.
const PIPE_BYTES: usize = 64 * 1024;

const GET: &str = "GET /PATH HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server with these settings, whose site answers `/123` with 123 bytes.
pub(crate) fn server(settings: &str) -> Host {
    let host = Host::builder(crate::load).config(settings).start().expect("the plugin starts");
    host.answer(|request: Request<Bytes>| {
        let length = request.uri().path()[1..].parse().unwrap_or(0);
        Response::new(Bytes::from(vec![b'x'; length]))
    });
    host
}

pub(crate) fn get(path: impl ToString) -> String {
    GET.replace("PATH", &path.to_string())
}

pub(crate) fn connections(host: &Host) -> u64 {
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

#[test]
fn a_plain_response_that_nobody_reads_is_given_up() {
    let host = server("send_timeout = \"5 s\"");
    let mut connection = crowded(&host, 100);
    // It is one of several that are written together.
    connection.send(get(1000).repeat(10));
    host.advance(Duration::from_secs(4));
    assert_eq!(connections(&host), 1, "it waits for the reader");
    assert!(!connection.read_at_most(1000).is_empty());
    host.advance(Duration::from_secs(4));
    assert_eq!(connections(&host), 1, "the reader is slow, and not gone");
    host.advance(Duration::from_secs(2));
    assert_eq!(connections(&host), 0);
    assert!(connection.is_reset(), "half a response is no response");
}

#[test]
fn a_connection_that_had_plain_requests_only_is_idle_for_as_long_as_others() {
    for park_after in ["250 ms", "100 s"] {
        let host = server(&format!("idle_timeout = \"75 s\"\npark_after = \"{park_after}\""));
        let mut connection = host.connect();
        for _ in 0..3 {
            connection.send(get(3));
            assert!(connection.read().ends_with(b"\r\nxxx"));
            host.advance(Duration::from_secs(74));
            assert!(
                !connection.is_closed(),
                "{park_after}: the time begins anew with each request"
            );
        }
        host.advance(Duration::from_secs(2));
        assert!(connection.is_ended() && !connection.is_reset(), "{park_after}: in good order");
        assert_eq!(connections(&host), 0);
    }
}

#[test]
fn a_connection_whose_response_ends_while_the_server_drains_gets_one_more_request() {
    // Of the front, and of hyper.
    for length in [50_000, 300_000] {
        let host = server("");
        let mut connection = crowded(&host, 100);
        connection.send(get(length));
        host.drain(Duration::from_secs(30));
        let received = connection.read();
        assert!(received.len() > length && received.ends_with(b"xxx"), "{length}: all of it");
        assert!(!connection.is_ended(), "{length}: nobody has told the client of the end");
        host.advance(Duration::from_millis(500));
        connection.send(get(3));
        let received = String::from_utf8(connection.read()).expect("text");
        assert!(received.contains("connection: close") && received.ends_with("xxx"), "{received}");
        assert!(connection.is_ended() && !connection.is_reset());
    }
}

#[test]
fn an_idle_connection_gets_one_more_request_when_the_server_drains() {
    for is_asked in [true, false] {
        let host = server("");
        let mut connection = host.connect();
        connection.send(get(3));
        assert!(connection.read().ends_with(b"xxx"));
        host.drain(Duration::from_secs(30));
        host.advance(Duration::from_millis(900));
        assert!(!connection.is_ended());
        if is_asked {
            connection.send(get(5));
            let received = String::from_utf8(connection.read()).expect("text");
            assert!(received.contains("connection: close") && received.ends_with("xxxxx"));
        } else {
            host.advance(Duration::from_millis(200));
        }
        assert!(connection.is_ended() && !connection.is_reset());
    }
}

#[test]
fn a_body_that_nobody_wanted_ends_with_its_last_byte() {
    let host = server("body_timeout = \"30 s\"\nidle_timeout = \"75 s\"");
    for (length, body) in
        [("Content-Length: 6", "abcdef"), ("Transfer-Encoding: chunked", "1\r\na\r\n0\r\n\r\n")]
    {
        for cut in 0..=body.len() {
            let mut connection = host.connect();
            let head = get(3).replace("\r\n\r\n", &format!("\r\n{length}\r\n\r\n"));
            connection.send(head + &body[..cut]);
            assert!(connection.read().ends_with(b"\r\nxxx"), "{length}, cut at {cut}");
            connection.send(&body[cut..]);
            host.advance(Duration::from_secs(60));
            assert!(!connection.is_closed(), "{length}, cut at {cut}: nobody waits for a body");
            connection.send(get(4));
            assert!(connection.read().ends_with(b"\r\nxxxx"), "{length}, cut at {cut}");
            connection.shutdown();
            assert!(connection.is_ended() && !connection.is_reset(), "{length}, cut at {cut}");
        }
        for cut in 0..body.len() {
            let mut connection = host.connect();
            let head = get(3).replace("\r\n\r\n", &format!("\r\n{length}\r\n\r\n"));
            connection.send(head + &body[..cut]);
            connection.send(&body[cut..]);
            assert!(connection.read().ends_with(b"\r\nxxx"), "{length}, cut at {cut}");
            connection.shutdown();
            assert!(connection.is_ended(), "{length}, cut at {cut}: nothing more can come");
        }
    }
    assert_eq!(connections(&host), 0);
}

/// hyper has the next request by then, and would wait for something else to happen before it goes on with it.
#[test]
fn a_pipeline_goes_on_when_a_response_that_had_to_wait_is_out() {
    let host = server("");
    for body in
        ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
    {
        for split in 0..body.len() {
            let mut connection = crowded(&host, 0);
            let with_body = get(1000).replace("\r\n\r\n", &format!("\r\n{body}"));
            let (first, rest) = with_body.split_at(with_body.len() - split);
            connection.send(first);
            connection.send(rest.to_owned() + &get(1000) + &with_body + &get(1000));
            let received = String::from_utf8(connection.read()).expect("text");
            assert_eq!(
                received.matches("content-length: 1000").count(),
                4,
                "{body:?} cut at {split}"
            );
        }
    }
}
