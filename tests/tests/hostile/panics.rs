//! Panics, wherever a plugin can raise one (`tests/fixtures/unruly`): each is contained, named and counted.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use medusa_tests::{Canary, Client, Server, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// The unruly one beside a canary.
struct Host {
    // Dropped first: a server drains until its connections have ended.
    canary: Canary,
    server: Server,
    panics: u64,
}

impl Host {
    fn new() -> Self {
        Self::with("", "nowhere")
    }

    fn behind_web() -> Self {
        let web = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n";
        Self::with(web, "nowhere")
    }

    fn that_panics_at(place: &str) -> Self {
        Self::with("", place)
    }

    fn with(web: &str, panic_at: &str) -> Self {
        let attach = if web.is_empty() { "" } else { "attach = \"web\"\n" };
        let server = Server::start(&format!(
            "{}{web}[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nlisten = [\"127.0.0.1:0\"]\n{attach}\
             [plugin.config]\npanic_at = \"{panic_at}\"\n",
            Canary::CONFIGURATION
        ));
        let canary = Canary::of(&server);
        Self { server, canary, panics: 0 }
    }

    /// One more panic was named in the log by its message, and counted; all others are served.
    #[track_caller]
    fn panicked(&mut self, message: &str) {
        self.server.wait_for_log(&format!("the plugin panicked: {message}"));
        self.panics += 1;
        let (server, panics) = (&self.server, self.panics);
        wait_until(&format!("{panics} panics to be counted"), PATIENCE, || {
            server.plugin("unruly")[0]["panics"] == panics
        });
        self.canary.sings();
        self.still_serves();
    }

    /// The unruly one itself goes on, too.
    #[track_caller]
    fn still_serves(&mut self) {
        let mut stream = self.connect();
        stream.write_all(b"nothing\n").expect("it still reads");
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).expect("it still answers");
        assert_eq!(&answer, b"nothing\n");
        self.canary.sings();
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address("unruly")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        stream
    }

    /// Asks it by a monitor command, which has to fail.
    #[track_caller]
    fn command_fails(&mut self, what: &str, sentence: &str) {
        self.server.ctl(["unruly", "do", what]).refused(sentence);
        self.canary.sings();
    }

    #[track_caller]
    fn command(&mut self, what: &str) {
        self.server.ctl(["unruly", "do", what]).succeeded();
        self.canary.sings();
    }

    #[track_caller]
    fn unload(&mut self) {
        let unloaded = self.server.ctl_json(["unload", "unruly", "--now"]);
        assert_eq!(
            (&unloaded["result"], &unloaded["mapped"]),
            (&"unloaded".into(), &false.into()),
            "{unloaded}"
        );
        self.canary.sings();
    }

    #[track_caller]
    fn upgrade(&mut self) -> Value {
        let upgraded = self.server.ctl_json(["upgrade", "unruly"]);
        self.canary.sings();
        upgraded
    }
}

#[test]
fn in_prepare_and_start() {
    for place in ["load", "start"] {
        let mut host = Host::that_panics_at(place);
        let unruly = host.server.plugin("unruly");
        assert!(unruly.len() == 1 && unruly[0]["state"] == "failed", "{unruly:?}");
        host.server.wait_for_log(&format!("the plugin panicked: in {place}"));
        let output = host.server.ctl(["load", "unruly"]);
        output.refused("cannot load `unruly`");
        output.refused("the plugin panicked in ");
        assert!(host.server.process().mappings_of("unruly").is_empty());
        host.canary.sings();
    }
}

#[test]
fn in_a_connection() {
    let mut host = Host::new();
    for (what, message) in
        [("panic", "as asked"), ("payload", ""), ("drop", "in the drop of a local")]
    {
        let mut stream = host.connect();
        stream.write_all(format!("{what}\n").as_bytes()).expect("it reads");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"", "{what}: its own connection ends");
        if what == "payload" {
            // The payload's own drop panics as well, and each of the two is told.
            host.panics += 1;
        }
        host.panicked(message);
    }
    host.unload();
}

#[test]
fn in_tasks_and_timers() {
    let mut host = Host::new();
    host.command("timer");
    host.panicked("in a timer's task");
    host.command("task-drop");
    host.panicked("in the drop of what a task captured");
    host.command("post");
    host.panicked("as asked");
    host.command("hold");
    host.unload();
    host.server.wait_for_log("the plugin panicked: in the drop of what was held");
}

#[test]
fn in_monitor_commands() {
    let mut host = Host::new();
    host.command_fails("panic", "the plugin panicked in");
    host.panicked("as asked");
    host.command_fails("drop", "the plugin panicked in");
    host.panicked("in the drop of a local");
    host.unload();
}

#[test]
fn in_blocking_jobs() {
    let mut host = Host::new();
    host.command_fails("job", "the job failed: it panicked");
    host.panicked("in a job");
    host.command_fails("job-payload", "the job failed: it panicked");
    host.panics += 1;
    host.panicked("in the drop of a job's payload");
    host.unload();
}

#[test]
fn in_export_and_import() {
    for place in ["export", "import"] {
        let mut host = Host::that_panics_at(place);
        let kept = host.upgrade();
        assert_eq!(kept["result"], "kept", "{kept}");
        let reason = kept["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(&format!("the plugin panicked in {place}_state")), "{kept}");
        assert_eq!(host.server.plugin("unruly").len(), 1, "the new one is gone");
        host.still_serves();
        host.unload();
    }
}

#[test]
fn in_drain_and_stop() {
    for place in ["drain", "stop"] {
        let mut host = Host::that_panics_at(place);
        host.still_serves();
        host.unload();
        host.server.wait_for_log(&format!("the plugin panicked: in {place}"));
        host.server.ctl(["load", "unruly"]).succeeded();
        host.still_serves();
    }
}

#[test]
fn in_handlers_and_observers_of_requests() {
    let mut host = Host::behind_web();
    let web = host.server.address("web");
    let mut client = Client::connect(web);
    for (what, message) in
        [("panic", "as asked"), ("payload", ""), ("drop", "in the drop of a local")]
    {
        assert_eq!(client.get(&format!("/unruly/{what}")).status, 500, "{what}");
        if what == "payload" {
            host.panics += 1;
        }
        host.panicked(message);
        assert_eq!(client.get("/unruly/nothing").text(), "did nothing\n", "the connection stays");
    }
    assert_eq!(client.get("/unruly/observed").text(), "did observed\n");
    host.panicked("in an observer");
    assert_eq!(client.get("/unruly/nothing").text(), "did nothing\n");
    host.unload();
    assert_eq!(client.get("/unruly/nothing").status, 404);
}
