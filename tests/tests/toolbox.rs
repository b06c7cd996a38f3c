//! What the plugin API offers, in the real process: `tests/fixtures/toolbox` uses it, and this looks at what comes of it.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use medusa_tests::{Server, images, still_mapped, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

fn toolbox() -> Server {
    Server::start(
        "[[plugin]]\nname = \"toolbox\"\nlibrary = \"toolbox\"\nlisten = [\"127.0.0.1:0\"]\n",
    )
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
