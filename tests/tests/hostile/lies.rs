//! Plugins that break the contract by what they call and answer (`tests/fixtures/liar`, without the SDK).

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use medusa_tests::{Canary, Client, End, Server, wait_until};

const PATIENCE: Duration = Duration::from_secs(30);

/// The liar as `a` and as `b`, a canary beside them, and `web` before the liar's handlers.
struct Liars {
    // Dropped first: a server drains until its connections have ended.
    canary: Canary,
    server: Server,
}

impl Liars {
    fn new() -> Self {
        Self::with("")
    }

    /// With a server of HTTP in front of them.
    fn behind_web() -> Self {
        Self::with("[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n")
    }

    fn with(web: &str) -> Self {
        let liar = |name: &str| {
            format!(
                "[[plugin]]\nname = \"{name}\"\nlibrary = \"liar\"\nlisten = [\"127.0.0.1:0\"]\n{}",
                if web.is_empty() {
                    String::new()
                } else {
                    format!("attach = \"web\"\npath = \"/{name}\"\n")
                }
            )
        };
        let configuration = format!("{}{web}{}{}", Canary::CONFIGURATION, liar("a"), liar("b"));
        let server = Server::start(&configuration);
        let canary = Canary::of(&server);
        Self { server, canary }
    }

    /// What the host answers when `a` tells a lie.
    #[track_caller]
    fn tell(&mut self, lie: &str) -> String {
        self.tell_by("a", lie)
    }

    #[track_caller]
    fn tell_by(&mut self, instance: &str, lie: &str) -> String {
        self.canary.sings();
        let words = [instance, "lie"].into_iter().chain(lie.split(' '));
        let told = self.server.ctl(words).succeeded().trim_end().to_owned();
        self.canary.sings();
        told
    }

    /// The lie is told, and the host answers exactly this.
    #[track_caller]
    fn check(&mut self, lie: &str, expected: &str) {
        assert_eq!(self.tell(lie), expected, "{lie}");
    }

    /// The log names `instance` as the one that misuses the host, and says how.
    #[track_caller]
    fn warned(&self, instance: &str, sentence: &str) {
        let sentence = format!("the plugin misuses the host: {sentence}");
        self.server.wait_for_log(&sentence);
        let log = self.server.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&sentence)).collect();
        let named = format!("instance=\"{instance}\"");
        assert!(lines.iter().all(|line| line.contains("WARN") && line.contains(&named)), "{log}");
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address("a")).expect("the liar listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        stream
    }

    /// Sends a line to the liar, and returns all that comes until the connection ends.
    #[track_caller]
    fn by_connection(&mut self, sent: &str) -> String {
        self.canary.sings();
        let mut stream = self.connect();
        stream.write_all(sent.as_bytes()).expect("the liar reads");
        let mut answer = String::new();
        // A reset is an end, too.
        let _ = stream.read_to_string(&mut answer);
        self.canary.sings();
        answer.trim_end().to_owned()
    }

    fn web(&self) -> SocketAddr {
        self.server.address("web")
    }

    /// Asks for a lie by HTTP; the liar must still answer the truth on a new connection.
    #[track_caller]
    fn by_request(&mut self, lie: &str) -> Result<medusa_tests::Response, medusa_tests::Broken> {
        self.canary.sings();
        let mut client = Client::connect(self.web());
        client.send(format!("GET /a/lie/{lie} HTTP/1.1\r\nHost: test\r\n\r\n"));
        let response = client.try_response(false);
        self.canary.sings();
        assert_eq!(Client::connect(self.web()).get("/a/lie/honest").text(), "the truth", "{lie}");
        response
    }

    #[track_caller]
    fn check_request(&mut self, lie: &str, expected: &str) {
        let response = self.by_request(lie);
        let response = response.unwrap_or_else(|broken| panic!("{lie}: {broken}"));
        assert_eq!((response.status, response.text()), (200, expected), "{lie}");
    }

    /// Unloads `a`: it has to go, whatever it did.
    #[track_caller]
    fn unload(mut self) {
        let unloaded = self.server.ctl_json(["unload", "a", "--now"]);
        assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
        assert_eq!(unloaded["mapped"], false, "{unloaded}");
        self.canary.sings();
        self.server.wait_for_log("while stopping: route=GONE timer=GONE task=GONE service=GONE");
        self.server.ctl(["load", "a"]).succeeded();
        self.check("counts", "tasks=0 wakers=0 polled-after-end=0");
        let errors = self.server.log();
        assert!(!errors.contains("a bug in medusa"), "a callback of the host panicked");
    }
}

