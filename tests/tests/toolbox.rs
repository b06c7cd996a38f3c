//! What the plugin API offers, in the real process: `tests/fixtures/toolbox` uses it, and this looks at what comes of it.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use medusa_tests::{Client, Server, exchange, images, still_mapped, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

fn toolbox() -> Server {
    Server::start(&configured(1))
}

/// An instance that keeps what it is told in one of its shapes.
fn configured(shape: u32) -> String {
    format!(
        "[[plugin]]\nname = \"toolbox\"\nlibrary = \"toolbox\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\nshape = {shape}\n"
    )
}

/// Two of them: `a`, which has connections, and `b`.
fn two() -> Server {
    let instance = |name: &str| format!("[[plugin]]\nname = \"{name}\"\nlibrary = \"toolbox\"\n");
    Server::start(&(instance("a") + &instance("b")))
}

/// What `instance` answers when it uses a tool.
#[track_caller]
fn uses(server: &Server, instance: &str, tool: &str) -> String {
    let words = [instance, "use"].into_iter().chain(tool.split(' '));
    server.ctl(words).succeeded().trim_end().to_owned()
}

#[track_caller]
fn check(server: &Server, instance: &str, tool: &str, expected: &str) {
    assert_eq!(uses(server, instance, tool), expected, "{tool}");
}

/// A connection that begins with a line.
#[track_caller]
fn talk(server: &Server, line: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address("toolbox")).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
    stream.write_all(format!("{line}\n").as_bytes()).expect("it reads");
    stream
}

/// Of several tasks that waited to write to one connection, only the newest was woken.
#[test]
fn many_write_to_one_connection_whose_peer_is_slow() {
    let server = toolbox();
    let mut stream = talk(&server, "writers 5 2000000");
    let (mut counts, mut piece) = (BTreeMap::new(), [0; 10_000]);
    loop {
        match stream.read(&mut piece).expect("it goes on to its end") {
            0 => break,
            length => piece[..length].iter().for_each(|letter| {
                *counts.entry(char::from(*letter)).or_insert(0) += 1;
            }),
        }
    }
    assert_eq!(counts, ('a'..='e').map(|letter| (letter, 2_000_000)).collect());
}

