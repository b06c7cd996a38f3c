//! Unloading in the middle of things: connections, timers, jobs, threads, bodies half read. Nothing is left of the plugin, or
//! the monitor says what keeps it; and everybody else is served.

use std::{collections::BTreeSet, io::Read, net::SocketAddr, thread, time::Duration};

use medusa_tests::{Client, Folder, Image, Monitor, Server, images, still_mapped, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Larger than what sockets and pipes buffer.
const LARGE: usize = 16 * 1024 * 1024;

#[test]
fn live_connections_and_timers_are_cut() {
    let (server, image) = busy();
    let address = server.address("busy");
    let mut idle: Vec<_> = (0..5).map(|_| Client::connect(address)).collect();
    for client in &mut idle {
        assert_eq!(client.get("/use").status, 200);
    }
    let mut silent = Client::connect(address);
    let mut asleep: Vec<_> = [address, server.address("web")].map(Client::connect).into();
    asleep[0].send("GET /sleep HTTP/1.1\r\nHost: test\r\n\r\n");
    asleep[1].send("GET /busy/sleep HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("both to sleep", PATIENCE, || server.log().matches("busy sleeps").count() == 2);

    let unload = server.ctl_json(["unload", "busy", "--now"]);
    assert_unloaded(&server, &image, &unload);
    for client in idle.iter_mut().chain([&mut silent, &mut asleep[0]]) {
        client.end();
    }
    // Its connection is that of `web`, which says that the handler has gone.
    assert_eq!(asleep[1].response().status / 100, 5);
    Client::try_connect(address).unwrap_err();
    assert_eq!(Client::connect(server.address("web")).get("/file.txt").text(), "a file\n");
    // Thread-locals were dropped on the loop and on the pool, by code of the library.
    assert!(server.log().matches("busy forgets its note of").count() >= 2, "{}", server.log());
}

#[test]
fn a_drain_lets_a_job_and_its_request_finish() {
    let (server, image) = busy();
    let gate = server.folder().path("gate");
    let mut own = Client::connect(server.address("busy"));
    own.send(format!(
        "GET /job?{} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        gate.display()
    ));
    let mut by_web = Client::connect(server.address("web"));
    by_web.send(format!("GET /busy/job?{} HTTP/1.1\r\nHost: a\r\n\r\n", gate.display()));
    wait_until("both jobs", PATIENCE, || server.log().matches("busy has a job").count() == 2);

    thread::scope(|scope| {
        let unload = scope.spawn(|| server.ctl_json(["unload", "busy"]));
        wait_until("the drain", PATIENCE, || state(&server, "busy") == "draining");
        let mut late = Client::connect(server.address("web"));
        assert_eq!(late.get("/busy/use").status, 404, "no new request comes to it");
        assert!(!unload.is_finished());
        server.folder().write("gate", "");
        assert_eq!(own.response().text(), "the job is done\n");
        assert_eq!(by_web.response().text(), "the job is done\n");
        assert_unloaded(&server, &image, &unload.join().expect("a command does not panic"));
    });
}

#[test]
fn an_extension_next_in_line_goes_without_its_turn() {
    let (server, _) = busy();
    let image = image_of(&server, "http-files");
    let gate = server.folder().path("gate");
    // `site` would be asked if `busy` passed.
    let mut client = Client::connect(server.address("web"));
    client.send(format!("GET /busy/job?{} HTTP/1.1\r\nHost: test\r\n\r\n", gate.display()));
    server.wait_for_log("busy has a job");
    assert_unloaded(&server, &image, &server.ctl_json(["unload", "site", "--now"]));
    server.folder().write("gate", "");
    assert_eq!(client.response().text(), "the job is done\n");
}

#[test]
fn a_running_job_is_waited_for_when_all_else_is_cut() {
    let (server, image) = busy();
    let gate = server.folder().path("gate");
    let mut client = Client::connect(server.address("busy"));
    client.send(format!("GET /job?{} HTTP/1.1\r\nHost: test\r\n\r\n", gate.display()));
    server.wait_for_log("busy has a job");
    thread::scope(|scope| {
        let unload = scope.spawn(|| server.ctl_json(["unload", "busy", "--now"]));
        client.end();
        assert_ne!(still_mapped(server.process(), &image), [], "its job runs on");
        server.folder().write("gate", "");
        assert_unloaded(&server, &image, &unload.join().expect("a command does not panic"));
    });
}

#[test]
fn a_job_that_does_not_end_pins_its_library_and_no_other() {
    let (server, image) = busy();
    let gate = server.folder().path("gate");
    let mut client = Client::connect(server.address("busy"));
    client.send(format!("GET /job?{} HTTP/1.1\r\nHost: test\r\n\r\n", gate.display()));
    server.wait_for_log("busy has a job");
    let unload = server.ctl_json(["unload", "busy", "--now"]);
    assert_pinned(&server, &image, &unload, "blocking job");
    client.end();
    goes_when_the_gate_opens(&server, &image);
}

#[test]
fn a_detached_thread_pins_its_library_by_name() {
    let (server, image) = busy();
    let gate = server.folder().path("gate");
    let path = format!("/thread?{}", gate.display());
    assert_eq!(Client::connect(server.address("busy")).get(&path).status, 200);
    // A new thread gives itself its name.
    wait_until("the thread to be seen", PATIENCE, || {
        server.process().threads().iter().any(|thread| thread.name == "gatekeeper")
    });
    let unload = server.ctl_json(["unload", "busy", "--now"]);
    assert_pinned(&server, &image, &unload, "`gatekeeper`");
    goes_when_the_gate_opens(&server, &image);
}

#[test]
fn a_thread_that_another_plugin_keeps_busy_cleans_up_when_it_is_free() {
    let (server, image) = busy_with("[host.limits]\npool_threads = 2\n");
    for name in ["second", "third"] {
        server.ctl(["load", name, "--library", "busy", "--listen", "127.0.0.1:0"]).succeeded();
    }
    let job = |name: &str, gate: &str| {
        let mut client = Client::connect(server.address(name));
        let gate = server.folder().path(gate);
        client.send(format!("GET /job?{} HTTP/1.1\r\nHost: test\r\n\r\n", gate.display()));
        client
    };
    let running = || server.ctl_json(["status"])["jobs_running"].as_u64().expect("a number");
    // While one of the pool's two threads is the second's, a job of `busy` leaves a thread-local in the other, which then is the
    // third's.
    let mut second = job("second", "second-gate");
    wait_until("the job of the second", PATIENCE, || running() == 1);
    server.folder().write("first-gate", "");
    assert_eq!(job("busy", "first-gate").response().text(), "the job is done\n");
    let mut client = job("third", "gate");
    wait_until("the job of the third", PATIENCE, || running() == 2);
    server.folder().write("second-gate", "");
    assert_eq!(second.response().text(), "the job is done\n");

    let unload = server.ctl_json(["unload", "busy", "--now"]);
    assert_pinned(&server, &image, &unload, "thread-local destructor");
    goes_when_the_gate_opens(&server, &image);
    assert_eq!(client.response().text(), "the job is done\n");
}

#[test]
fn a_leaked_waker_is_no_hindrance() {
    let (server, image) = busy();
    for _ in 0..3 {
        assert_eq!(Client::connect(server.address("busy")).get("/waker").status, 200);
        assert_eq!(Client::connect(server.address("web")).get("/busy/waker").status, 200);
    }
    assert_unloaded(&server, &image, &server.ctl_json(["unload", "busy"]));
}

#[test]
fn a_body_half_read_ends_with_its_reader() {
    let (server, image) = busy();
    let mut client = Client::connect(server.address("web"));
    client.send("POST /busy/half HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
    server.wait_for_log("busy reads a body");
    assert_unloaded(&server, &image, &server.ctl_json(["unload", "busy", "--now"]));
    assert_eq!(client.response().status / 100, 5);
    assert_eq!(Client::connect(server.address("web")).get("/file.txt").text(), "a file\n");
}

#[test]
fn a_body_half_read_ends_with_its_server() {
    let (server, _) = busy();
    let image = image_of(&server, "http-0");
    let address = server.address("web");
    let mut client = Client::connect(address);
    client.send("POST /busy/half HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
    server.wait_for_log("busy reads a body");
    assert_unloaded(&server, &image, &server.ctl_json(["unload", "web", "--now"]));
    client.end();
    server.ctl(["load", "web"]).succeeded();
    let mut client = Client::connect(server.address("web"));
    client.send("POST /busy/half HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.response().text(), "5 bytes\n");
}

#[test]
fn a_response_half_sent_is_cut_and_never_wrong() {
    for (name, library) in [("web", "http-0"), ("site", "http-files"), ("busy", "busy")] {
        let (server, _) = busy();
        let image = image_of(&server, library);
        let mut client = Client::connect(server.address("web"));
        match name {
            // A stream of the plugin's own: the request's body on its way back, whose end never comes.
            "busy" => {
                let head = "POST /busy/mirror HTTP/1.1\r\nHost: test\r\n";
                client.send(format!("{head}Content-Length: {LARGE}\r\n\r\n"));
                client.send(&large()[..100_000]);
            }
            _ => client.send("GET /large.bin HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
        }
        let mut received = client.read_some(1000);
        assert_unloaded(&server, &image, &server.ctl_json(["unload", name, "--now"]));
        // With a reset or in good order, it ends.
        let _ = client.stream().read_to_end(&mut received);
        let head = received.windows(4).position(|it| it == b"\r\n\r\n").expect("a head") + 4;
        let (head, body) = received.split_at(head);
        assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"), "{name}");
        let is_chunked = String::from_utf8_lossy(head).contains("transfer-encoding: chunked");
        let body = if is_chunked { without_chunks(body) } else { body.to_vec() };
        // What is left of a file needs no plugin but `http`.
        assert!(body.len() < LARGE || name == "site", "{name}: it was cut");
        assert!(large().starts_with(&body), "{name}: what came of it is right");
    }
}

#[test]
fn a_response_half_sent_is_finished_by_a_drain() {
    let (server, _) = busy();
    let image = image_of(&server, "http-files");
    let mut client = Client::connect(server.address("web"));
    client.send("GET /large.bin HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("the response", PATIENCE, || !client.is_idle());
    thread::scope(|scope| {
        let unload = scope.spawn(|| server.ctl_json(["unload", "site"]));
        wait_until("the drain", PATIENCE, || state(&server, "site") == "draining");
        assert_eq!(client.response().body, large());
        assert_unloaded(&server, &image, &unload.join().expect("a command does not panic"));
    });
}

#[test]
fn echo_is_cut_with_bytes_on_their_way() {
    let server = Server::start("");
    server.ctl(["load", "echo", "--library", "echo", "--listen", "127.0.0.1:0"]).succeeded();
    let image = images(server.process());
    // Whoever sends and does not read leaves echo with a write that waits.
    let mut client = Client::connect(server.address("echo"));
    client.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    client.try_send(large()).unwrap_err();
    assert_unloaded(&server, &image, &server.ctl_json(["unload", "echo", "--now"]));
}

/// `http` with files and with `busy`, which has a listener too; and the image of `busy`.
fn busy() -> (Server, BTreeSet<Image>) {
    busy_with("")
}

/// As [`busy`], with more at the end of the configuration.
fn busy_with(more: &str) -> (Server, BTreeSet<Image>) {
    let folder = Folder::new().with("site/file.txt", "a file\n").with("site/large.bin", large());
    let server = folder.start(&format!(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n\
         [plugin.config]\nroot = \"site\"\n\n\
         [[plugin]]\nname = \"busy\"\nlibrary = \"busy\"\nlisten = [\"127.0.0.1:0\"]\n\
         attach = \"web\"\npath = \"/busy\"\n{more}"
    ));
    let image = image_of(&server, "busy");
    (server, image)
}

/// The images whose name begins so.
fn image_of(server: &Server, library: &str) -> BTreeSet<Image> {
    let mappings = server.process().mappings_of(&format!("medusa:{library}"));
    let image: BTreeSet<_> = mappings.iter().map(|it| (it.device, it.inode)).collect();
    assert_eq!(image.len(), 1, "{library} is one image: {mappings:#?}");
    image
}

fn large() -> Vec<u8> {
    (0..LARGE / 4)
        .flat_map(|word| (word as u32).wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

/// The data of the chunks that came, the last of which may have been cut.
fn without_chunks(mut body: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some(end) = body.windows(2).position(|it| it == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).ok();
        let Some(size) = size.and_then(|it| usize::from_str_radix(it, 16).ok()) else { break };
        let rest = &body[end + 2..];
        data.extend(&rest[..size.min(rest.len())]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    data
}

fn state(server: &Server, name: &str) -> String {
    let plugins = server.plugin(name);
    plugins.first().and_then(|it| it["state"].as_str()).unwrap_or("gone").to_owned()
}

#[track_caller]
fn assert_unloaded(server: &Server, image: &BTreeSet<Image>, unload: &Value) {
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert_eq!(unload["mapped"], false, "{unload}");
    assert_eq!(unload["leaked_bytes"], 0, "{unload}");
    assert_eq!(still_mapped(server.process(), image), []);
}

#[track_caller]
fn assert_pinned(server: &Server, image: &BTreeSet<Image>, unload: &Value, reason: &str) {
    assert_eq!(unload["result"], "pinned", "{unload}");
    assert_eq!(unload["mapped"], true, "{unload}");
    let said = unload["reason"].as_str().expect("a reason");
    assert!(said.contains(reason), "{said}");
    assert_ne!(still_mapped(server.process(), image), []);
    assert_eq!(state(server, "busy"), "pinned");
    assert_eq!(server.ctl_json(["status"])["pinned"], 1);
}

/// The next version loads beside the pinned one, and serves; when the gate opens the old one goes.
#[track_caller]
fn goes_when_the_gate_opens(server: &Server, image: &BTreeSet<Image>) {
    let mut monitor = Monitor::of(server);
    monitor.json(["load", "busy"]);
    let used = |address: SocketAddr, path: &str| Client::connect(address).get(path).status;
    let running = server.addresses("busy")[0];
    assert_eq!(used(running, "/use"), 200);
    assert_eq!(used(server.address("web"), "/busy/use"), 200);
    let states = |monitor: &mut Monitor| -> Vec<String> {
        let state = |it: &Value| it["state"].as_str().expect("a state").to_owned();
        monitor.plugin("busy").iter().map(state).collect()
    };
    assert_eq!(states(&mut monitor), ["pinned", "running"]);

    server.folder().write("gate", "");
    wait_until("the pinned one to go", PATIENCE, || states(&mut monitor) == ["running"]);
    assert_eq!(still_mapped(server.process(), image), []);
    assert_eq!(server.ctl_json(["status"])["pinned"], 0);
    assert_eq!(used(running, "/use"), 200);
}