#[test]
fn lengths_and_pointers_that_do_not_go_together() {
    let mut liars = Liars::new();
    let refused = "log=INVALID post=INVALID fail=INVALID reply=INVALID responder=INVALID call=INVALID resolve=INVALID task=INVALID";
    liars.check("null-with-length", refused);
    liars.warned("a", "an argument of `log` makes no sense");
    liars.check("above-isize-max", refused);
    let log = liars.server.log();
    assert!(
        log.lines().any(|line| line.contains("misuses the host") && line.contains("times=10")),
        "{log}"
    );
    liars.check(
        "null-tables",
        "service=INVALID listen=DENIED job=INVALID command=INVALID metric=INVALID call=INVALID route=INVALID report=INVALID",
    );
    liars.server.wait_for_log("does not ask for the capability `listen`");
    liars.unload();
}

#[test]
fn handles_that_are_gone_or_of_another_kind() {
    let mut liars = Liars::new();
    liars.check("double-drop", "first=READY second=STALE poll=STALE reset=STALE");
    liars
        .warned("a", "it dropped a handle that is not there: twice, or one that was never its own");
    liars.warned("a", "it used a handle as Timer that was dropped, or was never its own");
    liars.check("wrong-kind", "task=STALE abort=STALE exchange=STALE reply=STALE timer=PENDING");
    liars.warned("a", "it used a handle as Task that stands for Timer");
    liars.check("no-handle", "none=STALE all=STALE small=STALE slot=STALE");
    liars.unload();
}

#[test]
fn handles_of_another_instance() {
    let mut liars = Liars::new();
    let (mine, number) = (liars.tell("give-handle"), liars.tell("instance"));
    let used = liars.tell_by("b", &format!("use-handle {mine}"));
    assert_eq!(used, "poll=STALE drop=STALE");
    liars.warned("b", "it used a handle as Timer that was dropped, or was never its own");
    let spoken = liars.tell_by("b", &format!("as-another {number}"));
    assert_eq!(spoken, "now=WRONG_THREAD timer=WRONG_THREAD fail=WRONG_THREAD");
    liars.warned("b", "it called `now_ns` in the name of `a`, by a number that is not its own");
    liars.check(&format!("use-handle {mine}"), "poll=PENDING drop=READY");
    liars.unload();
}

#[test]
fn calls_from_a_foreign_thread() {
    let mut liars = Liars::new();
    liars.check(
        "foreign-thread",
        "now=WRONG_THREAD drop=WRONG_THREAD timer=WRONG_THREAD spawn=WRONG_THREAD service=WRONG_THREAD read=WRONG_THREAD log=READY post=READY",
    );
    liars.server.wait_for_log("posted from a foreign thread");
    liars.warned("a", "it called `now_ns` on the thread `foreigner` and in no call of its own");
    liars.unload();
}

#[test]
fn polls_after_the_answer() {
    let mut liars = Liars::new();
    liars.check("poll-after-ready", "timer=READY task=READY lookup=1 call=INVALID");
    liars.unload();
}

#[test]
fn codes_that_mean_nothing() {
    let mut liars = Liars::new();
    liars.check("garbage-task", "least=-9223372036854775808 some=-77 most=READY");
    liars.server.ctl(["a", "lie", "garbage-code"]).refused("answered -77 ");
    liars.canary.sings();
    assert_eq!(liars.by_connection("garbage\n"), "");
    liars.server.wait_for_log("the plugin answered -77 to connection");
    liars.tell("say-why");
    let silent = liars.server.ctl(["a", "lie", "fail-silently"]);
    silent.refused("the plugin failed in a lie and did not say why");
    liars.check("no-task", "spawn=INVALID");
    liars.check("abort-itself", "abort=READY again=READY drop=READY stale=STALE");
    liars.unload();
}

