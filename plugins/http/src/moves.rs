//! Connections on their way to the next generation: what is in flight, waits, or has come in part then.

use std::time::Duration;

use medusa_plugin_api::{
    Registrar, Response, ResponseExt as _, Result, sleep,
    testing::{Host, TestConnection},
};

use crate::tests::{connections, get, server};

const SECOND: Duration = Duration::from_secs(1);

/// The server, and an extension that takes its time.
fn load(registrar: &mut Registrar) -> Result<()> {
    crate::load(registrar)?;
    registrar.http("/slow", async |mut request: medusa_plugin_api::Request| {
        sleep(SECOND).await;
        let body = request.take_body().bytes(1000).await?;
        Ok(Response::bytes("text/plain", body))
    });
    Ok(())
}

fn slow_server(settings: &str) -> Host {
    Host::builder(load).config(settings).start().expect("the plugin starts")
}

#[track_caller]
fn ends_well(conn: &mut TestConnection) -> String {
    let received = String::from_utf8(conn.read()).expect("text");
    assert!(conn.is_ended() && !conn.is_reset(), "{received}");
    received
}

#[test]
fn half_a_head_gets_no_more_time_by_being_handed_over() {
    let host = server("head_timeout = \"10 s\"");
    for before in ["", &get(1)] {
        let mut conn = host.connect();
        conn.send(before.to_owned() + "GET /1 HT");
        for _ in 0..3 {
            host.advance(3 * SECOND);
            host.upgrade(crate::load).expect("it is the same plugin");
        }
        assert!(!conn.is_closed(), "it has one second more");
        host.advance(2 * SECOND);
        let received = ends_well(&mut conn);
        assert!(received.contains("HTTP/1.1 408 "), "{received}");
        conn.shutdown();
    }
    host.advance(3 * SECOND);
    assert_eq!(connections(&host), 0);
}

#[test]
fn a_connection_that_nobody_takes_is_served_to_its_end() {
    for rests in ["", "GET /1 HT"] {
        let host = slow_server("");
        let mut conn = host.connect();
        conn.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        host.hand_over().expect("nothing of it fails");
        host.advance(SECOND);
        assert!(String::from_utf8_lossy(&conn.read()).starts_with("HTTP/1.1 200 "));
        conn.send(rests);
        // The next generation is gone meanwhile.
        host.drain(60 * SECOND);
        let next = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
        conn.send(&next[rests.len()..]);
        let received = ends_well(&mut conn);
        assert!(received.starts_with("HTTP/1.1 404 "), "{received}");
        assert!(received.contains("connection: close"), "{received}");
    }
}

#[test]
fn requests_are_counted_across_generations() {
    let host = server("requests_max = 3");
    let mut conn = host.connect();
    for _ in 0..2 {
        conn.send(get(1));
        assert!(!String::from_utf8_lossy(&conn.read()).contains("connection: close"));
        host.upgrade(crate::load).expect("it is the same plugin");
    }
    conn.send(get(1) + &get(2));
    let received = ends_well(&mut conn);
    assert_eq!(received.matches("HTTP/1.1 200 ").count(), 1, "{received}");
    assert!(received.contains("connection: close"), "{received}");
}

#[test]
fn what_has_come_of_a_long_pipeline_goes_over() {
    let host = slow_server("");
    let mut conn = host.connect();
    let slow = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";
    let filling = format!("GET /1 HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(900));
    conn.send(slow.to_owned() + &filling.repeat(200));
    host.advance(SECOND / 2);
    host.hand_over().expect("nothing of it fails");
    host.advance(SECOND);
    assert!(host.is_at_rest());
    host.upgrade(load).expect("it is the same plugin");
    conn.shutdown();
    let received = ends_well(&mut conn);
    assert_eq!(received.matches("HTTP/1.1 200 ").count(), 1);
    assert_eq!(received.matches("HTTP/1.1 404 ").count(), 200);
    assert!(!received.contains("connection: close"));
}

#[test]
fn a_body_that_waits_to_be_asked_for_is_answered_where_it_is() {
    let host = slow_server("");
    let mut conn = host.connect();
    conn.send(
        "POST /slow HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    );
    host.hand_over().expect("nothing of it fails");
    assert!(!host.is_at_rest());
    host.advance(SECOND);
    assert_eq!(conn.read(), b"HTTP/1.1 100 Continue\r\n\r\n");
    conn.send("abGET /sl");
    let received = String::from_utf8(conn.read()).expect("text");
    assert!(
        received.starts_with("HTTP/1.1 200 ") && received.ends_with("\r\n\r\nab"),
        "{received}"
    );
    assert!(!received.contains("connection: close"), "{received}");
    host.upgrade(load).expect("it is the same plugin");
    conn.send("ow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    host.advance(SECOND);
    assert!(ends_well(&mut conn).starts_with("HTTP/1.1 200 "));
}

#[test]
fn what_is_refused_behind_a_request_in_flight_is_refused_here_or_there() {
    for bad in
        ["nonsense\n\n", "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX\x01: y\r\n\r\n"]
    {
        for comes_before in [true, false] {
            let host = slow_server("");
            let mut conn = host.connect();
            conn.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
            if comes_before {
                conn.send(bad);
            }
            host.hand_over().expect("nothing of it fails");
            if !comes_before {
                conn.send(bad);
            }
            host.advance(SECOND);
            host.upgrade(load).expect("it is the same plugin");
            let received = ends_well(&mut conn);
            assert!(received.starts_with("HTTP/1.1 200 "), "{bad:?}: {received}");
            assert_eq!(received.matches("HTTP/1.1 400 ").count(), 1, "{bad:?}: {received}");
        }
    }
}

#[test]
fn a_client_that_has_ended_its_half_is_answered_by_either_generation() {
    for ends_before in [true, false] {
        let host = slow_server("");
        let mut conn = host.connect();
        let slow = "GET /slow HTTP/1.1\r\nHost: a\r\n\r\n";
        conn.send(slow.repeat(3));
        if ends_before {
            conn.shutdown();
        }
        host.advance(SECOND / 2);
        host.hand_over().expect("nothing of it fails");
        for _ in 0..8 {
            host.advance(SECOND / 2);
        }
        assert!(host.is_at_rest());
        host.upgrade(load).expect("it is the same plugin");
        if !ends_before {
            conn.shutdown();
        }
        host.advance(4 * SECOND);
        let received = ends_well(&mut conn);
        assert_eq!(received.matches("HTTP/1.1 200 ").count(), 3, "{ends_before}: {received}");
    }
}
