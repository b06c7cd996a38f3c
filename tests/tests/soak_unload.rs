//! Load, use, unload, thousands of times: seen from outside, nothing of a plugin is left.

use std::time::Instant;

use medusa_tests::{
    Client, Levels, Monitor, Process, Server, exchange, images, soak_count, still_mapped,
};

/// By how much resident memory may grow over the last nine tenths of the cycles. (In a short run, over what is left when
/// the allocator has found its size.)
const GROWTH_BYTES_MAX: u64 = 1024 * 1024;

/// Cycles until the allocator has found its size.
const WARM_UP: usize = 110;

/// The host's own, and those of its two pools.
const THREADS_MAX: usize = 3 + 2 * 4 + 2;

const FILE: &str = "a file that stays\n";

#[test]
fn busy_comes_and_goes() {
    let server = web();
    let load = "load busy --library busy --listen 127.0.0.1:0 --attach web --path /busy";
    cycle(&server, "busy", load, soak_count(300, 10_000), |monitor| {
        let own = Client::connect(address(monitor, "busy")).get("/use");
        assert_eq!(own.status, 200, "{own:?}");
        for done in ["printed", "caught: true", "job on", "thread of its own: true", "timer: true"]
        {
            assert!(own.text().contains(done), "{done}: {}", own.text());
        }
        let mut client = Client::connect(server.address("web"));
        client.send("POST /busy/mirror HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!(client.response().text(), "hello");
    });
}

#[test]
fn echo_comes_and_goes() {
    let server = Server::start("");
    let load = "load echo --library echo --listen 127.0.0.1:0";
    cycle(&server, "echo", load, soak_count(300, 1_100), |monitor| {
        assert_eq!(exchange(address(monitor, "echo"), "hello\n"), b"hello\n");
    });
}

#[test]
fn echo_session_comes_and_goes() {
    let server = Server::start("");
    let load = "load echo --library echo-session --listen 127.0.0.1:0";
    cycle(&server, "echo", load, soak_count(300, 1_100), |monitor| {
        assert_eq!(exchange(address(monitor, "echo"), "hello\n"), b"hello\n");
    });
}

#[test]
fn hello_comes_and_goes() {
    let server = web();
    let address = server.address("web");
    let load = "load hello --library hello --attach web";
    cycle(&server, "hello", load, soak_count(300, 1_100), |_| {
        assert_eq!(Client::connect(address).get("/hello").text(), "hello, number 1\n");
    });
}

#[test]
fn http_files_comes_and_goes() {
    let server = web();
    let address = server.address("web");
    let root = server.folder().path("site");
    let load = format!("load site --library http-files --attach web --set root={}", root.display());
    cycle(&server, "site", &load, soak_count(300, 1_100), |_| {
        assert_eq!(Client::connect(address).get("/file.txt").text(), FILE);
    });
}

#[test]
fn http_comes_and_goes() {
    let server = web();
    let root = server.folder().path("site");
    server
        .ctl(
            format!("load site --library http-files --attach front --set root={}", root.display())
                .split(' '),
        )
        .succeeded();
    let load = "load front --library http --listen 127.0.0.1:0";
    cycle(&server, "front", load, soak_count(300, 1_100), |monitor| {
        let mut client = Client::connect(address(monitor, "front"));
        assert_eq!(client.get("/file.txt").text(), FILE);
        assert_eq!(client.get("/missing").status, 404);
    });
}

/// `http` as `web` on a free port, with nothing attached.
fn web() -> Server {
    medusa_tests::Folder::new()
        .with("site/file.txt", FILE)
        .start("[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n")
}

fn address(monitor: &mut Monitor, name: &str) -> std::net::SocketAddr {
    let plugins = monitor.plugin(name);
    let listen = plugins[0]["listen"][0].as_str().expect("it listens");
    listen.parse().expect("an address")
}

/// Loads, uses and unloads; looks at the process after each unload.
fn cycle(
    server: &Server,
    name: &str,
    load: &str,
    count: usize,
    mut used: impl FnMut(&mut Monitor),
) {
    let (process, mut monitor) = (server.process(), Monitor::of(server));
    let others = images(process);
    let started = Instant::now();
    let mut all = Vec::<Levels>::with_capacity(count);
    let mut number = 0;
    while all.len() < count {
        number += 1;
        monitor.json(load.split(' '));
        used(&mut monitor);
        let mut image = images(process);
        image.retain(|image| !others.contains(image));
        assert_eq!(image.len(), 1, "cycle {number}: {name} is one image");

        let unload = monitor.json(["unload", name]);
        assert_eq!(unload["result"], "unloaded", "cycle {number}: {unload}");
        assert_eq!(unload["mapped"], false, "cycle {number}: {unload}");
        assert_eq!(unload["leaked_bytes"], 0, "cycle {number}: {unload}");
        assert_eq!(still_mapped(process, &image), [], "cycle {number}: its image is gone");
        assert_eq!(images(process), others, "cycle {number}: no other image came");
        let levels = Levels::of(process);
        // The pools get their threads one by one, when there is work for another: what is level is counted from the last one on. One that
        // came with each cycle would be too many soon.
        if all.last().is_some_and(|before| levels.threads > before.threads) {
            assert!(levels.threads <= THREADS_MAX, "{:#?}", process.threads());
            all.clear();
        }
        all.push(levels);
    }
    report(name, process, &all, started);
}

fn report(name: &str, process: Process, all: &[Levels], started: Instant) {
    let warm_up = WARM_UP.max(all.len() / 10);
    let first = all[warm_up];
    let last = all[all.len() - 1];
    let range = |of: fn(&Levels) -> usize| {
        let late = all[warm_up..].iter().map(of);
        (late.clone().min().unwrap_or(0), late.max().unwrap_or(0))
    };
    let growth = last.rss_bytes.saturating_sub(first.rss_bytes);
    println!(
        "{name}: {} cycles in {:.1?}; mappings {:?}, descriptors {:?}, threads {:?}; resident {} KiB, then {} KiB",
        all.len(),
        started.elapsed(),
        range(|it| it.mappings),
        range(|it| it.descriptors),
        range(|it| it.threads),
        first.rss_bytes / 1024,
        last.rss_bytes / 1024,
    );
    let seen = format!("first {first:?}, last {last:?}, {:#?}", process.threads());
    assert_eq!(first.mappings, last.mappings, "mappings are level: {seen}");
    assert_eq!(first.descriptors, last.descriptors, "descriptors are level: {seen}");
    assert_eq!(first.threads, last.threads, "threads are level: {seen}");
    assert!(growth < GROWTH_BYTES_MAX, "resident memory grew by {growth} bytes: {seen}");
}
