//! Descriptors: as many as the process may have, and what happens when none is left.

use std::process::Command;

use medusa_tests::{Canary, Folder, Monitor, Server};

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
