//! Another configuration of a server that runs: as a difference, with every listener open all the while, and as a whole or not at all.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use medusa_tests::{Canary, Client, Folder, Server, Tree, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// An instance that echoes lines, in sessions that park.
fn keeper(name: &str, listen: &str, config: &str) -> String {
    format!(
        "[[plugin]]\nname = \"{name}\"\nlibrary = \"keeper\"\nlisten = [{listen}]\n\
         [plugin.config]\nlock = \"{name}.lock\"\n{config}"
    )
}

/// An instance that echoes lines, in tasks.
fn echo(name: &str, listen: &str) -> String {
    format!("[[plugin]]\nname = \"{name}\"\nlibrary = \"echo\"\nlisten = [{listen}]\n")
}

const ANY: &str = "\"127.0.0.1:0\"";

/// Puts a configuration into force, or not; the exit status says which.
#[track_caller]
fn apply(server: &Server, configuration: &str) -> Value {
    server.folder().configure(configuration);
    let output = server.ctl(["--json", "config", "apply"]);
    let outcome = output.json();
    assert_eq!(outcome["applied"] == true, output.status == 0, "{output:?}");
    outcome
}

#[track_caller]
fn applied(server: &Server, configuration: &str) -> Value {
    let outcome = apply(server, configuration);
    assert_eq!(outcome["applied"], true, "{outcome}");
    outcome
}

/// Tries a configuration that is not to be put into force, and answers all that is said of why.
#[track_caller]
fn not_applied(server: &Server, configuration: &str) -> Value {
    let before = server.ctl_json(["config", "show"]);
    let outcome = apply(server, configuration);
    assert_eq!(outcome["applied"], false, "{outcome}");
    for list in ["started", "stopped", "upgraded"] {
        assert_eq!(names(&outcome[list]), [""; 0], "{outcome}");
    }
    assert_eq!(server.ctl_json(["config", "show"]), before, "it is not the one in force");
    outcome
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn generation(server: &Server, name: &str) -> u64 {
    let all = server.plugin(name);
    all.iter().filter_map(|it| it["generation"].as_u64()).max().expect("it is there")
}

/// A client of lines.
struct Lines(BufReader<TcpStream>);

impl Lines {
    #[track_caller]
    fn connect(address: SocketAddr) -> Lines {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        Lines(BufReader::new(stream))
    }

    #[track_caller]
    fn says(&mut self, line: &str, answer: &str) {
        let line = format!("{line}\n");
        self.0.get_mut().write_all(line.as_bytes()).expect("the server takes it");
        let mut said = String::new();
        self.0.read_line(&mut said).expect("the server answers");
        assert_eq!(said, format!("{answer}\n"));
    }
}

/// Somebody who connects to some addresses in turn, without a pause, and wants a line echoed each time.
struct Knocking {
    is_over: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Result<(), String>>,
}

impl Knocking {
    fn at(addresses: Vec<SocketAddr>) -> Knocking {
        let (is_over, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (over, counted) = (is_over.clone(), count.clone());
        let thread = thread::spawn(move || {
            for address in addresses.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let turn = counted.fetch_add(1, Ordering::Relaxed);
                knock(*address).map_err(|error| format!("{address}, turn {turn}: {error}"))?;
            }
            Ok(())
        });
        Knocking { is_over, count, thread }
    }

    /// Waits until somebody was let in since.
    fn is_let_in(&self) {
        let before = self.count.load(Ordering::Relaxed);
        let more = || self.thread.is_finished() || self.count.load(Ordering::Relaxed) >= before + 3;
        wait_until("somebody to be let in", PATIENCE, more);
    }

    #[track_caller]
    fn was_never_refused(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let outcome = self.thread.join().expect("the thread does not panic");
        assert_eq!(outcome, Ok(()), "somebody was turned away");
    }
}

fn knock(address: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"hello\n")?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello\n");
    Ok(())
}

