//! What operators do to a server that runs: upgrades that fail, another configuration, the end.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use medusa_tests::{Canary, Client, Server, exchange, wait_until};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);

const WEB: &str = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
    [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n\
    [plugin.config]\nroot = \"site\"\n";

fn keeper(config: &str) -> String {
    format!(
        "{}[[plugin]]\nname = \"keeper\"\nlibrary = \"keeper\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\nlock = \"lock\"\n{config}",
        Canary::CONFIGURATION
    )
}

/// Puts another configuration into force, and returns what `config apply` says.
#[track_caller]
fn apply(server: &Server, configuration: &str) -> serde_json::Value {
    server.folder().configure(configuration);
    server.ctl_json(["config", "apply"])
}

fn talk(server: &Server) -> (TcpStream, BufReader<TcpStream>) {
    let stream = TcpStream::connect(server.address("keeper")).expect("keeper listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
    let reader = BufReader::new(stream.try_clone().expect("a descriptor can be copied"));
    (stream, reader)
}

#[track_caller]
fn says((stream, reader): &mut (TcpStream, BufReader<TcpStream>), line: &str, answer: &str) {
    stream.write_all(format!("{line}\n").as_bytes()).expect("keeper takes a line");
    let mut said = String::new();
    reader.read_line(&mut said).expect("keeper answers");
    assert_eq!(said, format!("{answer}\n"));
}

// === Upgrades that fail ===

#[test]
fn whatever_fails_in_an_upgrade_the_old_generation_has_its_lock_and_serves() {
    let server = Server::start(&keeper(""));
    let mut canary = Canary::of(&server);
    let mut session = talk(&server);
    says(&mut session, "count", "1");
    for (fails, sentence) in [("acquire", "acquire is to fail"), ("import", "import is to fail")] {
        let applied = apply(&server, &keeper(&format!("fails = \"{fails}\"\n")));
        let reason = applied["failed"][0]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(sentence), "{fails}: {applied}");
        assert!(reason.contains("goes on with"), "{fails}: {applied}");
        assert!(server.folder().path("lock").exists(), "{fails}: the lock is held again");
        assert_eq!(server.plugin("keeper").len(), 1, "{fails}: only the old one is there");
        assert_eq!(server.plugin("keeper")[0]["generation"], 1);
        let mappings = server.process().mappings_of("keeper");
        let images: BTreeSet<_> = mappings.iter().map(|mapping| mapping.inode).collect();
        assert_eq!(images.len(), 1, "{fails}: nothing is left of the new one");
        says(&mut session, "hello", "hello");
        canary.sings();
    }
    // It is the new one's word that counts now, and nothing fails.
    let applied = apply(&server, &keeper("start = \"1 ms\"\n"));
    assert_eq!(applied["failed"].as_array().map(Vec::len), Some(0), "{applied}");
    says(&mut talk(&server), "count", "1");
    wait_until("the old generation to go", PATIENCE, || server.plugin("keeper").len() == 1);
    assert!(server.folder().path("lock").exists());
}

#[test]
fn what_an_old_generation_gave_up_in_part_it_takes_back() {
    let server = Server::start(&keeper("fails = \"release\"\n"));
    let upgraded = server.ctl_json(["upgrade", "keeper"]);
    assert_eq!(upgraded["result"], "kept", "{upgraded}");
    assert!(upgraded["reason"].as_str().is_some_and(|it| it.contains("release is to fail")));
    assert!(server.folder().path("lock").exists(), "it was given up, and taken back");
    says(&mut talk(&server), "hello", "hello");

    let limits = "[plugin.limits]\nstart_ms_max = \"100 ms\"\n";
    let server = Server::start(&keeper(&format!("fails = \"hang\"\n{limits}")));
    let upgraded = server.ctl_json(["upgrade", "keeper"]);
    assert_eq!(upgraded["result"], "kept", "{upgraded}");
    assert!(server.folder().path("lock").exists(), "a step that took too long is undone too");
    says(&mut talk(&server), "hello", "hello");
    assert_eq!(server.ctl_json(["unload", "keeper", "--now"])["mapped"], false);
}

// === Sessions ===

#[test]
fn sessions_that_will_not_go_neither_stop_the_loop_nor_pin_their_plugin() {
    let server = Server::start(&keeper("[plugin.limits]\ndrain_ms_max = \"300 ms\"\n"));
    let mut canary = Canary::of(&server);
    let mut stays = talk(&server);
    says(&mut stays, "stay\ncount", "2");
    let mut parked = talk(&server);
    says(&mut parked, "hello", "hello");

    let unloaded = server.ctl_json(["unload", "keeper"]);
    assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
    assert_eq!(unloaded["mapped"], false, "{unloaded}");
    for session in [&mut stays, &mut parked] {
        let mut rest = Vec::new();
        let _ = session.1.read_to_end(&mut rest);
        assert_eq!(rest, b"", "the session has ended");
    }
    canary.sings();
}

#[test]
fn sessions_rest_and_are_woken_by_bytes_deadlines_and_posts() {
    let server = Server::start(&keeper(""));
    let mut sessions: Vec<_> = (0..100).map(|_| talk(&server)).collect();
    for (at, session) in sessions.iter_mut().enumerate() {
        says(session, "hello", "hello");
        if at % 2 == 0 {
            says(session, "slow", "slow");
        }
    }
    let parked = || {
        let all = server.ctl_json(["connections"]);
        all.as_array().into_iter().flatten().filter(|it| it["state"] == "parked").count()
    };
    wait_until("all sessions to be parked", PATIENCE, || parked() == sessions.len());
    // While one has a turn that takes its time, the others have theirs.
    sessions[0].0.write_all(b"slow\n").expect("keeper takes a line");
    says(&mut sessions[1], "hello", "hello");
    says(&mut sessions[2], "later", "later");
    says(&mut sessions[3], "tell", "tell");
    says(&mut sessions[3], "tell\ntell", "tell");
    let mut said = String::new();
    sessions[3].1.read_line(&mut said).expect("keeper answers");
    assert_eq!(said, "tell\n");
    sessions[0].1.read_line(&mut said).expect("keeper answers");
    assert_eq!(said, "tell\nslow\n");
    for session in &mut sessions {
        says(session, "hello", "hello");
    }
    // Half a line is kept while the connection rests.
    sessions[4].0.write_all(b"coun").expect("keeper takes a piece");
    wait_until("it to be parked again", PATIENCE, || parked() == sessions.len());
    says(&mut sessions[4], "t", "4");
    let id = server.ctl_json(["connections"])[0]["id"].to_string();
    server.ctl(["kill", &id]).succeeded();
    wait_until("the one that was killed to be gone", PATIENCE, || parked() == sessions.len() - 1);
}

#[test]
fn a_session_that_parks_after_its_peer_has_gone_is_over() {
    let server = Server::start(&keeper(""));
    let mut canary = Canary::of(&server);
    let mut session = talk(&server);
    says(&mut session, "stay\ncount", "2");
    rustix::net::sockopt::set_socket_linger(&session.0, Some(Duration::ZERO))
        .expect("a socket can linger for no time");
    drop(session);
    let connections = || server.plugin("keeper")[0]["connections"].clone();
    wait_until("the session to be over", PATIENCE, || connections() == 0);
    canary.sings();
    let unloaded = server.ctl_json(["unload", "keeper"]);
    assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
}

// === Another configuration ===

#[test]
fn an_address_is_added_and_removed_and_the_others_serve_all_the_while() {
    let server = Server::start(&keeper(""));
    let first = server.address("keeper");
    let mut session = talk(&server);
    says(&mut session, "count", "1");

    let two =
        keeper("").replace("\"127.0.0.1:0\"]\n[plugin", "\"127.0.0.1:0\", \"[::1]:0\"]\n[plugin");
    let applied = apply(&server, &two);
    assert_eq!(applied["upgraded"][0], "keeper", "{applied}");
    let addresses = server.addresses("keeper");
    assert_eq!((addresses.len(), addresses[0]), (2, first));
    assert!(addresses[1].is_ipv6());
    for address in &addresses {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.write_all(b"quit\n").expect("it is served");
    }
    assert_eq!(server.plugin("keeper")[0]["generation"], 1, "nobody had to be replaced for it");

    let applied = apply(&server, &keeper(""));
    assert_eq!(applied["failed"].as_array().map(Vec::len), Some(0), "{applied}");
    assert_eq!(server.addresses("keeper"), [first]);
    TcpStream::connect(addresses[1]).expect_err("the other address is closed");
    says(&mut session, "count", "2");

    // One that cannot be had changes nothing.
    let taken = format!("\"127.0.0.1:0\", \"{}\"]\n[plugin", server.address("canary"));
    let applied = apply(&server, &keeper("").replace("\"127.0.0.1:0\"]\n[plugin", &taken));
    assert_eq!(applied["failed"][0]["name"], "keeper", "{applied}");
    assert_eq!(server.addresses("keeper"), [first]);
    says(&mut session, "count", "3");
}

#[test]
fn what_was_loaded_or_unloaded_by_hand_stays_so_when_the_file_says_the_same() {
    let server = Server::start(&keeper(""));
    server.ctl(["load", "extra", "--library", "echo", "--listen", "127.0.0.1:0"]).succeeded();
    server.ctl(["unload", "keeper"]).succeeded();
    let applied = server.ctl_json(["config", "apply"]);
    assert_eq!(applied["started"].as_array().map(Vec::len), Some(0), "{applied}");
    assert!(server.plugin("keeper").is_empty());
    assert_eq!(exchange(server.address("extra"), "hello\n"), b"hello\n");

    // What the file says anew, it has its way with.
    let applied = apply(&server, &keeper("start = \"1 ms\"\n"));
    assert_eq!(applied["started"][0], "keeper", "{applied}");
    says(&mut talk(&server), "count", "1");
}

#[test]
fn an_instance_that_could_not_be_loaded_is_shown_with_its_reason_and_tried_again() {
    let server = Server::start(&keeper("fails = \"acquire\"\n"));
    let failed = server.plugin("keeper");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["state"], "failed");
    assert!(failed[0]["reason"].as_str().is_some_and(|it| it.contains("acquire is to fail")));
    let applied = apply(&server, &keeper(""));
    assert_eq!(applied["started"][0], "keeper", "{applied}");
    assert_eq!(server.plugin("keeper")[0]["state"], "running");
}

