//! What the server refuses, and what becomes of the connection: after each bad request a canary on the same connection is
//! either not answered, because the connection is closed, or answered exactly.

use std::{fs, os::unix::fs::symlink};

use medusa_tests::{Broken, Client, End, Folder, Server};

const CANARY: &[u8] = b"the canary sings\n";

/// Limits small enough to be reached, and a wait for heads short enough to be waited for.
const STRICT: &str = r#"
[[plugin]]
name = "web"
library = "http"
listen = ["127.0.0.1:0"]
[plugin.config]
head_bytes_max = "4 KiB"
target_bytes_max = 1024
fields_max = 20
body_bytes_max = 1000
head_timeout = "300 ms"
body_timeout = "300 ms"
idle_timeout = "20 s"

[[plugin]]
name = "site"
library = "http-files"
attach = "web"
path = "/"
[plugin.config]
root = "site"

[[plugin]]
name = "probe"
library = "http-probe"
attach = "web"
path = "/probe"
"#;

fn server() -> Server {
    let folder = Folder::new()
        .with("site/canary", CANARY)
        .with("site/sub/inside", "inside\n")
        .with("site/%2e%2e/x", "a strange name\n")
        .with("site/.hidden", "hidden\n")
        .with("secret", "secret\n");
    symlink("../secret", folder.path("site/out")).expect("a link can be made");
    symlink("/etc/passwd", folder.path("site/absolute")).expect("a link can be made");
    symlink("sub/inside", folder.path("site/in")).expect("a link can be made");
    folder.start(STRICT)
}

/// What a request came to.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Answered, with this status, and the canary after it exactly.
    Answered(u16),
    /// Answered, with this status, and the connection was closed in order.
    Refused(u16),
}

/// Sends a request with a canary right behind it.
#[track_caller]
fn outcome(server: &Server, request: &[u8]) -> Outcome {
    let mut client = Client::connect(server.address("web"));
    client.send(request);
    // A server that has closed already answers this with a reset, which is as good.
    let _ = client.try_send("GET /canary HTTP/1.1\r\nHost: test\r\n\r\n");
    let response = client.response();
    assert!(!response.text().contains("secret"), "a file outside the root was served");
    match client.try_response(false) {
        Ok(canary) => {
            assert_eq!((canary.status, canary.body.as_slice()), (200, CANARY));
            Outcome::Answered(response.status)
        }
        Err(Broken::Closed { received }) => {
            assert_eq!(received, b"", "nothing may follow the last response");
            assert_eq!(response.header("connection"), Some("close"));
            assert_eq!(response.header("server"), Some("medusa"), "the page is ours");
            assert!(response.text().contains("<p>"), "the page says what is wrong");
            Outcome::Refused(response.status)
        }
        Err(broken) => panic!("neither closed nor answered: {broken}"),
    }
}

#[track_caller]
fn check(server: &Server, request: impl AsRef<[u8]>, expected: Outcome) {
    let request = request.as_ref();
    let shown = request[..request.len().min(120)].escape_ascii();
    assert_eq!(outcome(server, request), expected, "{shown}");
}

#[test]
fn malformed_heads_are_refused_and_close() {
    let server = server();
    let refused = |request: &str, status| check(&server, request, Outcome::Refused(status));
    refused("GET / HTTP/1.1\nHost: a\n\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400);
    refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400);
    refused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    refused("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    refused("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505);
    refused("GET /< HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check(&server, "GET /canary HTTP/1.2\r\nHost: a\r\n\r\n", Outcome::Answered(200));
    check(&server, "GET /canary HTTP/1.1\r\nHost: [v1.x]\r\n\r\n", Outcome::Answered(200));
    refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505);
    refused("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417);
}

#[test]
fn conflicting_framing_is_refused_and_closes() {
    let server = server();
    let refused = |fields: &str, status| {
        let request = format!("POST /probe/count HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n");
        check(&server, request, Outcome::Refused(status));
    };
    refused("Content-Length: 5\r\nContent-Length: 6", 400);
    refused("Content-Length: 5\r\nContent-Length: 5", 400);
    refused("Content-Length: 5, 5", 400);
    refused("Content-Length: +5", 400);
    refused("Content-Length: 99999999999999999999", 400);
    refused("Content-Length: 5\r\nTransfer-Encoding: chunked", 400);
    refused("Transfer-Encoding: chunked\r\nContent-Length: 5", 400);
    refused("Transfer-Encoding: chunked, identity", 400);
    refused("Transfer-Encoding: gzip", 400);
    refused("Transfer-Encoding: \"chunked\"", 400);
    refused("Transfer-Encoding: gzip, chunked", 501);
    refused("Content-Length: 1001", 413);
    let old = "POST /probe/count HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    check(&server, old, Outcome::Refused(400));
}

#[test]
fn malformed_chunks_are_refused_and_close() {
    let server = server();
    let post = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
    };
    for body in [
        "zz\r\n",
        "5\nabcde\r\n",
        "-1\r\n",
        "3\r\nabcde\r\n0\r\n\r\n",
        "1;\nx",
        "ffffffffffffffffff\r\n",
    ] {
        check(&server, post("/probe/count", body), Outcome::Refused(400));
    }
    check(&server, post("/probe/count", "0\r\nX: y\n\r\n"), Outcome::Refused(400));
    check(&server, post("/probe/count", "3e9\r\n"), Outcome::Refused(413));
    check(&server, post("/probe/count", "3\r\nabc\r\n0\r\nX: y\r\n\r\n"), Outcome::Answered(200));
}

