//! Connections outlive the code that serves them: an upgrade hands them over, and their clients notice nothing.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use medusa_tests::{Canary, Client, Folder, Server, Tree, images, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// More than sockets hold.
const LARGE: usize = 8 * 1024 * 1024;

/// A client of lines.
struct Lines {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Lines {
    fn connect(address: SocketAddr) -> Lines {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        let reader = BufReader::new(stream.try_clone().expect("a descriptor can be copied"));
        Lines { stream, reader }
    }

    #[track_caller]
    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("the server takes it");
    }

    #[track_caller]
    fn reads(&mut self, line: &str) {
        let mut said = String::new();
        self.reader.read_line(&mut said).expect("the server answers");
        assert_eq!(said, format!("{line}\n"));
    }

    #[track_caller]
    fn says(&mut self, line: &str, answer: &str) {
        self.send(&format!("{line}\n"));
        self.reads(answer);
    }
}

/// The connections of an instance by number: the generation that serves each, and what it is at.
fn connections(server: &Server, instance: &str) -> BTreeMap<u64, (u64, String)> {
    let all = server.ctl_json(["connections"]);
    let of = all.as_array().into_iter().flatten().filter(|it| it["instance"] == instance);
    let number = |it: &serde_json::Value, field: &str| it[field].as_u64().expect("a number");
    of.map(|it| {
        let state = it["state"].as_str().unwrap_or_default().to_owned();
        (number(it, "id"), (number(it, "generation"), state))
    })
    .collect()
}

#[track_caller]
fn all_parked(server: &Server, instance: &str, count: usize) {
    wait_until("the connections to rest", PATIENCE, || {
        let all = connections(server, instance);
        all.len() == count && all.values().all(|(_, state)| state == "parked")
    });
}

#[track_caller]
fn only_one(server: &Server, instance: &str, generation: u64) {
    wait_until("the old generations to go", PATIENCE, || server.plugin(instance).len() == 1);
    assert_eq!(server.plugin(instance)[0]["generation"], generation);
}

#[test]
fn sessions_that_rest_go_over_and_their_clients_notice_nothing() {
    // On probation one descriptor more is open: that of the library before.
    let server = Server::start(
        "[[plugin]]\nname = \"echo\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.limits]\nprobation_ms = 0\n",
    );
    let mut clients: Vec<_> = (0..300).map(|_| Lines::connect(server.address("echo"))).collect();
    clients.iter_mut().for_each(|client| client.says("hello", "hello"));
    all_parked(&server, "echo", clients.len());
    let before: Vec<_> = connections(&server, "echo").into_keys().collect();
    let descriptors = server.process().descriptors().len();
    let first = images(server.process());
    for generation in 2..6 {
        let upgraded = server.ctl_json(["upgrade", "echo"]);
        assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
        assert_eq!((&upgraded["handed_over"], &upgraded["drained"]), (&300.into(), &0.into()));
        // Nothing of it is the old one's any more, so that it goes at once.
        only_one(&server, "echo", generation);
        all_parked(&server, "echo", clients.len());
        let now = connections(&server, "echo");
        assert!(now.values().all(|(serves, _)| *serves == generation), "{now:?}");
        clients.iter_mut().for_each(|client| client.says("again", "again"));
    }
    all_parked(&server, "echo", clients.len());
    assert_eq!(connections(&server, "echo").into_keys().collect::<Vec<_>>(), before);
    assert_eq!(server.process().descriptors().len(), descriptors);
    assert!(images(server.process()).is_disjoint(&first), "the first image is gone");
}

fn keeper(config: &str) -> String {
    format!(
        "{}[[plugin]]\nname = \"keeper\"\nlibrary = \"keeper\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\nlock = \"lock\"\n{config}",
        Canary::CONFIGURATION
    )
}

#[test]
fn a_session_that_is_in_a_turn_goes_over_when_it_parks_with_all_that_it_keeps() {
    let server = Server::start(&keeper(""));
    let (mut held, mut half) =
        (Lines::connect(server.address("keeper")), Lines::connect(server.address("keeper")));
    held.says("count", "1");
    held.says("hold", "hold");
    half.says("count", "1");
    half.send("cou");
    wait_until("half a line to be read", PATIENCE, || {
        let all = connections(&server, "keeper");
        all.values().filter(|(_, state)| state == "parked").count() == 1
    });
    let upgraded = server.ctl_json(["upgrade", "keeper"]);
    let (moved, left) = (&upgraded["handed_over"], &upgraded["drained"]);
    assert_eq!((moved, left), (&1.into(), &1.into()), "{upgraded}");
    half.send("nt\n");
    half.reads("2");
    assert_eq!(server.plugin("keeper").len(), 2, "the old one has a turn that goes on");
    held.send(".");
    only_one(&server, "keeper", 2);
    held.says("count", "3");
    let now = connections(&server, "keeper");
    assert!(now.len() == 2 && now.values().all(|(serves, _)| *serves == 2), "{now:?}");
    // Another one is told of neither: it is new.
    Lines::connect(server.address("keeper")).says("count", "1");
}