#[test]
fn jobs_that_never_end_keep_nobody_from_loading_and_serving() {
    let web = format!(
        "{WEB}[[plugin]]\nname = \"busy\"\nlibrary = \"busy\"\nattach = \"web\"\npath = \"/busy\"\n\
         [[plugin]]\nname = \"busier\"\nlibrary = \"busy\"\nattach = \"web\"\npath = \"/busier\"\n"
    );
    let folder = medusa_tests::Folder::new().with("site/a.txt", "a\n");
    let gate = folder.path("gate");
    let server = folder.start(&web);
    let mut stuck: Vec<Client> = (0..16).map(|_| Client::connect(server.address("web"))).collect();
    for (client, at) in stuck.iter_mut().zip(["busy", "busier"].iter().cycle()) {
        let path = format!("/{at}/job?{}", gate.display());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
    }
    let running = || server.ctl_json(["status"])["jobs_running"].as_u64().unwrap_or(0);
    wait_until("as many jobs as can run", PATIENCE, || running() >= 4);
    server.ctl(["load", "hello", "--library", "hello", "--attach", "web"]).succeeded();
    let mut client = Client::connect(server.address("web"));
    assert_eq!(client.get("/hello").text(), "hello, number 1\n");
    assert_eq!(client.get("/a.txt").text(), "a\n");
    let id = server.ctl_json(["routes"])[0]["id"].to_string();
    server.ctl(["routes", "move", &id, "last"]).succeeded();
    std::fs::write(&gate, "").expect("the gate can be opened");
    for client in &mut stuck {
        assert_eq!(client.response().text(), "the job is done\n");
    }
}

