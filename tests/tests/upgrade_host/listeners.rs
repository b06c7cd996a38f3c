//! Whoever connects while the host is replaced is served: by the program before, by the next, or a moment later.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use medusa_tests::{Client, wait_until};

use crate::{PATIENCE, held::serve, lines::Lines, next::again};

#[test]
fn nobody_who_connects_is_refused() {
    let server = serve("");
    let (web, lines) = (server.address("web"), server.address("lines"));
    let unix = server.folder().path("lines.sock");
    let (is_over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let begin = |serve: Box<dyn Fn() + Send>| {
        let (is_over, served) = (is_over.clone(), served.clone());
        thread::spawn(move || {
            while !is_over.load(SeqCst) {
                serve();
                served.fetch_add(1, SeqCst);
            }
        })
    };
    let threads = [
        begin(Box::new(move || {
            let response = Client::connect(web).get("/small");
            assert_eq!(response.text(), "a small file");
            assert_eq!(response.header("connection"), None);
        })),
        begin(Box::new(move || Lines::connect(lines).says("new", "new"))),
        begin(Box::new(move || Lines::connect_unix(&unix).says("new", "new"))),
    ];
    for _ in 0..10 {
        let before = served.load(SeqCst);
        again(&server);
        wait_until("others to be served", PATIENCE, || {
            assert!(!threads.iter().any(thread::JoinHandle::is_finished), "a client has failed");
            served.load(SeqCst) > before + 20
        });
    }
    is_over.store(true, SeqCst);
    threads.into_iter().for_each(|thread| thread.join().expect("all were served"));
}

#[test]
fn a_port_that_the_system_chose_stays_and_so_does_the_file_of_a_unix_socket() {
    let server = serve("");
    let addresses =
        || ["web", "talk", "lines", "local"].map(|name| server.plugin(name)[0]["listen"].clone());
    let file = || {
        use std::os::unix::fs::MetadataExt as _;
        let file = std::fs::metadata(server.folder().path("lines.sock")).expect("it is there");
        (file.dev(), file.ino())
    };
    let (before, socket) = (addresses(), file());
    for _ in 0..3 {
        again(&server);
        assert_eq!(addresses(), before);
        assert_eq!(file(), socket);
        crate::next::no_children(server.process());
        // The child that had the sockets too is gone, and they are still there.
        assert_eq!(file(), socket);
        Lines::connect_unix(&server.folder().path("lines.sock")).says("x", "x");
    }
    let web: SocketAddr = server.address("web");
    assert_eq!(Client::connect(web).get("/small").status, 200);
}

#[test]
fn a_listener_that_was_added_or_removed_since_the_start_is_known() {
    let server = serve("");
    let (first, other) = (server.address("lines"), server.address("talk"));
    let config = crate::held::CONFIGURATION
        .replace(
            "\"lines\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"",
            "\"lines\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\", \"[::1]:0\"",
        )
        .replace("unix:lines.sock", "unix:other.sock");
    server.folder().configure(&config);
    server.ctl(["config", "apply"]).succeeded();
    let before = server.addresses("lines");
    assert_eq!((before[0], before.len()), (first, 2));
    again(&server);
    assert_eq!(server.addresses("lines"), before);
    for address in before {
        Lines::connect(address).says("x", "x");
    }
    assert!(std::os::unix::net::UnixStream::connect(server.folder().path("lines.sock")).is_err());
    Lines::connect_unix(&server.folder().path("other.sock")).says("x", "x");
    assert_eq!(server.address("talk"), other);
}