#[test]
fn tasks_and_wakers_that_are_leaked() {
    let mut liars = Liars::new();
    liars.tell("leak-tasks");
    liars.tell("leak-wakers");
    liars.tell("wake-leaked");
    liars.tell("drop-waker-twice");
    assert!(liars.tell("own-wakers").contains("wakers=100"), "the host holds what it was given");
    liars.unload();
}

#[test]
fn a_task_that_spawns_in_its_drop_for_ever() {
    let mut liars = Liars::new();
    liars.tell("spawn-in-drop");
    liars.unload();
}

#[test]
fn connections_that_are_misused() {
    let mut liars = Liars::new();
    assert_eq!(
        liars.by_connection("read-lengths\n"),
        "all=INVALID half=INVALID none=READY null=INVALID info=INVALID option=errno22"
    );
    assert_eq!(
        liars.by_connection("write-lengths\n"),
        "null=INVALID many=INVALID all=INVALID none=READY nowhere=INVALID endless=INVALID"
    );
    assert_eq!(liars.by_connection("park\n"), "park=INVALID");
    assert_eq!(liars.by_connection("after-abort\n"), "");
    liars.server.wait_for_log("after-abort: abort=READY again=STALE read=STALE");
    assert_eq!(liars.by_connection("after-drop\n"), "");
    liars.server.wait_for_log("after-drop: drop=READY again=STALE read=STALE");
    assert_eq!(liars.by_connection("after-shutdown\n"), "");
    liars.server.wait_for_log("after-shutdown: shutdown=READY write=errno32");
    liars.unload();
}

#[test]
fn a_read_into_less_memory_than_was_said() {
    let mut liars = Liars::new();
    let mut stream = liars.connect();
    stream.write_all(b"read-beyond\n").expect("the liar reads");
    liars.canary.sings();
    stream.write_all(&[b'x'; 4000]).expect("the liar reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the liar answers");
    assert!(answer.starts_with("read="), "{answer}");
    liars.canary.sings();
    liars.unload();
}

#[test]
fn connections_that_nobody_closes() {
    let mut liars = Liars::new();
    let mut streams = ["keep\n", "hold\n"].map(|lie| {
        let mut stream = liars.connect();
        stream.write_all(lie.as_bytes()).expect("the liar reads");
        stream
    });
    let mut held = [0; 5];
    streams[1].read_exact(&mut held).expect("the liar answers");
    liars.canary.sings();
    let gone = liars.connect();
    gone.shutdown(Shutdown::Both).expect("a connection can be ended");
    liars.unload();
    for mut stream in streams {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "an unload ends what is still open");
    }
}

#[test]
fn answers_that_are_given_twice_or_late() {
    let mut liars = Liars::behind_web();
    liars.check_request("twice", "once");
    liars.server.wait_for_log("respond twice=INVALID");
    liars.check_request("late", "in time");
    liars.check("late-respond", "respond=STALE pull=STALE end=STALE");
    liars.unload();
}

#[test]
fn protocols_that_are_switched_to_and_not_spoken() {
    let mut liars = Liars::behind_web();
    liars.check_request("switch-early", "fetch=UNSUPPORTED hand-over=STALE");
    let web = liars.web();
    let switch = |lie: &str| {
        let mut client = Client::connect(web);
        client.send(format!(
            "GET /a/lie/{lie} HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: lies\r\n\r\nhello"
        ));
        let response = client.response();
        (client, response)
    };
    assert_eq!(switch("switch-early").1.text(), "fetch=GONE hand-over=STALE");
    let (mut dropped, response) = switch("switch-dropped");
    assert_eq!((response.status, dropped.end()), (101, End::Eof));
    let (mut kept, response) = switch("switch-kept");
    assert_eq!(response.status, 101);
    liars.server.wait_for_log("switch twice=INVALID");
    let connections = liars.server.ctl_json(["connections"]);
    let owners: Vec<_> = connections.as_array().expect("an array").iter().collect();
    assert!(owners.iter().any(|it| it["instance"] == "a"), "{connections}");
    let unloaded = liars.server.ctl_json(["unload", "a", "--now"]);
    assert_eq!((&unloaded["result"], &unloaded["mapped"]), (&"unloaded".into(), &false.into()));
    assert_eq!(kept.end(), End::Eof);
}

