//! Who is asked for an HTTP answer: filters, handlers that pass, observers; in which order, and what each of them sees.

use std::{thread, time::Duration};

use medusa_tests::{Client, End, Folder, Response, Server, wait_for, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

const WEB: &str = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n";

#[test]
fn handlers_are_asked_longest_path_first_then_by_order_hosts_and_age() {
    let server = started(&[
        chain("a", "", "handlers = [\"/\", \"/deep\", \"/ example.org\", \"/ * 5\"]"),
        chain("b", "", "handlers = [\"/\"]"),
    ]);
    let expected = ["a-1", "a-2", "b", "a", "a-3"];
    let mut query = String::new();
    for name in expected {
        let answer = get(&server, "example.org", &format!("/deep/x?{query}"));
        assert_eq!(answer.text().split(' ').next(), Some(name), "with {query}");
        query += &format!("{name}=pass&");
    }
    assert_eq!(get(&server, "example.org", &format!("/deep/x?{query}")).status, 404);
    assert_eq!(get(&server, "other.org", "/deeper").text(), "b |/deeper -\n");
}

#[test]
fn filters_nest_by_order_then_broadest_first() {
    let server = started(&[
        chain("a", "", "handlers = [\"/\"]"),
        chain("f", "", "filters = [\"/\", \"/deep\", \"/ * -5\", \"/deep * 5\"]"),
        chain("g", "", "filters = [\"/\"]"),
    ]);
    let answer = get(&server, "test", "/deep/x");
    assert_eq!(answer.text(), "a |/deep/x f-2,f,g,f-1,f-3\n");
    assert_eq!(answer.header("x-out"), Some("f-3,f-1,g,f,f-2"), "the other way on the way out");
    assert_eq!(get(&server, "test", "/").text(), "a |/ f-2,f,g\n");
    let listed: Vec<_> = routes(&server)
        .iter()
        .map(|it| format!("{} {}", it["instance"].as_str().unwrap_or(""), it["order"]))
        .collect();
    assert_eq!(listed, ["f -5", "f 0", "g 0", "f 0", "f 5", "a 0"]);
}

#[test]
fn paths_are_seen_from_where_one_is_mounted() {
    let server = started(&[
        chain("a", "path = \"/app\"\n", "handlers = [\"/\", \"/x\"]"),
        chain("b", "", "handlers = [\"/app\"]"),
    ]);
    assert_eq!(get(&server, "test", "/app/x/y").text(), "a-1 /app/x|/y -\n");
    assert_eq!(get(&server, "test", "/app/x").text(), "a-1 /app/x|/ -\n");
    assert_eq!(get(&server, "test", "/app/x/y?a-1=pass").text(), "b /app|/x/y -\n");
    assert_eq!(get(&server, "test", "/app/z/?b=pass").text(), "a /app|/z/ -\n");
    assert_eq!(get(&server, "test", "/application").status, 404);
}

#[test]
fn a_filter_may_answer_by_itself() {
    let server = behind_filters();
    let answer = get(&server, "test", "/?g=answer");
    assert_eq!((answer.text(), answer.header("x-out")), ("g answers\n", Some("f")));
    let answer = get(&server, "test", "/?f=answer&g=panic&a=panic");
    assert_eq!((answer.text(), answer.header("x-out")), ("f answers\n", None));
    // Without a body being read, the connection goes on.
    let mut client = Client::connect(server.address("web"));
    client.send("POST /?f=answer HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.response().text(), "f answers\n");
    assert_eq!(client.get("/").text(), "a |/ f,g\n");
    assert_eq!(get(&server, "test", "/?f=pass").text(), "a |/ g\n", "it does not want it");
}

#[test]
fn a_filter_may_change_the_request_and_the_response() {
    let server = behind_filters();
    let mut client = Client::connect(server.address("web"));
    for (query, expected) in
        [("", "body"), ("g=body&", "changed: body"), ("f=body&g=body&", "changed: changed: body")]
    {
        let head = format!("POST /?{query}a=echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n");
        client.send(format!("{head}body"));
        assert_eq!(client.response().text(), expected, "{query}");
    }
    assert_eq!(client.get("/?g=status").status, 418);
    assert_eq!(client.get("/?f=upper").text(), "A |/ F,G\n");
    assert_eq!(client.get("/?g=upper&f=whole").text(), "A |/ F,G\nand more\n");
    assert_eq!(client.get("/?f=upper&g=whole").text(), "A |/ F,G\nAND MORE\n");
    assert_eq!(client.head("/?f=upper").header("content-length"), Some("9"));
    server.folder().write("gate", "");
    assert_eq!(client.get("/?a=stream&f=upper").text(), "FIRST\nLAST\n");
}

#[test]
fn a_changed_path_finds_its_own_handlers_and_every_filter() {
    let server = started(&[
        chain("a", "", "handlers = [\"/\", \"/deep\"]"),
        chain("early", "", "filters = [\"/deep * -1\"]"),
        chain("f", "", "filters = [\"/\", \"/deep\"]"),
    ]);
    assert_eq!(get(&server, "test", "/x?f=to:/y").text(), "a |/y f\n");
    // Whoever guards /deep is asked, though it stands before the one that changes the path.
    assert_eq!(get(&server, "test", "/?f=to:/deep/x").text(), "a-1 /deep|/x f,early,f-1\n");
    assert_eq!(get(&server, "test", "/?f=to:/deep&early=answer").text(), "early answers\n");
    assert_eq!(get(&server, "test", "/?f=to:/deep/./../x").text(), "a |/x f\n");
    // Each has it once, so that there is an end.
    let query = "f=to:/deep&f-1=to:/other&early=to:/deep/e";
    assert_eq!(get(&server, "test", &format!("/?{query}")).text(), "a |/other f,early,f-1\n");
}

#[test]
fn a_filter_that_fails_fails_its_request_only() {
    let server = behind_filters();
    let mut other = Client::connect(server.address("web"));
    for query in ["f=panic", "g=panic", "g=panic-out", "f=panic-out", "g=fail", "a=panic"] {
        assert_eq!(get(&server, "test", &format!("/?{query}")).status, 500, "{query}");
        assert_eq!(other.get("/").text(), "a |/ f,g\n", "after {query}");
    }
    for said in ["f panics on the way in", "g panics on the way out", "this filter fails"] {
        server.wait_for_log(said);
    }
    let panics = |name: &str| server.plugin(name)[0]["panics"].clone();
    assert_eq!([panics("f"), panics("g"), panics("a")], [2, 2, 1]);
}

#[test]
fn a_handler_that_waited_may_pass_too() {
    let server =
        started(&[chain("b", "", "handlers = [\"/\"]"), chain("a", "", "handlers = [\"/\"]")]);
    let mut client = Client::connect(server.address("web"));
    client.send("POST /?a=hold-pass&b=echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    server.wait_for_log("a holds");
    server.folder().write("gate", "");
    assert_eq!(client.response().text(), "body");
    assert_eq!(client.get("/?a=hold-pass&b=pass").status, 404);
}

#[test]
fn a_filter_is_unloaded_in_the_middle_of_a_request() {
    for word in ["hold", "hold-out"] {
        let server = behind_filters();
        let mut client = asking(&server, &format!("/?g={word}"), "g holds");
        // It drains: the request is finished as it began.
        thread::scope(|scope| {
            let unload = scope.spawn(|| server.ctl_json(["unload", "g"]));
            wait_until("the drain", PATIENCE, || state(&server, "g") == "draining");
            assert_eq!(get(&server, "test", "/").text(), "a |/ f\n");
            server.folder().write("gate", "");
            assert_eq!(client.response().text(), "a |/ f,g\n");
            assert_unloaded(&unload.join().expect("a command does not panic"));
        });
    }
    for word in ["hold", "hold-out"] {
        let server = behind_filters();
        let mut client = asking(&server, &format!("/?g={word}"), "g holds");
        assert_unloaded(&server.ctl_json(["unload", "g", "--now"]));
        assert_eq!(client.response().status, 500);
        assert_eq!(client.get("/").text(), "a |/ f\n");
        assert_unloaded(&server.ctl_json(["unload", "f", "--now"]));
        assert_eq!(client.get("/").text(), "a |/ -\n");
    }
}

#[test]
fn a_filter_is_upgraded_in_the_middle_of_a_request() {
    let server = behind_filters();
    let mut client = asking(&server, "/?g=hold", "g holds");
    assert_eq!(server.ctl_json(["reload", "g"])["result"], "upgraded");
    assert_eq!(get(&server, "test", "/").text(), "a |/ f,g\n");
    let states = || -> Vec<_> {
        server.plugin("g").iter().map(|it| it["state"].as_str().unwrap_or("").to_owned()).collect()
    };
    assert_eq!(states(), ["draining", "running"]);
    // The handler behind it goes to another generation meanwhile too.
    assert_eq!(server.ctl_json(["reload", "a"])["result"], "upgraded");
    server.folder().write("gate", "");
    assert_eq!(client.response().text(), "a |/ f,g\n");
    wait_until("the old one to go", PATIENCE, || states() == ["running"]);
}

#[test]
fn a_body_that_a_filter_passed_on_outlives_it() {
    let server = behind_filters();
    let mut client = asking(&server, "/?a=stream", "a holds");
    assert_unloaded(&server.ctl_json(["unload", "f", "--now"]));
    assert_unloaded(&server.ctl_json(["unload", "g", "--now"]));
    server.folder().write("gate", "");
    assert_eq!(client.response().text(), "first\nlast\n");
    // One that it changes does not.
    server.ctl(["load", "f"]).succeeded();
    std::fs::remove_file(server.folder().path("gate")).expect("it is there");
    let mut client = Client::connect(server.address("web"));
    client.send("GET /?a=stream&f=upper HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("the second", PATIENCE, || server.log().matches("a holds").count() == 2);
    assert_unloaded(&server.ctl_json(["unload", "f", "--now"]));
    client.try_response(false).expect_err("it was cut");
}

#[test]
fn a_handler_behind_filters_is_unloaded_in_the_middle_of_a_request() {
    let server = behind_filters();
    let mut client = asking(&server, "/?a=hold", "a holds");
    assert_unloaded(&server.ctl_json(["unload", "a", "--now"]));
    assert_eq!(client.response().status, 500);
    server.ctl(["load", "a"]).succeeded();
    assert_eq!(client.get("/").text(), "a |/ f,g\n");
}

#[test]
fn an_instance_is_narrowed_by_host_and_path() {
    let narrow = "host = \"*.example.org\"\npath = \"/app\"\n";
    let mounts = "handlers = [\"/\", \"/ b.example.org\"]\nfilters = [\"/\"]\nobservers = 1";
    let server = started(&[chain("wide", "", "handlers = [\"/\"]"), chain("n", narrow, mounts)]);
    assert_eq!(get(&server, "a.example.org", "/app/x").text(), "n /app|/x n\n");
    assert_eq!(get(&server, "B.example.org:80", "/app/x").text(), "n-1 /app|/x n\n");
    assert_eq!(get(&server, "example.org", "/app/x").text(), "wide |/app/x -\n");
    assert_eq!(get(&server, "a.example.org", "/x").text(), "wide |/x -\n");
    assert_eq!(get(&server, "a.example.org", "/%61pp").text(), "n /app|/ n\n");
    let heard = heard(&server, "n", 3);
    assert!(heard[0].contains("GET a.example.org /app/x 200"), "{heard:?}");
    assert!(heard[1].contains("GET B.example.org:80 /app/x 200"), "{heard:?}");
    assert!(heard[2].contains("GET a.example.org /%61pp 200"), "the path is as it came: {heard:?}");
    assert_eq!(heard.len(), 3);
    let observer = routes(&server).into_iter().find(|it| it["kind"] == "observer");
    let observer = observer.expect("an observer is listed");
    assert_eq!(observer["host"], "*.example.org");
    assert_eq!((&observer["path"], &observer["requests"]), (&"/app".into(), &3.into()));
}

#[test]
fn observers_hear_of_every_end() {
    let server = started(&[
        chain("a", "", "handlers = [\"/\"]"),
        chain("f", "", "filters = [\"/\"]"),
        chain("o", "", "observers = 2"),
    ]);
    get(&server, "test", "/whole?q=1");
    let told = heard(&server, "o", 2);
    // The filter passed the answer on; the handler gave it.
    let expected = "GET test /whole?q=1 200 Complete 12 bytes by a after";
    assert!(told[0].starts_with(&format!("0: {expected}")), "{told:?}");
    assert!(told[1].starts_with(&format!("1: {expected}")), "{told:?}");

    get(&server, "test", "/early?f=answer");
    get(&server, "test", "/none?a=pass");
    get(&server, "test", "/panic?a=panic");
    let told = heard(&server, "o", 8);
    assert!(told[2].contains("/early?f=answer 200 Complete 10 bytes by f"), "{told:?}");
    assert!(told[4].contains("/none") && told[4].contains(" 404 "), "{told:?}");
    assert!(told[6].contains("/panic") && told[6].contains(" 500 "), "{told:?}");
}

#[test]
fn observers_hear_of_clients_that_go() {
    let server = started(&[chain("a", "", "handlers = [\"/\"]"), chain("o", "", "observers = 1")]);
    let mut client = Client::connect(server.address("web"));
    client.send("GET /gone?a=endless HTTP/1.1\r\nHost: test\r\n\r\n");
    client.read_some(1000);
    client.reset();
    let told = heard(&server, "o", 1);
    assert!(told[0].contains("GET test /gone?a=endless 200 Aborted "), "{told:?}");
    assert!(!told[0].contains(" 0 bytes") && told[0].contains(" bytes by a after"), "{told:?}");
    // Before there is an answer.
    let mut client = Client::connect(server.address("web"));
    client.send("GET /early?a=hold HTTP/1.1\r\nHost: test\r\n\r\n");
    server.wait_for_log("a holds");
    client.reset();
    let told = heard(&server, "o", 2);
    assert!(told[1].contains("/early?a=hold 0 Aborted 0 bytes by a after"), "{told:?}");
    // A server that goes.
    let mut client = Client::connect(server.address("web"));
    client.send("GET /cut?a=stream HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("the next", PATIENCE, || server.log().matches("a holds").count() == 2);
    assert_unloaded(&server.ctl_json(["unload", "web", "--now"]));
    let told = heard(&server, "o", 3);
    assert!(told[2].contains("/cut?a=stream 200 Aborted"), "{told:?}");
}

#[test]
fn observers_are_replaced_and_removed_with_their_instance() {
    let server = started(&[chain("a", "", "handlers = [\"/\"]"), chain("o", "", "observers = 1")]);
    let mut client = asking(&server, "/?a=hold", "a holds");
    assert_eq!(server.ctl_json(["reload", "o"])["result"], "upgraded");
    server.folder().write("gate", "");
    assert_eq!(client.response().status, 200);
    // The exchange began under the old one, and the new one hears of its end.
    assert_eq!(heard(&server, "o", 1).len(), 1);
    assert_unloaded(&server.ctl_json(["unload", "o"]));
    assert_eq!(client.get("/").status, 200);
    assert_eq!(routes(&server).len(), 1);
}

#[test]
fn an_extension_waits_for_its_server_and_attaches_again() {
    let server = Server::start("");
    let load = ["load", "a", "--library", "chain", "--attach", "web", "--set", "handlers=[\"/\"]"];
    server.ctl(load).succeeded();
    assert_eq!(state(&server, "a"), "waiting");
    let web = ["load", "web", "--library", "http", "--listen", "127.0.0.1:0"];
    for _ in 0..2 {
        server.ctl(web).succeeded();
        assert_eq!(state(&server, "a"), "running");
        let mut client = Client::connect(server.address("web"));
        assert_eq!(client.get("/").text(), "a |/ -\n");
        assert_unloaded(&server.ctl_json(["unload", "web"]));
        assert_eq!(client.end(), End::Eof);
        assert_eq!(state(&server, "a"), "waiting");
        // What changes meanwhile holds when the server comes back.
        assert_eq!(server.ctl_json(["reload", "a"])["result"], "upgraded");
    }
    assert_unloaded(&server.ctl_json(["unload", "a"]));
    server.ctl(web).succeeded();
    assert_eq!(Client::connect(server.address("web")).get("/").status, 404);
}

/// The handler `a` behind the filters `f` and `g`, all at the root.
fn behind_filters() -> Server {
    started(&[
        chain("a", "", "handlers = [\"/\"]"),
        chain("f", "", "filters = [\"/\"]"),
        chain("g", "", "filters = [\"/\"]"),
    ])
}

fn started(instances: &[String]) -> Server {
    let folder = Folder::new();
    let gate = folder.path("gate");
    let gate = format!("gate = {gate:?}\n");
    let instances: String = instances.iter().map(|it| format!("{it}{gate}")).collect();
    folder.start(&format!("{WEB}{instances}"))
}

/// An instance of `chain`; its configuration ends the text.
fn chain(name: &str, keys: &str, config: &str) -> String {
    format!(
        "[[plugin]]\nname = \"{name}\"\nlibrary = \"chain\"\nattach = \"web\"\n{keys}[plugin.config]\n{config}\n"
    )
}

#[track_caller]
fn get(server: &Server, host: &str, path: &str) -> Response {
    let mut client = Client::connect(server.address("web"));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.response()
}

/// A client whose request is where the log says.
fn asking(server: &Server, path: &str, log: &str) -> Client {
    let mut client = Client::connect(server.address("web"));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    server.wait_for_log(log);
    client
}

fn routes(server: &Server) -> Vec<Value> {
    server.ctl_json(["routes"]).as_array().expect("an array").clone()
}

/// What the observers of an instance were told, when they were told that often.
fn heard(server: &Server, instance: &str, count: usize) -> Vec<String> {
    wait_for("the observers to hear", PATIENCE, || {
        let heard = server.ctl([instance, "heard"]).succeeded().to_owned();
        let heard: Vec<_> = heard.lines().map(str::to_owned).collect();
        (heard.len() >= count).then_some(heard)
    })
}

fn state(server: &Server, name: &str) -> String {
    let plugins = server.plugin(name);
    plugins.first().and_then(|it| it["state"].as_str()).unwrap_or("gone").to_owned()
}

#[track_caller]
fn assert_unloaded(unload: &Value) {
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert_eq!(unload["leaked_bytes"], 0, "{unload}");
}