/// The sockets on which this machine listens: port to inode.
fn listening() -> BTreeMap<u16, u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("there is a table of sockets");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    let listening = rows.filter(|row| row[3] == "0A");
    let port = |address: &str| {
        let port = address.rsplit(':').next().expect("there is a port");
        u16::from_str_radix(port, 16).expect("it is hexadecimal")
    };
    listening.map(|row| (port(row[1]), row[9].parse().expect("a number"))).collect()
}

// === A difference ===

#[test]
fn a_change_of_one_touches_no_other_and_its_own_clients_notice_nothing() {
    let web = |limits: &str| {
        format!("[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [{ANY}]\n{limits}")
    };
    let site = "[[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n\
                [plugin.config]\nroot = \"site\"\n";
    let all = |limits: &str, config: &str| {
        [Canary::CONFIGURATION, &web(limits), site, &keeper("keeper", ANY, config)].concat()
    };
    let server = Folder::new().with("site/a.txt", "a\n").start(&all("", ""));
    let mut canary = Canary::of(&server);
    let mut parked = Lines::connect(server.address("keeper"));
    parked.says("count", "1");
    let mut browser = Client::connect(server.address("web"));
    assert_eq!(browser.get("/a.txt").text(), "a\n");
    let local = browser.stream().local_addr().expect("it is connected");
    let but = |changed: &str| {
        let plugins = server.ctl_json(["plugins"]);
        let plugins: Vec<_> = plugins.as_array().into_iter().flatten().cloned().collect();
        plugins.into_iter().filter(|it| it["name"] != changed).collect::<Vec<_>>()
    };

    let before = but("keeper");
    let outcome = applied(&server, &all("", "start = \"1 ms\"\n"));
    assert_eq!(names(&outcome["upgraded"]), ["keeper"], "{outcome}");
    assert_eq!(names(&outcome["unchanged"]), ["canary", "web", "site"], "{outcome}");
    assert_eq!(but("keeper"), before, "generations, connections, requests, heap");
    parked.says("count", "2");
    assert_eq!(generation(&server, "keeper"), 2);

    // What an extension keeps for a request of its server's may go with the server's generation.
    let but_web = || {
        let mut others = but("web");
        others
            .iter_mut()
            .filter(|it| it["name"] == "site")
            .for_each(|it| it["heap_bytes"] = 0.into());
        others
    };
    let before = but_web();
    let limits = "[plugin.limits]\nconnections_per_instance_max = 77\n";
    let outcome = applied(&server, &all(limits, "start = \"1 ms\"\n"));
    assert_eq!(names(&outcome["upgraded"]), ["web"], "{outcome}");
    assert_eq!(but_web(), before, "generations, connections, requests, heap");
    let response = browser.get("/a.txt");
    assert_eq!(response.text(), "a\n");
    assert_eq!(response.header("connection"), None, "it is kept alive");
    assert_eq!(browser.get("/a.txt").text(), "a\n");
    assert_eq!(browser.stream().local_addr().expect("it is connected"), local);
    assert_eq!(generation(&server, "web"), 2);
    parked.says("count", "3");
    canary.sings();
}

#[test]
fn a_check_tells_what_an_apply_would_do_and_what_only_a_restart_does() {
    let first = keeper("keeper", ANY, "") + &echo("a", ANY) + &echo("b", ANY) + &echo("c", ANY);
    let server = Server::start(&first);
    let second = keeper("keeper", ANY, "start = \"1 ms\"\n")
        + &echo("a", &format!("{ANY}, \"[::1]:0\""))
        + &echo("c", ANY)
        + &echo("d", ANY);
    let second = second + "[log]\nformat = \"json\"\n";
    server.folder().configure(&second);
    let plan = &server.ctl_json(["config", "check"])["plan"];
    assert_eq!(names(&plan["start"]), ["d"], "{plan}");
    assert_eq!(names(&plan["stop"]), ["b"], "{plan}");
    assert_eq!(names(&plan["upgrade"]), ["keeper"], "{plan}");
    assert_eq!(names(&plan["listen"]), ["a"], "{plan}");
    assert_eq!(names(&plan["unchanged"]), ["c"], "{plan}");
    assert_eq!(names(&plan["restart"]), ["[log] format"], "{plan}");
    let text = server.ctl(["config", "check"]);
    assert!(text.succeeded().contains("would be upgraded: keeper\n"), "{text:?}");
    assert_eq!(generation(&server, "keeper"), 1, "nothing was done");
    assert!(server.plugin("d").is_empty());

    let outcome = applied(&server, &second);
    assert_eq!(names(&outcome["restart"]), ["[log] format"], "{outcome}");
    let outcome = applied(&server, &second);
    assert_eq!(names(&outcome["restart"]), ["[log] format"], "it still needs one: {outcome}");
    let plan = &server.ctl_json(["config", "check"])["plan"];
    assert_eq!(names(&plan["unchanged"]).len(), 4, "{plan}");
    let outcome = applied(&server, &first);
    assert_eq!(names(&outcome["restart"]), [""; 0], "it is as at the start: {outcome}");
}