#[test]
fn heads_that_are_none() {
    let mut liars = Liars::behind_web();
    liars.check_request(
        "bad-heads",
        "null=INVALID status=INVALID kind=INVALID bytes=INVALID source=INVALID file=STALE exchange=STALE fields=INVALID count=INVALID field=INVALID",
    );
    for lie in ["silent", "garbage", "invalid", "no-task", "interim-status"] {
        let response = liars.by_request(lie).unwrap_or_else(|broken| panic!("{lie}: {broken}"));
        assert!((500..600).contains(&response.status), "{lie}: {response:?}");
    }
    let response = liars.by_request("split-field").expect("a field that is none is left out");
    assert_eq!((response.header("x-a"), response.header("x-b")), (None, None), "{response:?}");
    liars.check_request("pull-null", "pull=1");
    liars.unload();
}

#[test]
fn bodies_that_are_not_what_was_announced() {
    let mut liars = Liars::behind_web();
    liars.check_request("two-frames", "first third");
    liars.server.wait_for_log("second frame of a pull=INVALID");
    liars.check_request(
        "bad-frames",
        "null=INVALID kind=INVALID nowhere=INVALID huge=INVALID endless=INVALID fields=INVALID",
    );
    // The length stands in the head: what is too much is cut, what is too little ends the connection.
    let longer = liars.by_request("longer");
    assert!(longer.as_ref().map_or(true, |response| response.text() == "longer"), "{longer:?}");
    for lie in ["shorter", "no-frame", "garbage-pull"] {
        assert!(liars.by_request(lie).is_err(), "{lie}: a body that broke off has to look broken");
    }
    let log = liars.server.log();
    let blamed = log.lines().find(|it| it.contains("misuses the host") && it.contains("\"web\""));
    assert_eq!(blamed, None, "who passes on what another plugin answers does nothing wrong");
    liars.unload();
}

#[test]
fn answers_that_never_come_or_never_end() {
    let mut liars = Liars::behind_web();
    for lie in ["never", "stuck", "endless", "empty-frames"] {
        let mut client = Client::connect(liars.web());
        client.send(format!("GET /a/lie/{lie} HTTP/1.1\r\nHost: test\r\n\r\n"));
        liars.canary.sings();
        assert_eq!(Client::connect(liars.web()).get("/a/lie/honest").text(), "the truth", "{lie}");
        drop(client);
        let server = &liars.server;
        wait_until(&format!("`{lie}` to be dropped with its client"), PATIENCE, || {
            let told = server.ctl(["a", "lie", "counts"]);
            told.stdout.starts_with("tasks=0 ")
        });
        liars.canary.sings();
    }
    liars.server.wait_for_log("a body was dropped");
    liars.unload();
}

/// While the pool was cleaning up, the loop went on to deliver them.
#[test]
fn posts_after_the_stop() {
    let mut liars = Liars::new();
    for _ in 0..8 {
        liars.check("leave-a-destructor", "job=READY");
    }
    let server = &liars.server;
    wait_until("the jobs to run", PATIENCE, || server.ctl_json(["status"])["jobs_running"] == 0);
    let log = {
        let unloaded = liars.server.ctl_json(["unload", "a", "--now"]);
        assert_eq!(unloaded["result"], "unloaded", "{unloaded}");
        liars.server.log()
    };
    assert!(log.contains("while stopping:") && !log.contains("posted after the stop"), "{log}");
}
