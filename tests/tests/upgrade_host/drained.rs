//! What cannot go over is brought to its end by a child of the host, which ends then.

use medusa_tests::{Canary, Client, Process, Server, wait_until};

use crate::{
    PATIENCE,
    held::{CONFIGURATION, Held, folder},
    lines::Lines,
    next::{again, children, no_children},
};

/// More than sockets hold.
const LARGE: usize = 8 * 1024 * 1024;

fn large() -> Vec<u8> {
    (0..LARGE).map(|at| (at / 7) as u8).collect()
}

/// With deadlines that no slow machine meets.
#[track_caller]
fn serve() -> Server {
    let config = format!(
        "[host.limits]\ndrain_ms_max = \"5 min\"\n\n{CONFIGURATION}{}",
        Canary::CONFIGURATION
    );
    let slow = "listen = [\"127.0.0.1:0\"]\n[plugin.config]\nbody_timeout = \"5 min\"\nsend_timeout = \"5 min\"\n";
    let config = config.replacen("listen = [\"127.0.0.1:0\"]\n", slow, 1);
    folder().with("site/large", large()).start(&config)
}

/// The bytes of the head that what was read begins with.
fn head(read: &[u8]) -> usize {
    let end = read.windows(4).position(|four| four == b"\r\n\r\n");
    end.expect("the head has come") + 4
}

#[test]
fn a_download_is_finished_by_a_child_which_ends_then() {
    let server = serve();
    let mut held = Held::of(&server);
    let mut slow = Client::connect(server.address("web"));
    slow.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut first = slow.read_some(1000);
    again(&server);
    assert_eq!(children(server.process()).len(), 1);
    held.go_on(&server);
    again(&server);
    held.go_on(&server);
    wait_until("one child to be left", PATIENCE, || children(server.process()).len() == 1);
    while first.len() < head(&first) + LARGE {
        let more = slow.read_some(64 * 1024);
        assert!(!more.is_empty(), "it was cut at {}", first.len());
        first.extend(more);
    }
    assert!(first.ends_with(&large()[LARGE / 2..]), "every byte is right");
    no_children(server.process());
    held.go_on(&server);
}

#[test]
fn an_upload_is_finished_by_a_child_which_ends_then() {
    let server = serve();
    let mut held = Held::of(&server);
    let body = &large()[..300_000];
    let mut client = Client::connect(server.address("web"));
    client.send(format!(
        "POST /echo/up HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body[..1000]);
    // It is in the request when its first bytes are back, or all that was sent was read.
    let peer = client.stream().local_addr().expect("it is connected").to_string();
    wait_until("the upload to have begun", PATIENCE, || {
        let all = server.ctl_json(["connections", "--peer", &peer]);
        all[0]["received_bytes"].as_u64() > Some(1000)
    });
    again(&server);
    assert_eq!(children(server.process()).len(), 1);
    held.go_on(&server);
    client.send(&body[1000..]);
    let response = client.response();
    assert!(response.status == 200 && response.body == body, "{}", response.status);
    // It is not the server's that was asked to keep it, and may close it now; but it is told so.
    drop(client);
    no_children(server.process());
    held.go_on(&server);
}

#[test]
fn who_is_served_by_a_task_is_so_until_the_end_by_a_child() {
    let server = serve();
    let mut canary = Canary::of(&server);
    let mut held = Held::of(&server);
    again(&server);
    let child = children(server.process());
    assert_eq!(child.len(), 1);
    canary.sings();
    held.answer();
    let mut other = Canary::of(&server);
    again(&server);
    canary.sings();
    other.sings();
    held.answer();
    assert_eq!(children(server.process()).len(), 2);
    drop(canary);
    wait_until("the first child to end", PATIENCE, || {
        !children(server.process()).contains(&child[0])
    });
    other.sings();
    drop(other);
    no_children(server.process());
    held.answer();
}

#[test]
fn a_child_does_not_outlive_its_deadline() {
    let config =
        format!("[host.limits]\ndrain_ms_max = 200\n\n{CONFIGURATION}{}", Canary::CONFIGURATION);
    let server = folder().start(&config);
    let mut held = Held::of(&server);
    let mut stays = Lines::connect(server.address("canary"));
    stays.says("x", "x");
    again(&server);
    no_children(server.process());
    stays.has_ended();
    held.answer();
}

#[test]
fn a_server_that_ends_has_its_children_end_what_they_serve() {
    let mut server = serve();
    let mut canary = Canary::of(&server);
    again(&server);
    let child = Process::of(children(server.process())[0]);
    server.signal(rustix::process::Signal::TERM);
    assert!(server.wait().success());
    canary.sings();
    drop(canary);
    wait_until("the child to end", PATIENCE, || {
        !std::path::Path::new(&format!("/proc/{}/fd/0", child.pid())).exists()
    });
    let log = server.log();
    assert!(
        !log.contains("pinned"),
        "it sees what it has mapped, and not what the other had:\n{log}"
    );
}