// === Listeners ===

#[test]
fn a_listener_whose_address_stays_is_never_closed() {
    let server = Folder::new();
    server.install("other", &Tree::get().library("keeper"));
    let server = server.start(&keeper("keeper", ANY, ""));
    let address = server.address("keeper");
    let inode = listening()[&address.port()];
    let knocking = Knocking::at(vec![address]);
    let named = format!("\"{address}\"");
    for turn in 0..50 {
        let listen = match turn % 5 {
            0 => named.clone(),
            1 => format!("{named}, \"[::1]:0\""),
            2 => format!("\"[::1]:0\", {named}"),
            3 => format!("\"unix:k.sock\", \"[::1]:0\", {named}"),
            _ => format!("{{ address = {named}, deferred = {} }}", turn % 2 == 0),
        };
        let config = match turn % 4 {
            0 => "start = \"1 ms\"\n",
            1 => "[plugin.limits]\nlisten_backlog_max = 300\n",
            2 => "[plugin.limits]\nconnections_per_instance_max = 77\n",
            _ => "",
        };
        let configuration = keeper("keeper", &listen, config);
        let library = if turn % 3 == 0 { "./plugins/other.so" } else { "keeper" };
        let library = format!("library = \"{library}\"");
        applied(&server, &configuration.replace("library = \"keeper\"", &library));
        knocking.is_let_in();
    }
    assert_eq!(listening().get(&address.port()), Some(&inode), "it is the same socket");
    knocking.was_never_refused();
}

#[test]
fn an_address_goes_from_one_instance_to_another_and_is_never_closed() {
    let server = Server::start(&(keeper("keeper", ANY, "") + &echo("echo", ANY)));
    let (one, two) = (server.address("keeper"), server.address("echo"));
    let inodes = |addresses: [SocketAddr; 2]| addresses.map(|it| listening()[&it.port()]);
    let before = inodes([one, two]);
    let knocking = Knocking::at(vec![one, two]);
    let (first, second) = (format!("\"{one}\""), format!("\"{two}\""));
    for turn in 0..20 {
        let (keepers, echos) = if turn % 2 == 0 { (&second, &first) } else { (&first, &second) };
        let mut parts = [keeper("keeper", keepers, ""), echo("echo", echos)];
        if turn % 3 == 0 {
            parts.reverse();
        }
        let outcome = applied(&server, &parts.concat());
        assert_eq!(names(&outcome["upgraded"]).len(), 2, "{outcome}");
        let now = if turn % 2 == 0 { [two, one] } else { [one, two] };
        assert_eq!([server.address("keeper"), server.address("echo")], now);
        knocking.is_let_in();
    }
    assert_eq!(generation(&server, "keeper"), 1, "nobody had to be replaced for it");
    // One has both, then somebody new, then the first two again.
    applied(&server, &keeper("keeper", &format!("{first}, {second}"), ""));
    knocking.is_let_in();
    assert!(server.plugin("echo").is_empty());
    let outcome = applied(&server, &echo("new", &format!("{second}, {first}")));
    assert_eq!(
        (names(&outcome["started"]), names(&outcome["stopped"])),
        (vec!["new"], vec!["keeper"])
    );
    knocking.is_let_in();
    assert_eq!(server.addresses("new"), [two, one]);
    applied(&server, &(echo("echo", &second) + &keeper("keeper", &first, "")));
    knocking.is_let_in();
    assert_eq!(inodes([one, two]), before, "they are the same sockets");
    knocking.was_never_refused();
}