#[test]
fn an_instance_that_nobody_can_reach_says_so() {
    let server = Server::start(WEB);
    let load = |words: &[&str]| server.ctl(["load"].iter().chain(words)).succeeded().to_owned();
    assert!(load(&["alone", "--library", "hello"]).contains("--attach"));
    assert!(load(&["deaf", "--library", "echo"]).contains("--listen"));
    assert!(!load(&["fine", "--library", "hello", "--attach", "web"]).contains("--attach"));
    assert!(server.plugin("alone")[0]["reason"].is_string());
    assert!(server.plugin("fine")[0]["reason"].is_null());
}

#[test]
fn what_is_refused_is_an_object_for_programs_too() {
    let server = Server::start(WEB);
    let unloaded = server.ctl_json(["unload", "nobody"]);
    assert_eq!((&unloaded["name"], &unloaded["result"]), (&"nobody".into(), &"failed".into()));
    assert_eq!(unloaded["mapped"], false);
    assert!(unloaded["reason"].as_str().is_some_and(|it| it.contains("no instance")));
    let upgraded = server.ctl_json(["upgrade", "nobody"]);
    assert_eq!((&upgraded["result"], &upgraded["pause_us"]), (&"kept".into(), &0.into()));
    let output = server.ctl(["--json", "unload", "nobody"]);
    assert_eq!(output.status, 1, "{output:?}");
}

