//! Answers that are given again: to whom, for how long, and who hears of it.

use std::{fs, time::Duration};

use medusa_tests::{Client, End, Folder, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// A server of files that looks at a file again after `check_every`.
fn server(check_every: &str, more: &str) -> Server {
    Folder::new()
        .with("site/text", "0123456789")
        .with("site/large", large(b'a'))
        .start(&format!(
            "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
             [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n\
             [plugin.config]\nroot = \"site\"\ncheck_every = \"{check_every}\"\n{more}"
        ))
}

/// More than is kept in memory, and not divisible by anything that it may be sent in.
fn large(byte: u8) -> Vec<u8> {
    (0..300_007).map(|at| if at % 1000 == 0 { (at / 1000) as u8 } else { byte }).collect()
}

fn client(server: &Server) -> Client {
    Client::connect(server.address("web"))
}

#[test]
fn an_answer_is_given_again_for_the_same_request_only() {
    let server = server("1 h", "");
    let mut client = client(&server);
    let first = client.get("/text");
    let etag = format!("If-None-Match: {}\r\n", first.header("etag").expect("a file has a tag"));
    assert_eq!(client.get_with("/text", &etag).status, 304);
    server.folder().write("site/text", "abcdefghijkl");

    // Given again: nobody has looked at the file.
    let again = client.get("/text");
    assert_eq!(again.text(), "0123456789");
    assert_eq!(again.header("content-length"), Some("10"));
    for name in ["etag", "last-modified", "content-type", "server"] {
        assert_eq!(again.header(name), first.header(name));
    }
    assert!(again.header("date").is_some());
    assert_eq!(client.get_with("/text", &etag).status, 304);

    // Other requests: whoever answers them has seen the new file.
    let other = client.get_with("/text", "If-None-Match: \"x\"\r\n");
    assert_eq!((other.status, other.text()), (200, "abcdefghijkl"));
    assert_eq!(client.get_with("/text", "Range: bytes=0-2\r\n").text(), "abc");
    assert_eq!(client.get("/text?query").text(), "abcdefghijkl");
    assert_eq!(client.get_with("/text", "Accept: */*\r\n").text(), "0123456789");
    client.send("HEAD /text HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head_response().header("content-length"), Some("12"));
}

#[test]
fn a_large_answer_is_given_again_byte_for_byte() {
    let server = server("1 h", "");
    let mut client = client(&server);
    for _ in 0..3 {
        assert!(client.get("/large").body == large(b'a'));
        assert_eq!(client.get("/text").text(), "0123456789");
    }
    // The file that was opened is another now than that of the name.
    server.folder().write("site/new", large(b'b'));
    let path = |name: &str| server.folder().path(name);
    fs::rename(path("site/new"), path("site/large")).expect("a file can be renamed");
    assert!(client.get("/large").body == large(b'a'), "it is given again");
    // Several in one write, with short ones between them.
    let request =
        |name: &str| format!("GET /{name} HTTP/1.1\r\nHost: {}\r\n\r\n", server.address("web"));
    client.send(["large", "text", "large", "text"].map(request).concat());
    for _ in 0..2 {
        assert_eq!(client.response().body.len(), large(b'a').len());
        assert_eq!(client.response().text(), "0123456789");
    }
}

/// What stood behind a request that takes its time was answered by whoever gives the answers, each time.
#[test]
fn an_answer_is_given_again_behind_a_request_that_waits() {
    let probe = "[[plugin]]\nname = \"probe\"\nlibrary = \"http-probe\"\nattach = \"web\"\npath = \"/probe\"\n";
    let server = server("1 h", probe);
    let mut client = client(&server);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
    let post = "POST /probe/count HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nGET /";
    client.send(get("/text"));
    assert_eq!(client.response().text(), "0123456789");
    // Whoever asks for the file sees this one.
    server.folder().write("site/text", "other");
    let (text, waits) = (get("/text"), get("/probe/late?3"));
    for requests in [
        vec![&*waits, &text],
        vec![&*waits, &text, &text, &waits, &text],
        vec![post, &text],
        vec![&*text, post, &text, &waits, post, &text],
    ] {
        client.send(requests.concat());
        for request in requests {
            let response = client.response();
            let expected: &[u8] = match request {
                request if request == text => b"0123456789",
                request if request == post => b"5\n",
                _ => &[0, 0, 0],
            };
            assert_eq!(response.body, expected, "{request}");
        }
    }
    assert_eq!(client.get_with("/text", "Range: bytes=0-\r\n").text(), "other");
}

#[test]
fn a_client_that_asks_the_same_again_and_again_is_answered_to_what_it_asks() {
    let server = server("1 h", "");
    server.folder().write("site/texu", "another");
    let mut client = client(&server);
    let get = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHOST: test\r\n{more}\r\n");
    let text = get("/text", "X: 1\r\n");
    let again = |client: &mut Client, times: usize| {
        for _ in 0..times {
            client.send(&text);
            assert_eq!(client.response().text(), "0123456789");
        }
    };
    again(&mut client, 5);
    // As long, and the same but for a byte.
    client.send(get("/texu", "X: 1\r\n"));
    assert_eq!(client.response().text(), "another");
    again(&mut client, 4);
    client.send(get("/text", "X\0: 1\r\n"));
    assert_eq!(client.response().status, 400);

    let mut client = Client::connect(server.address("web"));
    again(&mut client, 4);
    // The same, and then something else; in pieces, and several at once.
    client.send(get("/text", "X: 1\r\nRange: bytes=1-2\r\n"));
    assert_eq!(client.response().text(), "12");
    again(&mut client, 4);
    for at in [1, 4, text.len() - 3, text.len() - 1] {
        client.send(&text[..at]);
        // Answered on another connection, so that the loop has come by meanwhile.
        assert_eq!(Client::connect(server.address("web")).get("/texu").text(), "another");
        client.send(&text[at..]);
        assert_eq!(client.response().text(), "0123456789");
        again(&mut client, 4);
    }
    client.send(text.repeat(100) + &get("/texu", ""));
    for _ in 0..100 {
        assert_eq!(client.response().text(), "0123456789");
    }
    assert_eq!(client.response().text(), "another");
    again(&mut client, 4);
    client.send(text.repeat(3) + &get("/text", "Connection: close\r\n") + &text);
    for _ in 0..3 {
        assert_eq!(client.response().header("connection"), None);
    }
    assert_eq!(client.response().header("connection"), Some("close"));
    assert_eq!(client.end(), End::Eof);
}

#[test]
fn a_changed_file_is_seen_after_a_second() {
    let server = server("1 s", "");
    let mut client = client(&server);
    for text in ["abcdefghij", "short", ""] {
        server.folder().write("site/text", text);
        wait_until("the new file to be served", PATIENCE, || client.get("/text").text() == text);
    }
    fs::remove_file(server.folder().path("site/text")).expect("a file can be removed");
    wait_until("the file to be gone", PATIENCE, || client.get("/text").status == 404);
    server.folder().write("site/text", "again");
    assert_eq!(client.get("/text").text(), "again");
}

#[test]
fn answers_are_void_with_every_change_of_routes_and_with_their_giver() {
    let server = server("1 h", "");
    let mut client = client(&server);
    let mut contents = (b'a'..).map(|byte| char::from(byte).to_string());
    let mut old = client.get("/text").text().to_owned();
    let mut check = |what: &str, change: &[&str]| {
        let new = contents.next().expect("there are letters");
        server.folder().write("site/text", &new);
        for _ in 0..4 {
            assert_eq!(client.get("/text").text(), old, "before {what} it is given again");
        }
        server.ctl(change).succeeded();
        assert_eq!(client.get("/text").text(), new, "after {what} it is not");
        old = new;
    };
    check("an upgrade", &["reload", "site"]);
    let set = "handlers=[\"/elsewhere\", \"/elsewhere\"]";
    check("a new handler", &["load", "a", "--library", "chain", "--attach", "web", "--set", set]);
    let routes = server.ctl_json(["routes"]);
    let routes = routes.as_array().expect("routes are listed");
    let elsewhere = routes.iter().filter(|it| it["path"] == "/elsewhere");
    let ids: Vec<_> = elsewhere.map(|it| it["id"].to_string()).collect();
    check("a move", &["routes", "move", &ids[1], "before", &ids[0]]);
    check("an unload", &["unload", "a"]);

    assert_eq!(client.get("/text").status, 200);
    let unloaded = server.ctl_json(["unload", "site"]);
    assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
    assert_eq!(client.get("/text").status, 404);
}

#[test]
fn a_filter_sees_every_request() {
    let filters = "[[plugin]]\nname = \"f\"\nlibrary = \"chain\"\nattach = \"web\"\n[plugin.config]\nfilters = [\"/\"]\n";
    let server = server("1 h", filters);
    let mut client = client(&server);
    for text in ["0123456789", "abcdefghij"] {
        server.folder().write("site/text", text);
        let answer = client.get("/text");
        assert_eq!((answer.text(), answer.header("x-out")), (text, Some("f")));
    }
}

#[test]
fn observers_hear_of_answers_that_are_given_again() {
    let observers = "[[plugin]]\nname = \"o\"\nlibrary = \"chain\"\nattach = \"web\"\n[plugin.config]\nobservers = 1\n";
    let server = server("1 h", observers);
    let mut client = client(&server);
    for path in ["/text", "/large"] {
        for _ in 0..5 {
            assert_eq!(client.get(path).status, 200);
        }
    }
    let line = |name: &str, bytes: usize| {
        format!("0: GET test /{name} 200 Complete {bytes} bytes by site after ")
    };
    wait_until("the observer to hear of all of them", PATIENCE, || {
        let heard = server.ctl(["o", "heard"]).stdout;
        let count = |line: &str| heard.lines().filter(|it| it.starts_with(line)).count();
        count(&line("text", 10)) == 5 && count(&line("large", large(b'a').len())) == 5
    });
}

#[test]
fn requests_are_counted_though_nobody_is_asked() {
    let server = server("1 h", "");
    let mut client = client(&server);
    for _ in 0..5 {
        assert_eq!(client.get("/text").status, 200);
    }
    for name in ["web", "site"] {
        assert_eq!(server.plugin(name)[0]["requests"], 5, "{name}");
    }
}