#[test]
fn if_one_session_cannot_be_taken_the_old_generation_goes_on_with_all() {
    let server = Server::start(&keeper(""));
    let mut canary = Canary::of(&server);
    let mut clients: Vec<_> = (0..5).map(|_| Lines::connect(server.address("keeper"))).collect();
    clients.iter_mut().for_each(|client| client.says("count", "1"));
    all_parked(&server, "keeper", clients.len());
    for (fails, sentence) in
        [("session", "the session is to fail"), ("session-panic", "the session is to panic")]
    {
        server.folder().configure(&keeper(&format!("fails = \"{fails}\"\n")));
        let applied = server.ctl_json(["config", "apply"]);
        let reason = applied["failed"][0]["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("goes on with"), "{fails}: {applied}");
        assert!(reason.contains("session"), "{fails}: {applied}");
        assert!(format!("{reason}{}", server.log()).contains(sentence), "{fails}: {applied}");
        only_one(&server, "keeper", 1);
        let now = connections(&server, "keeper");
        assert!(now.len() == 5 && now.values().all(|(serves, _)| *serves == 1), "{now:?}");
        clients.iter_mut().for_each(|client| client.says("hello", "hello"));
        canary.sings();
    }
    server.folder().configure(&keeper("start = \"1 ms\"\n"));
    let applied = server.ctl_json(["config", "apply"]);
    assert_eq!(applied["failed"].as_array().map(Vec::len), Some(0), "{applied}");
    clients.iter_mut().for_each(|client| client.says("count", "4"));
}

/// Reads to the end of the input, which is to come.
#[track_caller]
fn is_closed(client: &mut Lines) {
    let mut rest = String::new();
    client.reader.read_line(&mut rest).expect("the connection is closed");
    assert_eq!(rest, "");
}

#[test]
fn a_session_in_a_turn_that_cannot_be_taken_ends_where_it_is() {
    let server = Server::start(&keeper(""));
    let mut held: Vec<_> = (0..3).map(|_| Lines::connect(server.address("keeper"))).collect();
    held.iter_mut().for_each(|client| client.says("hold", "hold"));
    // It takes two.
    server.folder().configure(&keeper("fails = \"session\"\n"));
    let applied = server.ctl_json(["config", "apply"]);
    assert_eq!(applied["failed"].as_array().map(Vec::len), Some(0), "{applied}");
    held.iter_mut().for_each(|client| client.send("."));
    only_one(&server, "keeper", 2);
    is_closed(&mut held.pop().expect("three"));
    held.iter_mut().for_each(|client| client.says("count", "2"));
    assert_eq!(connections(&server, "keeper").len(), 2);
}

#[test]
fn if_one_session_cannot_be_taken_after_a_quarantine_all_end_where_they_are() {
    let limits = "[plugin.limits]\nheap_bytes_max = \"1 MiB\"\n";
    // The first generation has none to take.
    let server = Server::start(&format!("{}{limits}", keeper("fails = \"session\"\n")));
    let mut clients: Vec<_> = (0..5).map(|_| Lines::connect(server.address("keeper"))).collect();
    clients.iter_mut().for_each(|client| client.says("count", "1"));
    clients[4].send(&"x".repeat(2 * 1024 * 1024));
    wait_until("the quarantine", PATIENCE, || server.plugin("keeper")[0]["state"] == "quarantined");
    all_parked(&server, "keeper", clients.len());
    server.ctl(["load", "keeper"]).succeeded();
    only_one(&server, "keeper", 2);
    clients.iter_mut().for_each(is_closed);
    drop(clients);
    wait_until("all to be gone", PATIENCE, || connections(&server, "keeper").is_empty());
}

#[test]
fn all_that_rested_know_of_it_before_one_of_them_has_another_turn() {
    let server = Server::start(&keeper(""));
    let mut clients: Vec<_> = (0..5).map(|_| Lines::connect(server.address("keeper"))).collect();
    clients.iter_mut().for_each(|client| client.send("again\n"));
    clients.iter_mut().for_each(|client| client.says("count", "2"));
    all_parked(&server, "keeper", clients.len());
    assert_eq!(server.ctl_json(["upgrade", "keeper"])["handed_over"], 5);
    clients.iter_mut().for_each(|client| client.reads("again"));
    let log = server.log();
    let turns = log.lines().filter_map(|line| line.split_once("wake=")).map(|(_, wake)| wake);
    let turns: Vec<_> = turns.filter(|wake| !wake.starts_with("Readable")).collect();
    assert!(turns[..5].iter().all(|wake| wake.starts_with("Resumed")), "{turns:?}");
}

#[test]
fn what_is_posted_to_a_session_while_it_is_handed_over_is_not_lost() {
    let server = Server::start(&keeper(""));
    let mut clients = [(); 2].map(|()| Lines::connect(server.address("keeper")));
    clients.iter_mut().for_each(|client| client.send("join\n"));
    clients.iter_mut().for_each(|client| client.says("count", "2"));
    all_parked(&server, "keeper", clients.len());
    assert_eq!(server.ctl_json(["upgrade", "keeper"])["handed_over"], 2);
    // The first is dropped in the old generation while the second is still there.
    clients[1].reads("one has left");
    only_one(&server, "keeper", 2);
    clients.iter_mut().for_each(|client| client.says("count", "3"));
}

#[test]
fn sessions_go_over_into_another_shape_and_back() {
    let server = Server::start(&keeper(""));
    // The version that a library writes stands in its manifest, as text.
    let mut second = std::fs::read(Tree::get().library("keeper")).expect("the tree can be read");
    let writes = b"\"writes\":1";
    let place = second.windows(writes.len()).position(|it| it == writes).expect("a manifest");
    second[place + writes.len() - 1] = b'2';
    server.folder().write("second.so", &second);
    let path = server.folder().path("second.so");
    let [first, second] = [
        keeper(""),
        keeper("shape = 2\n").replace("\"keeper\"\nlisten", &format!("{path:?}\nlisten")),
    ];
    let mut clients: Vec<_> = (0..5).map(|_| Lines::connect(server.address("keeper"))).collect();
    let mut typed = 0;
    for (generation, next) in [(2, &second), (3, &first), (4, &second)] {
        clients.iter_mut().for_each(|client| client.send("cou"));
        typed += "cou".len();
        wait_until("half a line to be read", PATIENCE, || {
            let all = server.ctl_json(["connections"]);
            let all = all.as_array().expect("a list").iter();
            all.filter(|it| it["received_bytes"] == typed && it["state"] == "parked").count() == 5
        });
        server.folder().configure(next);
        let applied = server.ctl_json(["config", "apply"]);
        assert_eq!(applied["failed"].as_array().map(Vec::len), Some(0), "{applied}");
        only_one(&server, "keeper", generation);
        let now = connections(&server, "keeper");
        assert!(now.len() == 5 && now.values().all(|(serves, _)| *serves == generation), "{now:?}");
        clients.iter_mut().for_each(|client| {
            client.send("nt\n");
            client.reads(&(generation - 1).to_string());
        });
        typed += "nt\n".len();
    }
}

#[test]
fn http_goes_on_in_whatever_a_connection_is() {
    let large: Vec<u8> = (0..LARGE).map(|at| (at / 7) as u8).collect();
    let server = Folder::new().with("site/a.txt", "a\n").with("site/large", &large).start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n\
         [plugin.config]\nroot = \"site\"\n\
         [[plugin]]\nname = \"busy\"\nlibrary = \"busy\"\nattach = \"web\"\npath = \"/busy\"\n",
    );
    let connect = || {
        let mut client = Client::connect(server.address("web"));
        assert_eq!(client.get("/a.txt").text(), "a\n");
        client
    };
    let [mut idle, mut half, mut upload, mut download, mut waiting] = [(); 5].map(|()| connect());
    all_parked(&server, "web", 5);
    let before: Vec<_> = connections(&server, "web").into_keys().collect();
    let get = "GET /a.txt HTTP/1.1\r\nHost: test\r\n";
    half.send(get);
    upload.send("POST /busy/mirror HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
    download.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    // Behind a request that takes its time there is another, and a part of a third.
    waiting.send(format!("GET /large HTTP/1.1\r\nHost: test\r\n\r\n{get}\r\n{get}"));
    wait_until("all but one to be served", PATIENCE, || {
        let all = connections(&server, "web");
        all.values().filter(|(_, state)| state == "parked").count() == 1
    });
    for generation in [2, 3] {
        assert_eq!(server.ctl_json(["upgrade", "web"])["result"], "upgraded");
        assert_eq!(idle.get("/a.txt").text(), "a\n");
        let now = connections(&server, "web");
        assert_eq!(now.keys().copied().collect::<Vec<_>>(), before);
        let moved = now.values().filter(|(serves, _)| *serves == generation).count();
        assert_eq!(moved, 2, "the one that rests and the one with half a head: {now:?}");
    }
    half.send("\r\n");
    assert_eq!(half.response().text(), "a\n");
    upload.send("world");
    let mirrored = upload.response();
    assert_eq!((mirrored.text(), mirrored.header("connection")), ("helloworld", None));
    for client in [&mut download, &mut waiting] {
        let response = client.response();
        assert!(response.body == large, "{} bytes of a large file", response.body.len());
        assert_eq!(response.header("connection"), None);
    }
    assert_eq!(waiting.response().text(), "a\n");
    waiting.send("\r\n");
    assert_eq!(waiting.response().text(), "a\n");
    only_one(&server, "web", 3);
    for client in [&mut idle, &mut half, &mut upload, &mut download, &mut waiting] {
        assert_eq!(client.get("/a.txt").text(), "a\n");
    }
    let now = connections(&server, "web");
    assert_eq!(now.keys().copied().collect::<Vec<_>>(), before);
    assert!(now.values().all(|(serves, _)| *serves == 3), "{now:?}");
}