#[test]
fn what_could_not_be_put_into_force_is_tried_again() {
    let server = Server::start(&keeper(""));
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = other.local_addr().expect("it is bound").to_string();
    let more = format!("\"127.0.0.1:0\", \"{taken}\"]\n[plugin");
    let wanted = keeper("").replace("\"127.0.0.1:0\"]\n[plugin", &more);
    for _ in 0..2 {
        let applied = apply(&server, &wanted);
        assert_eq!(applied["failed"][0]["name"], "keeper", "{applied}");
    }
    drop(other);
    let applied = apply(&server, &wanted);
    assert_eq!(applied["upgraded"][0], "keeper", "{applied}");
    assert_eq!(server.addresses("keeper").len(), 2);
    let applied = apply(&server, &wanted);
    assert_eq!(applied["upgraded"].as_array().map(Vec::len), Some(0), "{applied}");
}

#[test]
fn an_instance_that_is_being_upgraded_goes_all_the_same_when_it_is_not_configured_any_more() {
    let server = Server::start(&keeper("start = \"500 ms\"\n"));
    let mut upgrade = server.ctl_command();
    let mut upgrade = upgrade
        .args(["upgrade", "keeper"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("ctl runs");
    wait_until("the upgrade", PATIENCE, || server.plugin("keeper").len() == 2);
    let applied = apply(&server, Canary::CONFIGURATION);
    assert_eq!(applied["stopped"][0], "keeper", "{applied}");
    assert!(upgrade.wait().expect("ctl ends").success());
    wait_until("both generations to go", PATIENCE, || server.plugin("keeper").is_empty());
}

#[test]
fn a_load_that_had_to_wait_hides_nothing_of_what_still_drains() {
    let server = Server::start(&keeper(""));
    let mut session = talk(&server);
    says(&mut session, "stay\ncount", "2");
    let mut unload = server.ctl_command();
    let mut unload = unload
        .args(["unload", "keeper"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("ctl runs");
    wait_until("the drain", PATIENCE, || {
        server.plugin("keeper").first().is_some_and(|it| it["state"] == "draining")
    });
    let applied = apply(&server, &keeper("start = \"1 ms\"\n"));
    assert_eq!(applied["failed"][0]["name"], "keeper", "{applied}");
    let unloaded = server.ctl_json(["unload", "keeper", "--now"]);
    assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
    assert!(server.plugin("keeper").is_empty(), "what was said to be unloaded is");
    assert!(unload.wait().expect("ctl ends").success());
}

// === The end ===

#[test]
fn a_server_that_is_about_to_stop_begins_nothing_new() {
    let mut server = Server::start(&keeper(""));
    let mut session = talk(&server);
    says(&mut session, "stay\ncount", "2");
    server.signal(Signal::TERM);
    wait_until("the drain", PATIENCE, || server.ctl_json(["status"])["state"] == "draining");
    let more = "[[plugin]]\nname = \"more\"\nlibrary = \"echo\"\nlisten = [\"127.0.0.1:0\"]\n";
    let applied = apply(&server, &(keeper("") + more));
    let reason = applied["failed"].to_string();
    assert!(reason.contains("about to stop"), "{applied}");
    assert!(server.plugin("more").is_empty());
    drop(session);
    assert!(server.wait().success());
}

#[test]
fn a_drain_can_be_cut_short() {
    let server = Server::start(&keeper(""));
    let mut session = talk(&server);
    says(&mut session, "stay\ncount", "2");
    let mut unload = server.ctl_command();
    let mut unload = unload
        .args(["unload", "keeper"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("ctl runs");
    wait_until("the drain", PATIENCE, || {
        server.plugin("keeper").first().is_some_and(|it| it["state"] == "draining")
    });
    server.ctl(["unload", "keeper"]).refused("--now");
    let unloaded = server.ctl_json(["unload", "keeper", "--now"]);
    assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
    assert!(unload.wait().expect("ctl ends").success());
}

#[test]
fn the_end_waits_for_downloads_that_older_generations_send() {
    let file: Vec<u8> = (0..24 * 1024 * 1024_u32).map(|at| (at / 7) as u8).collect();
    let mut server = Server::with_site(&[("large", &file), ("a.txt", b"a\n")]);
    let address = server.address("web");
    let mut client = Client::connect(address);
    client.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    let begun = client.read_some(1000);
    assert_eq!(server.ctl_json(["upgrade", "site"])["result"], "upgraded");
    assert_eq!(server.ctl_json(["upgrade", "web"])["result"], "upgraded");
    let mut idle = Client::connect(address);
    assert_eq!(idle.get("/a.txt").text(), "a\n");

    server.signal(Signal::TERM);
    wait_until("the listener to close", PATIENCE, || TcpStream::connect(address).is_err());
    // Who asks once more is answered by an extension that is still there.
    let last = idle.get("/a.txt");
    assert_eq!((last.status, last.text()), (200, "a\n"));

    let mut received = begun;
    let head = received.windows(4).position(|it| it == b"\r\n\r\n").expect("the head came") + 4;
    while received.len() < head + file.len() {
        let more = client.read_some(256 * 1024);
        assert!(!more.is_empty(), "the download ended after {} bytes", received.len());
        received.extend(more);
    }
    assert!(received[head..] == file, "a byte of the download is wrong");
    drop((client, idle));
    assert!(server.wait().success());
}

#[test]
fn a_plugin_that_is_slow_to_start_keeps_nobody_from_the_monitor_nor_from_stopping() {
    let folder = medusa_tests::Folder::new();
    let mut server = folder.begin(&keeper("start = \"1 h\"\n"));
    let status = server.ctl_json(["status"]);
    assert_eq!(status["state"], "starting", "{status}");
    wait_until("the plugin to start", PATIENCE, || {
        server.plugin("keeper").first().is_some_and(|it| it["state"] == "starting")
    });
    assert_eq!(exchange(server.address("canary"), "hello\n"), b"hello\n");
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

#[test]
fn a_signal_for_what_is_not_there_yet_does_no_harm() {
    let server = Server::start(Canary::CONFIGURATION);
    server.signal(Signal::USR2);
    server.wait_for_log("SIGUSR2");
    Canary::of(&server).sings();
}
