//! Descriptors: as many as the process may have, and what happens when none is left.

use std::{process::Command, thread, time::Duration};

use medusa_tests::{Canary, Client, Folder, Monitor, Server};

/// Whether the library was gone could not be seen without a descriptor; it counted as mapped, and the next look at its heap
/// was one at memory that was not there.
#[test]
fn an_unload_without_a_free_descriptor_is_verified() {
    let server = Server::start(Canary::CONFIGURATION);
    server.ctl(["load", "echo", "--library", "echo"]).succeeded();
    let mut monitor = Monitor::of(&server);
    let _ = monitor.plugin("echo");
    server.process().leave_no_descriptor();
    let unloaded = monitor.json(["unload", "echo"]);
    assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
    assert_eq!(unloaded["mapped"], false, "{unloaded}");
    assert_eq!(monitor.plugin("echo"), [] as [serde_json::Value; 0]);
    monitor.ask(["status"]).succeeded();
}

#[test]
fn the_soft_limit_of_descriptors_is_raised_to_the_hard_one() {
    let folder = Folder::new();
    let medusa = folder.path("medusa-limited");
    let script = format!("#!/bin/sh\nulimit -Sn 256\nexec {:?} \"$@\"\n", folder.program());
    folder.write("medusa-limited", script);
    let made = Command::new("chmod").arg("755").arg(&medusa).status();
    assert!(made.is_ok_and(|status| status.success()), "a script can be made executable");
    let server = folder.with_program(&medusa).start(Canary::CONFIGURATION);
    let allowed = server.process().descriptors_max();
    assert!(allowed > 256, "{allowed}");
    server.wait_for_log(&format!("the process may have {allowed} descriptors"));
}

/// Who comes while no descriptor is left waits in the kernel, is served when there is one, and costs nothing meanwhile; the log has one
/// line of it, which says what to do.
#[test]
fn without_a_free_descriptor_clients_wait_and_the_loop_rests() {
    let server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\nhealth = \"/up\"\n",
    );
    let address = server.address("web");
    // It stays, so that its descriptor does not come free.
    let mut first = Client::connect(address);
    assert_eq!(first.get("/up").status, 200);
    let max = server.process().descriptors_max();
    server.process().leave_no_descriptor();
    // Those who are answered stay too: a descriptor or two may come free, of the command that was asked last.
    let ask = move || {
        let mut client = Client::connect(address);
        (client.get("/up").status, client)
    };
    let waiting: Vec<_> = (0..8).map(|_| thread::spawn(ask)).collect();
    server.wait_for_log("wait to be accepted");
    let (before, span) = (server.process().cpu_time(), Duration::from_secs(1));
    // Not for something to happen, but to see that little does.
    thread::sleep(span);
    let spent = server.process().cpu_time() - before;
    assert!(spent < span / 4, "{spent:?}");
    assert_eq!(first.get("/up").status, 200);
    server.process().allow_descriptors(max);
    for client in waiting {
        assert_eq!(client.join().expect("a client is answered").0, 200);
    }
    let log = server.log();
    assert_eq!(log.matches("wait to be accepted").count(), 1, "{log}");
    assert!(log.contains("LimitNOFILE="), "{log}");
    // Whoever comes later finds nothing in the way.
    medusa_tests::wait_until("the log to say that it is over", Duration::from_secs(30), || {
        Client::connect(address).get("/up").status == 200
            && server.log().contains("are accepted again")
    });
}