/// A connection that is closed in good order stays for a while, and kept the wakers of whoever had served it.
#[test]
fn a_connection_that_lingers_keeps_no_waker() {
    let server = toolbox();
    let image = images(server.process());
    let mut stream = talk(&server, "hangup");
    server.wait_for_log("waits by a waker of its own");
    // Input that nobody has read makes the close linger.
    stream.write_all(b"more").expect("the kernel takes it");
    let unload = server.ctl_json(["unload", "toolbox", "--now"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert_eq!(still_mapped(server.process(), &image), []);
}

/// Nobody else may tell the host, so what was dropped there stayed open until the unload.
#[test]
fn what_is_dropped_on_another_thread_is_closed() {
    let server = toolbox();
    server.folder().write("dropped", "a file");
    let file = server.folder().path("dropped");
    let file = file.to_str().expect("a plain name");
    server.ctl(["toolbox", "use", "drop-on-the-pool", file]).succeeded();
    let is_open = || server.process().descriptors().iter().any(|it| it.target.ends_with("dropped"));
    wait_until("the file to be closed", PATIENCE, || !is_open());
}

/// The host asks those that the manifest names, so that this one would never have been acquired.
#[test]
fn an_exclusive_resource_without_a_name_is_refused() {
    let server = Server::start(
        "[[plugin]]\nname = \"toolbox\"\nlibrary = \"toolbox\"\n[plugin.config]\nexclusive = true\n",
    );
    let output = server.ctl(["load", "toolbox"]);
    output.refused("the plugin registers 1 exclusive resource(s), and its manifest names 0");
}

#[test]
fn an_instance_calls_the_service_of_another() {
    let server = two();
    check(&server, "a", "count b 1000", "1000 numbers for a");
    check(&server, "a", "count a 3", "3 numbers for a");
    let words = ["a", "use", "count", "nobody", "1"];
    server.ctl(words).refused("cannot call the service count: there is no such thing");
    let version = uses(&server, "a", "call-version b 2");
    assert!(version.starts_with("Some(Unsupported)"), "{version}");
    // Who fails says why in the log, for the caller is another plugin.
    server.ctl(["a", "use", "count", "b", "13"]).refused("the other side failed");
    server.wait_for_log("nobody counts to thirteen");
    let late = uses(&server, "a", "count-within b 50");
    assert!(late.starts_with("Some(TimedOut)"), "{late}");
    let ends = || server.log().matches("the count for a has ended").count();
    let before = ends();
    check(&server, "a", "count-and-leave b", "left after three");
    wait_until("the other one to hear of it", PATIENCE, || ends() > before);
}

#[test]
fn a_call_ends_when_its_service_is_unloaded() {
    let server = two();
    thread::scope(|scope| {
        let counting = scope.spawn(|| uses(&server, "a", "count-for-ever b"));
        server.wait_for_log("counts for ever");
        let unload = server.ctl_json(["unload", "b", "--now"]);
        assert_eq!(unload["result"], "unloaded", "{unload}");
        let outcome = counting.join().expect("a command does not panic");
        assert!(outcome.starts_with("Some(BrokenPipe)"), "{outcome}");
    });
    let again = ["a", "use", "count", "b", "1"];
    server.ctl(again).refused("there is no such thing");
    server.ctl(["load", "b"]).succeeded();
    check(&server, "a", "count b 7", "7 numbers for a");
    // The caller can go in the middle, too.
    let mut command = server.ctl_command();
    let mut child = command.args(["a", "use", "count-for-ever", "b"]).spawn().expect("it runs");
    wait_until("the count", PATIENCE, || server.log().matches("counts for ever").count() == 2);
    let unload = server.ctl_json(["unload", "a", "--now"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert!(!child.wait().expect("a child can be waited for").success());
    let unload = server.ctl_json(["unload", "b"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
}

#[test]
fn what_is_kept_goes_over_in_the_shape_that_the_next_one_has() {
    let server = toolbox();
    check(&server, "toolbox", "keep one", "1: one");
    check(&server, "toolbox", "keep two", "1: one two");
    let upgraded = server.ctl_json(["upgrade", "toolbox"]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    check(&server, "toolbox", "kept", "1: one two");
    let into_shape = |shape: u32| {
        server.folder().configure(&configured(shape));
        server.ctl(["config", "apply"])
    };
    into_shape(2).succeeded();
    check(&server, "toolbox", "kept", "2: one/3 two/3");
    check(&server, "toolbox", "keep three", "2: one/3 two/3 three/5");
    into_shape(1).succeeded();
    check(&server, "toolbox", "kept", "1: one two three");
    // The old one stays, with all that it has.
    into_shape(3).refused("cannot import the state told of version 1");
    check(&server, "toolbox", "keep four", "1: one two three four");
    assert_eq!(server.plugin("toolbox").len(), 1, "the new one is gone");
}

#[test]
fn a_plugin_listens_connects_and_looks_names_up() {
    let server = two();
    let address = uses(&server, "a", "listen");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.write_all(b"to a listener of its own").expect("it reads");
    stream.shutdown(Shutdown::Write).expect("a half can be ended");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("it echoes");
    assert_eq!(heard, "to a listener of its own");
    check(&server, "b", &format!("connect {address} hello"), "hello");
    let found = uses(&server, "b", "resolve localhost");
    assert!(found.contains("127.0.0.1:80") || found.contains("[::1]:80"), "{found}");
    server.ctl(["b", "use", "resolve", "nobody.invalid"]).refused("");
    server.ctl(["unload", "a", "--now"]).succeeded();
    let refused = TcpStream::connect(&address).expect_err("its listeners go with it");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let connect = ["b", "use", "connect", &address, "hello"];
    server.ctl(connect).refused("Connection refused");
}

#[test]
fn files_beneath_a_root_and_nowhere_else() {
    let server = toolbox();
    server.folder().write("root/inner/there", "a file");
    server.folder().write("outside", "a secret");
    let root = server.folder().path("root");
    let root = root.to_str().expect("a plain name");
    let out = server.folder().path("root/out");
    std::os::unix::fs::symlink("../outside", out).expect("a link can be made");
    check(&server, "toolbox", &format!("read {root} inner/there"), "a file");
    check(&server, "toolbox", &format!("write {root} inner/new text"), "4 bytes");
    check(&server, "toolbox", &format!("read {root} inner/new"), "text");
    for path in ["../outside", "out", "inner/../../outside", "/etc/passwd"] {
        server.ctl(["toolbox", "use", "read", root, path]).refused("os error 18");
        server.ctl(["toolbox", "use", "write", root, path, "x"]).refused("os error 18");
    }
    server.ctl(["toolbox", "use", "read", root, "nothing"]).refused("os error 2");
    let outside = std::fs::read(server.folder().path("outside"));
    assert_eq!(outside.expect("it is still there"), b"a secret");
}

#[test]
fn what_is_registered_later_is_there_at_once_and_gone_with_its_token() {
    let server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"toolbox\"\nlibrary = \"toolbox\"\nattach = \"web\"\n",
    );
    let mut client = Client::connect(server.address("web"));
    assert_eq!(client.get("/later").status, 404);
    uses(&server, "toolbox", "register route /later");
    assert_eq!(client.get("/later").text(), "registered later\n");
    uses(&server, "toolbox", "forget /later");
    assert_eq!(client.get("/later").status, 404);

    let is_unknown = || server.ctl(["toolbox", "late"]).status == 2;
    assert!(is_unknown());
    uses(&server, "toolbox", "register command late");
    assert_eq!(server.ctl(["toolbox", "late"]).succeeded(), "later\n");
    uses(&server, "toolbox", "forget late");
    assert!(is_unknown());

    let metrics = || server.ctl(["metrics"]).succeeded().to_owned();
    assert!(!metrics().contains("late_total"));
    uses(&server, "toolbox", "register metric late_total");
    let shown = metrics();
    let line = shown.lines().find(|it| it.contains("late_total"));
    let value = line.and_then(|line| line.split_whitespace().nth(3));
    assert_eq!(value, Some("1"), "{shown}");
    let twice = server.ctl(["toolbox", "use", "register", "metric", "late_total"]);
    twice.refused("the plugin has registered one of that name already");
    uses(&server, "toolbox", "forget late_total");
    assert!(!metrics().contains("late_total"));

    server.ctl(["log", "level", "debug"]).succeeded();
    uses(&server, "toolbox", "register timer ticks");
    // Not "tick", which the command has in its own line.
    server.wait_for_log("DEBUG plugin: tick");
    uses(&server, "toolbox", "forget ticks");
    // Whatever it logged before stands before this.
    server.wait_for_log("forget ticks\" exit=0");
    let ticks = || server.log().matches("DEBUG plugin: tick").count();
    let stopped = ticks();
    assert!(stopped > 0, "{}", server.log());
    uses(&server, "toolbox", "kept");
    assert_eq!(ticks(), stopped, "it ticks no more");
}

#[test]
fn commands_have_roles() {
    let server = toolbox();
    let help = server.ctl(["help"]).succeeded().to_owned();
    for (name, role) in [("look", "viewer"), ("use", "operator"), ("rule", "admin")] {
        let of = server.ctl(["help", "toolbox", name]);
        assert!(of.stdout.contains(&format!("for the role {role}")), "{name}: {of:?}\n{help}");
    }
    assert_eq!(server.ctl(["toolbox", "rule"]).succeeded(), "rule is done\n");
}

#[test]
fn trailers_pass_both_ways_and_a_tower_service_answers() {
    let server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"toolbox\"\nlibrary = \"toolbox\"\nattach = \"web\"\npath = \"/t\"\n",
    );
    let head = "POST /t/trailers HTTP/1.1\r\nHost: test\r\nConnection: close, TE\r\nTE: trailers\r\n\
                Trailer: x-came\r\nTransfer-Encoding: chunked\r\n\r\n";
    let sent = format!("{head}5\r\nhello\r\n0\r\nx-came: yes\r\n\r\n");
    let answer = exchange(server.address("web"), sent);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, trailers) =
        answer.split_once("\r\n0\r\n").unwrap_or_else(|| panic!("no end: {answer}"));
    assert!(
        trailers.contains("x-came: yes\r\n") && trailers.contains("x-length: 5\r\n"),
        "{answer}"
    );
    let mut client = Client::connect(server.address("web"));
    assert_eq!(client.get("/t/tower/a/b?c=d").text(), "GET /a/b?c=d\n");
}

#[test]
fn a_file_is_sent_by_a_service_that_is_no_server_of_http() {
    let server = toolbox();
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    server.folder().write("root/large", &content);
    let root = server.folder().path("root");
    let mut stream = talk(&server, &format!("file {} large", root.display()));
    let mut sent = Vec::new();
    stream.read_to_end(&mut sent).expect("it comes to its end");
    assert!(sent == content, "{} of {} bytes", sent.len(), content.len());
}

#[test]
fn the_peer_sees_a_half_close_a_close_and_an_abort() {
    let server = toolbox();
    let mut stream = talk(&server, "half-close");
    let mut heard = String::new();
    stream.read_to_string(&mut heard).expect("its half ends in good order");
    assert_eq!(heard, "that is all\n");
    stream.write_all(&[b'x'; 5000]).expect("it still reads");
    stream.shutdown(Shutdown::Write).expect("a half can be ended");
    server.wait_for_log("5000 bytes came after the end of the other half");

    let mut stream = talk(&server, "close");
    heard.clear();
    stream.read_to_string(&mut heard).expect("it ends in good order");
    assert_eq!(heard, "good bye\n");
    let mut stream = talk(&server, "abort");
    let error = stream.read_to_end(&mut Vec::new()).expect_err("it is reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let log = server.log();
    assert!(!log.contains("misuses the host") && !log.contains("failed:"), "{log}");
}

#[test]
fn what_the_manifest_does_not_ask_for_is_denied() {
    let server = Server::start("[[plugin]]\nname = \"powerless\"\nlibrary = \"powerless\"\n");
    assert_eq!(
        server.ctl(["powerless", "try"]).succeeded().trim_end(),
        "listen=denied connect=denied resolve=denied files=denied threads=denied services=denied call=denied status=denied"
    );
    for capability in ["listen", "connect", "resolve", "files", "threads", "services", "status"] {
        server.wait_for_log(&format!("does not ask for the capability `{capability}`"));
    }
}

#[test]
fn the_host_tells_of_itself_and_of_all_instances() {
    let server = two();
    check(&server, "a", "ask-host 1", "the host is running with 2, a is running, b is running");
    let other = uses(&server, "a", "ask-host 2");
    assert!(other.starts_with("Some(Unsupported)"), "{other}");
    server.wait_for_log("a service is offered in another version than is asked for");
    let taken = server.ctl(["a", "use", "register", "service", "medusa.status"]);
    taken.refused("what begins with `medusa.` is the host's");
}

#[test]
fn whoever_asks_the_host_without_the_capability_is_refused_at_its_start() {
    let server = Server::start("");
    let load = ["load", "asker", "--library", "powerless", "--set", "asks_at_start=true"];
    let refused = server.ctl(load);
    refused.refused("the plugin's manifest does not ask for the capability");
    refused.refused("cannot call the service medusa.status");
    server.wait_for_log("does not ask for the capability `status`");
    assert!(server.plugin("asker").is_empty(), "{:?}", server.plugin("asker"));
}