#[test]
fn an_address_that_another_only_seems_to_give_up_is_explained() {
    let server = Server::start(&(echo("a", "\"0.0.0.0:0\"") + &echo("b", ANY)));
    let port = server.address("a").port();
    let wanted = echo("b", &format!("\"127.0.0.1:{port}\""));
    let outcome = not_applied(&server, &wanted);
    let reason = outcome["failed"][0]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("`a` listens on 0.0.0.0") && reason.contains("take that away"),
        "{reason}"
    );
    knock(SocketAddr::from(([127, 0, 0, 1], port))).expect("it goes on");
    applied(&server, &echo("b", ANY));
    applied(&server, &wanted);
    knock(server.address("b")).expect("it listens there now");
}

// === As a whole, or not at all ===

#[test]
fn what_can_be_known_before_is_told_all_at_once_and_nobody_is_touched() {
    let server = Server::start(&(keeper("keeper", ANY, "") + &echo("echo", ANY)));
    let before = server.ctl_json(["plugins"]);
    let other = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let taken = other.local_addr().expect("it is bound");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let wanted = keeper("keeper", &format!("{ANY}, \"{free}\""), "start = \"1 ms\"\n")
        + &echo("first", ANY)
        + &echo("second", &format!("\"{taken}\""))
        + &echo("third", "\"192.0.2.1:1\"");
    let outcome = not_applied(&server, &wanted);
    let failed: Vec<_> = outcome["failed"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|it| it["name"].as_str())
        .collect();
    assert_eq!(failed, ["second", "third"], "{outcome}");
    assert_eq!(names(&outcome["rolled_back"]), [""; 0], "nobody was touched: {outcome}");
    let same = |key: &str| {
        let all = server.ctl_json(["plugins"]);
        let of = |all: &Value| {
            all.as_array().into_iter().flatten().map(|it| it[key].clone()).collect::<Vec<_>>()
        };
        assert_eq!(of(&all), of(&before), "{all}");
    };
    ["name", "generation", "state", "listen", "connections", "panics"].into_iter().for_each(same);
    TcpStream::connect(free).expect_err("nobody listens there");
    let text = server.ctl(["config", "apply"]);
    assert!(format!("{text:?}").contains("is not applied"), "{text:?}");
}

#[test]
fn what_fails_only_later_brings_back_what_was_changed_before() {
    let web = format!("[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [{ANY}]\n");
    let hello = "[[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\n";
    let first =
        web.clone() + &keeper("one", ANY, "") + &keeper("two", ANY, "") + &echo("leaves", ANY);
    let server = Server::start(&first);
    let (mut one, mut two) =
        (Lines::connect(server.address("one")), Lines::connect(server.address("two")));
    one.says("count", "1");
    two.says("count", "1");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let addresses = ["web", "one", "two", "leaves"].map(|name| server.addresses(name));
    let wanted = |fails: &str| {
        web.clone()
            + hello
            + &echo("new", &format!("\"{free}\""))
            + &keeper("one", &format!("{ANY}, \"[::1]:0\""), "start = \"1 ms\"\n")
            + &keeper("two", ANY, &format!("fails = \"{fails}\"\n"))
    };
    for (fails, sentence) in [("acquire", "acquire is to fail"), ("import", "import is to fail")] {
        let outcome = not_applied(&server, &wanted(fails));
        assert_eq!(outcome["failed"].as_array().map(Vec::len), Some(1), "{outcome}");
        assert_eq!(outcome["failed"][0]["name"], "two", "{outcome}");
        assert!(outcome.to_string().contains(sentence), "{outcome}");
        assert_eq!(names(&outcome["rolled_back"]), ["one", "new", "hello"], "the last first");
        assert!(server.plugin("new").is_empty() && server.plugin("hello").is_empty());
        assert_eq!(Client::connect(server.address("web")).get("/hello").status, 404);
        TcpStream::connect(free).expect_err("nobody listens there");
        assert_eq!(["web", "one", "two", "leaves"].map(|name| server.addresses(name)), addresses);
        assert_eq!((generation(&server, "web"), generation(&server, "leaves")), (1, 1));
        wait_until("the others to go", PATIENCE, || {
            server.plugin("one").len() == 1 && server.plugin("two").len() == 1
        });
        assert!(
            server.folder().path("one.lock").exists() && server.folder().path("two.lock").exists()
        );
        knock(server.address("leaves")).expect("it stays");
        one.says("hello", "hello");
        two.says("hello", "hello");
    }
    one.says("count", "4");
    let outcome = applied(&server, &wanted("nothing"));
    assert_eq!(names(&outcome["started"]), ["hello", "new"], "{outcome}");
    assert_eq!(names(&outcome["stopped"]), ["leaves"], "{outcome}");
    assert_eq!(Client::connect(server.address("web")).get("/hello").status, 200);
    one.says("count", "5");
    two.says("count", "4");
}

