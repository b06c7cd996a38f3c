//! Signals that come while the host is being replaced.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use medusa_tests::{Server, Tree, wait_until};
use rustix::process::Signal;

use crate::{
    PATIENCE,
    held::{Held, serve},
    next::file,
};

/// A program that waits for the file `go` when it is asked, and is the real one then.
fn waits(server: &Server) -> PathBuf {
    let (real, folder) = (Tree::get().program(), server.folder().path(""));
    let text = format!(
        "#!/bin/sh\nif [ \"$1\" = preflight ]; then echo >'{1}/begun'; while [ ! -e '{1}/go' ]; do sleep 0.01; done; fi\n\
         exec '{0}' \"$@\"\n",
        real.display(),
        folder.display(),
    );
    file(server.folder(), "waits", text.as_bytes(), 0o755)
}

/// Orders an upgrade to it, which is under way when this returns.
#[track_caller]
fn begin(server: &Server, binary: &Path) -> Child {
    let mut command = server.ctl_command();
    command.args(["upgrade-host", "--binary"]).arg(binary);
    let asked = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    wait_until("it to be under way", PATIENCE, || server.folder().path("begun").exists());
    asked.expect("it can be run")
}

#[test]
fn an_order_to_end_that_comes_before_the_next_program_serves_is_heeded_by_it() {
    let mut server = serve(
        "[[plugin]]\nname = \"slow\"\nlibrary = \"fickle\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\nlock = \"lock\"\nstart = \"1 s\"\n",
    );
    let held = Held::of(&server);
    let mut command = server.ctl_command();
    let asked = command.arg("upgrade-host").stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    wait_until("the next program to be there", PATIENCE, || {
        server.log().matches("the process may have").count() == 2
    });
    [Signal::TERM, Signal::HUP, Signal::USR2].into_iter().for_each(|it| server.signal(it));
    drop(held);
    let status = server.wait();
    assert!(status.success(), "{status:?}\n{}", server.log());
    let log = server.log();
    assert!(log.contains("the host was upgraded") && log.contains("SIGTERM: draining"), "{log}");
    let _ = asked.expect("it can be run").wait();
}

#[test]
fn an_order_to_end_that_comes_while_the_next_program_is_asked_is_heeded() {
    let mut server = serve("");
    let held = Held::of(&server);
    let waits = waits(&server);
    let mut asked = begin(&server, &waits);
    server.signal(Signal::TERM);
    server.wait_for_log("SIGTERM: draining");
    server.folder().write("go", "");
    drop(held);
    let status = server.wait();
    assert!(status.success(), "{status:?}\n{}", server.log());
    assert!(!server.log().contains("the host was upgraded"), "{}", server.log());
    let _ = asked.wait();
}

#[test]
fn orders_to_be_upgraded_that_come_in_a_heap_do_no_harm() {
    let server = serve("");
    let mut held = Held::of(&server);
    for _ in 0..20 {
        server.signal(Signal::USR2);
        held.answer();
    }
    wait_until("the last to be over", PATIENCE, || crate::next::order(&server, None).status == 0);
    held.go_on(&server);
    crate::next::no_children(server.process());
}
