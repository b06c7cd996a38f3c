//! Clients that are slow on purpose, a thousand at a time, as slowhttptest plays them: everybody else is served meanwhile, and they
//! are closed by the server's own deadlines.

use std::{
    fs::File,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use medusa_tests::{Client, Folder, Levels, Monitor, Response, Server, tool, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

/// How long anybody who behaves may wait for an answer while others attack, connecting included. It is what such a client would wait
/// before it counts the server as down, and no figure of speed: an answer takes about a thousandth of it.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

const ATTACKERS: usize = 1000;

/// By how much memory may be more after an attack than after the one before, when all has found its size: what plugins have allocated,
/// of which one connection takes more by itself, and what is resident.
const HEAP_GROWTH_BYTES_MAX: u64 = 4 * 1024;
const RSS_GROWTH_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Deadlines low enough for a test, and long enough for a slow machine to bring up all attackers before the first one is closed.
const WEB: &str = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n[plugin.config]\n\
    head_timeout = \"5 s\"\nbody_timeout = \"5 s\"\nsend_timeout = \"5 s\"\n\
    [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n[plugin.config]\nroot = \"site\"\n\
    [[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\n\
    [[plugin]]\nname = \"probe\"\nlibrary = \"http-probe\"\nattach = \"web\"\npath = \"/probe\"\n";

/// A server under attack, and those who want to be served all the same.
struct Siege<'a> {
    server: Server,
    address: SocketAddr,
    monitor: Monitor,
    slowhttptest: &'a Path,
    /// Has asked before, and asks on.
    old: Client,
}

/// How much of it the server has, in bytes.
#[derive(Debug)]
struct Memory {
    /// Allocated by plugins.
    heap_bytes: u64,
    /// Resident.
    rss_bytes: u64,
}

#[test]
fn whoever_behaves_is_served_and_attackers_are_closed() {
    let Some(slowhttptest) = tool("slowhttptest") else { return };
    let mut siege = Siege::begin(&slowhttptest);
    // Twice each: what the first one leaves allocated is there for the second, and no more is needed.
    let attacks: [(&str, &[&str], &str); 3] = [
        ("slow heads", &["-H", "-i", "1"], "/small"),
        ("slow bodies", &["-B", "-i", "20"], "/probe/count"),
        ("slow readers", &["-X", "-n", "1", "-z", "5", "-k", "3"], "/large"),
    ];
    for (name, arguments, path) in attacks {
        let [first, second] = [(); 2].map(|()| siege.resist(name, arguments, path));
        let is_level = second.heap_bytes <= first.heap_bytes + HEAP_GROWTH_BYTES_MAX
            && second.rss_bytes <= first.rss_bytes + RSS_GROWTH_BYTES_MAX;
        assert!(is_level, "after {name}: {first:?}, then {second:?}");
    }
}

/// Many ranges that overlap, each time: a server that sent them all would send the file a hundred times.
#[test]
fn attackers_with_many_ranges_are_answered_like_others() {
    let Some(slowhttptest) = tool("slowhttptest") else { return };
    let mut siege = Siege::begin(&slowhttptest);
    let before = siege.answered();
    let mut tool = siege.start(&["-R", "-t", "GET", "-b", "300"], "/large");
    let mut served = 0;
    while tool.try_wait().expect("a child can be waited for").is_none() {
        siege.serve();
        served += 1;
    }
    wait_until("the attackers to be gone", PATIENCE, || siege.attackers() == 0);
    let answered = siege.answered() - before;
    assert!(answered >= ATTACKERS as u64 + served, "{answered} and {served}");
}

impl<'a> Siege<'a> {
    #[track_caller]
    fn begin(slowhttptest: &'a Path) -> Self {
        let server = Folder::new()
            .with("site/small", "small\n")
            .with("site/large", vec![b'x'; 4 * 1024 * 1024])
            .start(WEB);
        let monitor = Monitor::of(&server);
        let address = server.address("web");
        let old = Client::connect(address);
        Self { server, address, monitor, slowhttptest, old }
    }

    /// Serves others during an attack until the last attacker is gone, and returns how much memory the server has then.
    #[track_caller]
    fn resist(&mut self, name: &str, arguments: &[&str], path: &str) -> Memory {
        self.serve();
        // Its file is kept open for a while, once it was asked for as the attackers do.
        self.old.send(format!("GET /large HTTP/1.1\r\nHost: {}\r\n\r\n", self.address));
        assert_eq!(self.old.response().status, 200);
        let descriptors = Levels::of(self.server.process()).descriptors;
        let (mut held, mut served) = (0, 0);
        let mut attack = self.start(arguments, path);
        let started = Instant::now();
        loop {
            let now = self.attackers();
            if now == 0 && held > 0 {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{name}: {now} of {held} are still there");
            held = held.max(now);
            self.serve();
            served += 1;
        }
        assert!(held >= ATTACKERS, "{name}: no more than {held} at once");
        println!("{name}: {held} at once, served {served} times in {:?}", started.elapsed());
        // It has found out already, or would go on reading what the kernel holds for it.
        let _ = attack.kill();
        attack.wait().expect("a child can be waited for");
        wait_until("the descriptors to be closed", PATIENCE, || {
            Levels::of(self.server.process()).descriptors <= descriptors
        });
        let plugins = self.monitor.json(["plugins"]);
        let plugins = plugins.as_array().expect("plugins are an array");
        let heap_bytes = plugins.iter().filter_map(|plugin| plugin["heap_bytes"].as_u64()).sum();
        Memory { heap_bytes, rss_bytes: self.server.process().rss_bytes() }
    }

    /// A thousand attackers, and the time in which they come; longer than the server will have them.
    #[track_caller]
    fn start(&self, arguments: &[&str], path: &str) -> Child {
        let log =
            File::create(self.server.folder().path("attack.log")).expect("a file can be made");
        let count = ATTACKERS.to_string();
        Command::new(self.slowhttptest)
            .args(["-c", &count, "-r", &count, "-l", "60", "-v", "0"])
            .args(arguments)
            .arg("-u")
            .arg(format!("http://{}{path}", self.address))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file's descriptor can be copied"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.slowhttptest.display()))
    }

    /// Connections besides the old one.
    #[track_caller]
    fn attackers(&mut self) -> usize {
        let counted = self.monitor.json(["connections", "web", "--count"]);
        let all = counted["matched"].as_u64().expect("connections are counted");
        (all as usize).saturating_sub(1)
    }

    /// How many requests were answered.
    #[track_caller]
    fn answered(&mut self) -> u64 {
        self.monitor.plugin("web")[0]["requests"].as_u64().expect("requests are counted")
    }

    /// Asks in all ways, on a new connection and on an old one; each answer comes in time.
    #[track_caller]
    fn serve(&mut self) {
        let file = in_time("a file", || get(&mut Client::connect(self.address), "/small"));
        assert_eq!(file.text(), "small\n");
        let file = in_time("a file, asked for again", || get(&mut self.old, "/small"));
        assert_eq!(file.text(), "small\n");
        let greeting = in_time("an extension", || get(&mut self.old, "/hello"));
        assert!(greeting.text().starts_with("hello"), "{greeting:?}");
        let count = in_time("a body", || {
            self.old
                .send("POST /probe/count HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
            self.old.response()
        });
        assert_eq!(count.text(), "5\n");
    }
}

#[track_caller]
fn get(client: &mut Client, path: &str) -> Response {
    let _ = client.stream().set_read_timeout(Some(ANSWER_WAIT));
    client.get(path)
}

/// What a client gets that does not wait for longer than [`ANSWER_WAIT`].
#[track_caller]
fn in_time(what: &str, ask: impl FnOnce() -> Response) -> Response {
    let started = Instant::now();
    let response = ask();
    let waited = started.elapsed();
    assert!(waited < ANSWER_WAIT, "{what} came after {waited:?}");
    response
}
