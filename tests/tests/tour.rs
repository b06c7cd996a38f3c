//! The README's tour: what a newcomer types has to work as it stands there.

use std::{net::TcpStream, time::Duration};

use medusa_tests::{Server, exchange, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn echo_is_loaded_upgraded_and_unloaded_while_the_server_runs() {
    let server = Server::start("");
    let load = ["load", "echo", "--library", "echo", "--listen", "127.0.0.1:0"];
    server.ctl(load).succeeded();
    server.ctl(load).refused("echo");
    let address = server.address("echo");
    assert_eq!(exchange(address, "hello\n"), b"hello\n");

    let upgrade = server.ctl_json(["upgrade", "echo"]);
    assert_eq!(upgrade["result"], "upgraded", "{upgrade}");
    assert_eq!(server.address("echo"), address, "an upgrade keeps the listener");
    assert_eq!(exchange(address, "hello\n"), b"hello\n");
    wait_until("the old generation to go", PATIENCE, || server.plugin("echo").len() == 1);
    assert_eq!(server.plugin("echo")[0]["generation"], 2);

    let unload = server.ctl_json(["unload", "echo"]);
    assert_eq!(unload["result"], "unloaded", "{unload}");
    assert_eq!(unload["mapped"], false, "{unload}");
    assert!(server.plugin("echo").is_empty());
    assert_eq!(server.process().mappings_of("echo"), [], "nothing of it should be mapped");
    TcpStream::connect(address).unwrap_err();

    server.ctl(load).succeeded();
    assert_eq!(exchange(server.address("echo"), "hello\n"), b"hello\n");
}
