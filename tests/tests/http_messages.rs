//! HTTP/1.1 as it should be: keep-alive, pipelining, bodies both ways, HEAD, 100, and what becomes of faulty extensions.

use std::{fmt::Write as _, process::Command, time::Duration};

use medusa_tests::{Broken, Client, End, Folder, Server, tool, wait_until};

const SITE: &str = r#"
[[plugin]]
name = "web"
library = "http"
listen = ["127.0.0.1:0"]
[plugin.config]
health = "/health"
drain_bytes_max = "8 KiB"
requests_max = 50

[[plugin]]
name = "probe"
library = "http-probe"
attach = "web"
path = "/"
"#;

fn server() -> Server {
    Folder::new().start(SITE)
}

fn client(server: &Server) -> Client {
    Client::connect(server.address("web"))
}

fn post(path: &str, fields: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}")
}

fn with_length(path: &str, body: &str) -> String {
    post(path, &format!("Content-Length: {}", body.len()), body)
}

#[test]
fn a_response_has_the_fields_that_a_server_adds() {
    let server = server();
    let mut client = client(&server);
    let response = client.get("/ignore");
    assert_eq!((response.status, response.text()), (200, "ignored\n"));
    assert_eq!(response.header("server"), Some("medusa"));
    assert_eq!(response.header("content-length"), Some("8"));
    let date = response.header("date").expect("a server with a clock sends a date");
    assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
    assert_eq!(response.header("connection"), None);
}

#[test]
fn pages_say_what_is_wrong() {
    let server = server();
    let response = client(&server).get("/nothing/here");
    assert_eq!(response.status, 404);
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(response.text().contains("404") && response.text().contains("Not Found"));
}

#[test]
fn the_health_check_is_answered_by_the_server() {
    let server = server();
    let mut client = client(&server);
    assert_eq!(client.get("/health").text(), "ok\n");
    let head = client.head("/health");
    assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
    client.send(with_length("/health", "x"));
    assert_eq!(client.response().status, 405);
}

#[test]
fn requests_can_be_pipelined() {
    let server = server();
    let mut client = client(&server);
    let mut requests = String::new();
    for number in 0..20 {
        let _ = write!(requests, "GET /seen?{number} HTTP/1.1\r\nHost: h\r\n\r\n");
        requests.push_str(&with_length("/echo", &"x".repeat(number)));
    }
    client.send(requests);
    for number in 0..20 {
        assert_eq!(client.response().text(), format!("GET h h /seen {number}\n"));
        assert_eq!(client.response().text(), "x".repeat(number));
    }
    assert!(client.is_idle());
}