#[test]
fn a_hangup_applies_a_configuration_as_a_whole_or_not_at_all() {
    let server = Server::start(&(keeper("one", ANY, "") + &keeper("two", ANY, "")));
    let wanted =
        |fails: &str| keeper("one", ANY, "start = \"1 ms\"\n") + &keeper("two", ANY, fails);
    server.folder().configure(&wanted("fails = \"acquire\"\n"));
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_log("the configuration is not applied");
    let log = server.log();
    assert!(log.contains("acquire is to fail") && log.contains("rolled_back=[\"one\"]"), "{log}");
    assert_eq!(
        server.ctl_json(["config", "show", "one"])["toml"].as_str().map(|it| it.contains("1 ms")),
        Some(false)
    );
    server.folder().configure(&wanted(""));
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_log("the configuration is applied");
    knock(server.address("one")).expect("it serves");
}

#[test]
fn what_only_one_can_hold_goes_over_to_an_instance_of_another_name() {
    let named = |name: &str, more: &str| {
        keeper(name, ANY, "").replace(&format!("{name}.lock"), "lock") + more
    };
    let server = Server::start(&named("old", ""));
    let fails = keeper("fails", ANY, "fails = \"acquire\"\n");
    let outcome = not_applied(&server, &named("new", &fails));
    assert_eq!(names(&outcome["rolled_back"]), ["new"], "{outcome}");
    assert!(server.folder().path("lock").exists(), "it was given up, and taken back");
    assert!(server.plugin("new").is_empty());
    knock(server.address("old")).expect("it serves");
    let outcome = applied(&server, &named("new", ""));
    assert_eq!(
        (names(&outcome["started"]), names(&outcome["stopped"])),
        (vec!["new"], vec!["old"])
    );
    assert!(server.folder().path("lock").exists());
    knock(server.address("new")).expect("it serves");
}

#[test]
fn what_cannot_be_brought_back_is_told_and_tried_again() {
    let server = Server::start(&(keeper("one", ANY, "") + &keeper("two", ANY, "")));
    let stubborn = keeper("one", ANY, "fails = \"release\"\n");
    let outcome = not_applied(&server, &(stubborn + &keeper("two", ANY, "fails = \"acquire\"\n")));
    let failed = &outcome["failed"];
    assert_eq!(
        (&failed[0]["name"], &failed[1]["name"]),
        (&"two".into(), &"one".into()),
        "{outcome}"
    );
    let reason = failed[1]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("cannot be brought back") && reason.contains("release is to fail"),
        "{reason}"
    );
    assert_eq!(names(&outcome["rolled_back"]), [""; 0], "{outcome}");
    knock(server.address("one")).expect("it serves all the same");
    // It is not as the configuration in force says, and every further apply tries to mend that.
    let outcome = not_applied(&server, &(keeper("one", ANY, "") + &keeper("two", ANY, "")));
    assert_eq!(outcome["failed"][0]["name"], "one", "{outcome}");
    server.ctl(["unload", "one", "--now"]).succeeded();
    applied(&server, &(keeper("one", ANY, "start = \"1 ms\"\n") + &keeper("two", ANY, "")));
    knock(server.address("one")).expect("it serves");
}