#[test]
fn limits_have_their_status() {
    let server = server();
    check(
        &server,
        format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(1100)),
        Outcome::Refused(414),
    );
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(20));
    check(&server, many, Outcome::Refused(431));
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(5000));
    check(&server, long, Outcome::Refused(431));
    let megabyte = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}",
        format!("X: {}\r\n", "y".repeat(994)).repeat(1000)
    );
    check(&server, megabyte, Outcome::Refused(431));
    check(&server, format!("GET /{}", "a".repeat(1_000_000)), Outcome::Refused(414));
}

#[test]
fn paths_cannot_leave_the_root() {
    let server = server();
    let get =
        |path: &str| outcome(&server, format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    for path in [
        "/../secret",
        "/%2e%2e/secret",
        "/%2e./secret",
        "/sub/../../secret",
        "/sub/%2e%2e/%2e%2e/secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret",
        "/%252e%252e/secret",
        "/..%5csecret",
        "/..\\secret",
        "/out",
        "/absolute",
        "/canary%00",
        "/%00",
        "/canary%00.html",
        "/.hidden",
        "/%2ehidden",
        "/sub/../.hidden",
        "/canary/",
        "/nothing",
        "/%ff%fe",
        "//secret",
        "/./../secret",
        "/.%2e/.%2e/.%2e/etc/passwd",
    ] {
        let found = get(path);
        assert!(
            matches!(found, Outcome::Answered(404 | 400) | Outcome::Refused(400)),
            "{path}: {found:?}"
        );
    }
    assert_eq!(get("/in"), Outcome::Answered(200));
    assert_eq!(get("/sub/../canary"), Outcome::Answered(200));
    assert_eq!(get("/%63anary"), Outcome::Answered(200));
    // Decoded once, this is the name of a file.
    assert_eq!(get("/%252e%252e/x"), Outcome::Answered(200));
    assert!(matches!(get("/%zz"), Outcome::Answered(400) | Outcome::Refused(400)));
    fs::metadata(server.folder().path("secret")).expect("the secret is still there");
}

#[test]
fn methods_that_are_not_for_us_are_answered() {
    let server = server();
    check(&server, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Outcome::Answered(405));
    check(&server, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", Outcome::Answered(501));
    check(&server, "DELETE /canary HTTP/1.1\r\nHost: a\r\n\r\n", Outcome::Answered(405));
    check(&server, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Outcome::Answered(204));
    check(&server, "OPTIONS /canary HTTP/1.1\r\nHost: a\r\n\r\n", Outcome::Answered(204));
}

#[test]
fn a_head_that_comes_too_slowly_is_refused() {
    let server = server();
    let mut client = Client::connect(server.address("web"));
    client.send("GET /canary HTTP/1.1\r\nHo");
    let response = client.response();
    assert_eq!((response.status, response.header("connection")), (408, Some("close")));
    assert_eq!(client.end(), End::Eof);

    // A second head is waited for no longer than a first.
    let mut client = Client::connect(server.address("web"));
    client.send("GET /canary HTTP/1.1\r\nHost: a\r\n\r\nG");
    assert_eq!(client.response().body, CANARY);
    assert_eq!(client.response().status, 408);
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn a_refusal_of_head_has_no_body() {
    let server = server();
    for request in [
        "HEAD / HTTP/1.1\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "\r\nHEAD /a#b HTTP/1.1\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHo",
    ] {
        let mut client = Client::connect(server.address("web"));
        client.send(request);
        let response = client.head_response();
        assert!(matches!(response.status, 400 | 408), "{request:?}: {}", response.status);
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        assert!(length > Some(0), "the length is that of the page: {length:?}");
        assert_eq!(client.end(), End::Eof);
    }
}

#[test]
fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let server = server();
    assert_eq!(Client::connect(server.address("web")).end(), End::Eof);
}

#[test]
fn a_body_that_comes_too_slowly_is_refused() {
    let server = server();
    let mut client = Client::connect(server.address("web"));
    client.send("POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    assert_eq!(client.response().status, 408);
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn a_head_that_comes_byte_by_byte_is_read() {
    let server = server();
    let mut client = Client::connect(server.address("web"));
    for _ in 0..2 {
        for byte in b"GET /canary HTTP/1.1\r\nHost: test\r\n\r\n" {
            client.send([*byte]);
        }
        assert_eq!(client.response().body, CANARY);
    }
    for byte in b"GET /canary HTTP/1.1\r\nHost: test\n" {
        let _ = client.try_send([*byte]);
    }
    assert_eq!(client.response().status, 400);
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn a_bad_request_does_not_harm_those_before_it() {
    let server = server();
    let mut client = Client::connect(server.address("web"));
    let good = "GET /canary HTTP/1.1\r\nHost: a\r\n\r\n";
    client.send(format!("{good}{good}{good}GET / HTTP/1.1\nHost: a\n\n{good}"));
    for _ in 0..3 {
        assert_eq!(client.response().body, CANARY);
    }
    assert_eq!(client.response().status, 400);
    assert_eq!(client.end(), End::Eof);
}