#[test]
fn the_target_and_the_authority_reach_the_handler() {
    let server = server();
    let mut client = client(&server);
    let mut seen = |target: &str| {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: h:1\r\n\r\n"));
        client.response().text().to_owned()
    };
    assert_eq!(seen("/seen"), "GET h:1 h:1 /seen -\n");
    assert_eq!(seen("/seen?a=b&c"), "GET h:1 h:1 /seen a=b&c\n");
    // The authority of an absolute target is the host, whatever the field says.
    assert_eq!(seen("http://other:2/seen?q"), "GET other:2 other:2 /seen q\n");
    client.send("GET http://other:2/seen HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().text(), "GET other:2 other:2 /seen -\n");
}

#[test]
fn bodies_go_both_ways() {
    let server = server();
    let mut client = client(&server);
    let body = "0123456789".repeat(30_000);
    client.send(with_length("/echo", &body));
    assert_eq!(client.response().text(), body);

    client.send(post(
        "/echo",
        "Transfer-Encoding: chunked",
        "3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n",
    ));
    assert_eq!(client.response().text(), "abcdefg");

    client.send(with_length("/count", &body));
    assert_eq!(client.response().text(), "300000\n");

    let pieces = client.get("/pieces");
    assert_eq!((pieces.text(), pieces.header("transfer-encoding")), ("abcdef", Some("chunked")));
}

#[test]
fn http_1_0_is_answered_in_kind() {
    let server = server();
    let mut client = client(&server);
    client.send("GET /pieces HTTP/1.0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.text(), response.header("transfer-encoding")), ("abcdef", None));
    assert_eq!(client.end(), End::Eof);

    let mut client = self::client(&server);
    client.send("GET /ignore HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.response().header("connection"), Some("keep-alive"));
    assert_eq!(client.get("/ignore").text(), "ignored\n");
}

#[test]
fn a_client_can_end_its_half_and_still_be_answered() {
    let server = server();
    let mut client = client(&server);
    client.send("GET /ignore HTTP/1.1\r\nHost: a\r\n\r\n");
    client.finish_sending();
    assert_eq!(client.response().text(), "ignored\n");
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn connection_close_closes() {
    let server = server();
    let mut client = client(&server);
    let response = client.get_with("/ignore", "Connection: close\r\n");
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn the_last_request_of_a_connection_closes_it() {
    let server = server();
    let mut client = client(&server);
    for number in 1..=50 {
        let expected = if number == 50 { Some("close") } else { None };
        assert_eq!(client.get("/ignore").header("connection"), expected, "request {number}");
    }
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn head_has_the_length_of_get_and_no_body() {
    let server = server();
    let mut client = client(&server);
    let head = client.head("/ignore");
    assert_eq!((head.status, head.header("content-length")), (200, Some("8")));
    let head = client.head("/nothing");
    assert_eq!(head.status, 404);
    assert_eq!(client.head("/pieces").status, 200);
    assert_eq!(client.get("/no-content").status, 204);
    assert_eq!(client.get("/ignore").text(), "ignored\n");
}

#[test]
fn a_100_is_sent_when_the_body_is_wanted() {
    let server = server();
    let mut client = client(&server);
    client.send(post("/count", "Expect: 100-continue\r\nContent-Length: 3", ""));
    let first = client.read_some(1000);
    assert_eq!(first, b"HTTP/1.1 100 Continue\r\n\r\n");
    client.send("abc");
    assert_eq!(client.response().text(), "3\n");

    // A handler that does not look at the body does not ask for it, and the connection is of no more use.
    client.send(post("/ignore", "Expect: 100-continue\r\nContent-Length: 3", ""));
    let response = client.response();
    assert_eq!((response.text(), response.interim.len()), ("ignored\n", 0));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn an_unread_body_is_drained_or_ends_the_connection() {
    let server = server();
    let mut client = client(&server);
    for _ in 0..3 {
        client.send(with_length("/ignore", &"x".repeat(5000)));
        assert_eq!(client.response().text(), "ignored\n");
    }
    // In two pieces, the second after the answer.
    client.send(post("/ignore", "Content-Length: 5000", "x"));
    assert_eq!(client.response().text(), "ignored\n");
    client.send("x".repeat(4999));
    client.send(post("/ignore", "Transfer-Encoding: chunked", "5\r\nabcde\r\n"));
    assert_eq!(client.response().text(), "ignored\n");
    client.send("0\r\n\r\n");
    assert_eq!(client.get("/ignore").text(), "ignored\n");

    client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.response().status, 204);
    client.send(with_length("/health", "x"));
    assert_eq!(client.response().status, 405);
    assert_eq!(client.get("/ignore").header("connection"), None);

    // Who answers for the server says too that it reads no more.
    for path in ["/ignore", "/nothing", "/health", "/fail"] {
        let mut client = self::client(&server);
        let _ = client.try_send(with_length(path, &"x".repeat(2_000_000)));
        assert_eq!(client.response().header("connection"), Some("close"), "{path}");
        assert_eq!(client.end(), End::Eof);
    }
}

#[test]
fn a_body_that_breaks_off_is_the_fault_of_its_client() {
    let server = server();
    let chunked = "Transfer-Encoding: chunked";
    let long = format!("0\r\nX: {}\r\n\r\n", "y".repeat(20_000));
    let many = format!("0\r\n{}\r\n", "X: y\r\n".repeat(150));
    for (status, request) in [
        (400, post("/count", "Content-Length: 10", "12345")),
        (400, post("/count", chunked, "5\r\n123")),
        (400, post("/count", chunked, "5\r\n12345\r\n")),
        (400, post("/count", chunked, "5\r\n12345\r\n0\r\nnonsense\r\n\r\n")),
        (431, post("/count", chunked, &long)),
        (431, post("/count", chunked, &many)),
    ] {
        let mut client = client(&server);
        client.send(&request);
        client.finish_sending();
        let response = client.response();
        let shown = &request[..request.len().min(120)];
        assert_eq!(
            (response.status, response.header("connection")),
            (status, Some("close")),
            "{shown}"
        );
        assert!(!response.text().contains("not yours"), "{shown}");
        assert_eq!(client.end(), End::Eof);
    }
}

#[test]
fn faults_of_extensions_are_contained() {
    let server = server();
    let mut client = client(&server);
    for path in ["/fail", "/panic", "/interim", "/many-fields"] {
        assert_eq!(client.get(path).status, 500, "{path}");
    }
    let response = client.get("/hops");
    for name in ["x-drop", "keep-alive", "upgrade", "transfer-encoding"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!((response.header("x-keep"), response.text()), (Some("1"), "x"));
    // Too long is cut.
    assert_eq!(client.get("/long").text(), "1234567");
    assert_eq!(client.get("/ignore").text(), "ignored\n");
}

#[test]
fn a_body_that_breaks_resets_the_connection() {
    let server = server();
    for path in ["/short", "/breaks", "/panics-late"] {
        let mut client = client(&server);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        match client.try_response(false) {
            Err(Broken::Reset { .. }) => {}
            other => panic!("{path}: a reset was expected, not {other:?}"),
        }
    }
    assert_eq!(client(&server).get("/ignore").text(), "ignored\n");
}

#[test]
fn a_client_that_goes_away_cancels_its_request() {
    let server = server();
    let cancelled = |expected: &str| {
        wait_until("the handler to be dropped", Duration::from_secs(20), || {
            client(&server).get("/cancelled").text() == expected
        });
    };
    let mut gone = client(&server);
    gone.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client(&server).get("/cancelled").text(), "0\n");
    drop(gone);
    cancelled("1\n");
}

#[test]
fn each_request_of_a_client_that_has_ended_its_half_gets_its_time() {
    let server =
        Folder::new().start(&SITE.replace("requests_max", "ended_timeout = \"1 s\"\nrequests_max"));
    let mut client = client(&server);
    client.send("GET /wait?600 HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3));
    client.finish_sending();
    for _ in 0..3 {
        assert_eq!(client.response().text(), "waited\n");
    }
    assert_eq!(client.end(), End::Eof);

    // One that takes too long stays unanswered, and harms none before it.
    let mut client = self::client(&server);
    client.send("GET /wait?10 HTTP/1.1\r\nHost: a\r\n\r\nGET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    client.finish_sending();
    assert_eq!(client.response().text(), "waited\n");
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn a_client_that_goes_away_ends_a_response_that_says_nothing() {
    let server = server();
    let silent = "GET /silent HTTP/1.1\r\nHost: a\r\n\r\n";
    let cancelled = |expected: &str| {
        wait_until("the body to be dropped", Duration::from_secs(20), || {
            client(&server).get("/cancelled").text() == expected
        });
    };
    // What was not read makes a reset of its going.
    let mut gone = client(&server);
    gone.send(silent);
    gone.stream().peek(&mut [0]).expect("the response begins");
    drop(gone);
    cancelled("1\n");

    let mut ended = client(&server);
    ended.send(silent);
    ended.read_some(10);
    ended.finish_sending();
    cancelled("2\n");
}

#[test]
fn draining_lets_requests_finish() {
    let server = server();
    let mut idle = client(&server);
    assert_eq!(idle.get("/ignore").text(), "ignored\n");
    let mut half = client(&server);
    half.send("GET /ignore HTTP/1.1\r\nHo");
    let mut busy = client(&server);
    busy.send(post("/count", "Content-Length: 6", "abc"));
    // Both are known to the server once a later connection was answered.
    assert_eq!(client(&server).get("/ignore").text(), "ignored\n");

    let mut unload = server.ctl_command().args(["unload", "web"]).spawn().expect("ctl can be run");
    assert_eq!(idle.end(), End::Eof);
    half.send("st: a\r\n\r\n");
    let response = half.response();
    assert_eq!((response.text(), response.header("connection")), ("ignored\n", Some("close")));
    assert_eq!(half.end(), End::Eof);
    busy.send("def");
    let response = busy.response();
    assert_eq!((response.text(), response.header("connection")), ("6\n", Some("close")));
    assert_eq!(busy.end(), End::Eof);
    drop((idle, half, busy));
    assert!(unload.wait().expect("ctl ends").success());
}

#[test]
fn curl_is_content() {
    let Some(curl) = tool("curl") else { return };
    let server = server();
    let url = format!("http://{}", server.address("web"));
    let run = |arguments: &[&str]| {
        let output = Command::new(&curl).args(["-sS", "--max-time", "20"]).args(arguments).output();
        let output = output.expect("curl can be run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("the output is text")
    };
    assert_eq!(run(&[&format!("{url}/ignore"), &format!("{url}/pieces")]), "ignored\nabcdef");
    assert_eq!(run(&["--data", "hello", &format!("{url}/echo")]), "hello");
    let long = "x".repeat(100_000);
    assert_eq!(
        run(&["-H", "Expect: 100-continue", "--data", &long, &format!("{url}/count")]),
        "100000\n"
    );
    assert!(run(&["--head", &format!("{url}/ignore")]).starts_with("HTTP/1.1 200 OK\r\n"));
}
