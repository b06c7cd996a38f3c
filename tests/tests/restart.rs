//! A plugin that panics or blocks the loop too often is restarted, and quarantined if that does not help; whoever is connected
//! to it, or to others, is served all the while.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use medusa_tests::{Canary, Client, Monitor, Server, Tree, wait_for, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// `unruly` with these limits, beside a canary.
struct Host {
    // Dropped first: a server drains until its connections have ended.
    canary: Canary,
    monitor: Monitor,
    server: Server,
}

impl Host {
    fn new(limits: &str) -> Self {
        Self::with("", limits, "")
    }

    fn with(before: &str, limits: &str, config: &str) -> Self {
        let attach = if before.contains("\"web\"") { "attach = \"web\"\n" } else { "" };
        let server = Server::start(&format!(
            "{}{before}[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nlisten = [\"127.0.0.1:0\"]\n{attach}\
             [plugin.limits]\n{limits}\n[plugin.config]\n{config}\n",
            Canary::CONFIGURATION
        ));
        Self { canary: Canary::of(&server), monitor: Monitor::of(&server), server }
    }

    /// So many panics of an instance.
    #[track_caller]
    fn panics(&mut self, name: &str, count: usize) {
        for _ in 0..count {
            self.monitor.ask([name, "do", "panic"]).refused("the plugin panicked");
        }
    }

    #[track_caller]
    fn count(&mut self) -> String {
        let output = self.monitor.ask(["unruly", "count"]);
        output.succeeded();
        output.stdout.trim().to_owned()
    }

    /// The newest generation of an instance.
    #[track_caller]
    fn newest(&mut self, name: &str) -> Value {
        let generations = self.monitor.plugin(name);
        generations.into_iter().max_by_key(|it| it["generation"].as_u64()).unwrap_or_default()
    }

    /// Waits for a generation to be in a state, and returns what `plugins` shows of it.
    #[track_caller]
    fn becomes(&mut self, name: &str, generation: u64, state: &str) -> Value {
        let found = wait_for(&format!("{name} {generation} to be {state}"), PATIENCE, || {
            let newest = self.newest(name);
            (newest["generation"] == generation && newest["state"] == state).then_some(newest)
        });
        self.canary.sings();
        found
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address("unruly")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        stream
    }

    /// The one line of the log about a restart, or that there is none, that holds a text.
    #[track_caller]
    fn logged(&self, part: &str) -> String {
        let log = self.server.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(part)).collect();
        assert_eq!(lines.len(), 1, "`{part}`: {lines:#?}\n{log}");
        lines[0].to_owned()
    }
}

#[track_caller]
fn answers(stream: &mut TcpStream) {
    stream.write_all(b"nothing\n").expect("it still reads");
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).expect("it still answers");
    assert_eq!(&answer, b"nothing\n");
}

#[track_caller]
fn holds(text: &Value, part: &str) {
    assert!(text.as_str().is_some_and(|text| text.contains(part)), "no `{part}` in {text}");
}

#[test]
fn too_many_panics_restart_a_plugin_and_cut_nobody() {
    let mut host = Host::new(
        "panics_per_hour_max = 2\nrestarts_per_hour_max = 2\nrestart_backoff_ms_min = 3\n",
    );
    let mut stream = host.connect();
    answers(&mut stream);
    assert_eq!(host.count(), "1");
    host.panics("unruly", 2 + 1);
    let fresh = host.becomes("unruly", 2, "running");
    assert_eq!((&fresh["panics"], &fresh["restarts"]), (&0.into(), &1.into()), "{fresh}");
    // The connection goes on with the generation that it had, which is over when it ends.
    answers(&mut stream);
    let old = host.monitor.plugin("unruly").remove(0);
    assert_eq!((&old["generation"], &old["state"]), (&1.into(), &"draining".into()), "{old}");
    holds(&old["reason"], "was restarted, for 3 panics within an hour");
    answers(&mut host.connect());
    drop(stream);
    wait_until("the old generation to be gone", PATIENCE, || {
        host.monitor.plugin("unruly").len() == 1
    });
    // What it keeps was carried over.
    assert_eq!(host.count(), "2");
    let line = host.logged("restarted, for ");
    for part in [
        "instance=\"unruly\"",
        "restarts=1",
        "3 panics within an hour (`panics_per_hour_max` is 2)",
        "restarted again, after 3 ms at the soonest",
    ] {
        assert!(line.contains(part), "no `{part}` in {line}");
    }
    host.panics("unruly", 2 + 1);
    let fresh = host.becomes("unruly", 3, "running");
    assert_eq!(fresh["restarts"], 2);
    host.logged("if this goes on it is quarantined");
}

#[test]
fn a_restart_takes_the_very_library_that_ran() {
    let mut host = Host::new("panics_per_hour_max = 1\n");
    // What lies there by now is another plugin.
    host.server.install("unruly", &Tree::get().library("echo"));
    host.panics("unruly", 1 + 1);
    host.becomes("unruly", 2, "running");
    assert_eq!(host.count(), "1");
}

#[test]
fn one_that_goes_on_is_quarantined_until_it_is_loaded_or_upgraded() {
    let web = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n";
    let mut host = Host::with(
        web,
        "panics_per_hour_max = 1\nrestarts_per_hour_max = 1\nrestart_backoff_ms_min = 0\n",
        "",
    );
    let address = host.server.address("unruly");
    let mut client = Client::connect(host.server.address("web"));
    assert_eq!(client.get("/unruly/nothing").text(), "did nothing\n");
    host.panics("unruly", 1 + 1);
    host.becomes("unruly", 2, "running");
    let mut before = host.connect();
    answers(&mut before);
    assert_eq!(host.count(), "1");

    host.panics("unruly", 1 + 1);
    let quarantined = host.becomes("unruly", 2, "quarantined");
    holds(
        &quarantined["reason"],
        "2 panics within an hour (`panics_per_hour_max` is 1), after 1 restart within an hour",
    );
    assert_eq!(quarantined["listen"][0], address.to_string());
    let line = host.logged("quarantined, for 2 panics");
    assert!(line.contains("instance=\"unruly\"") && line.contains("`load unruly`"), "{line}");
    // Who comes is told at once, who is there goes on, and others are served.
    is_turned_away(&mut host.connect());
    assert_eq!(client.get("/unruly/nothing").status, 503);
    answers(&mut before);

    let loaded = host.monitor.json(["load", "unruly"]);
    assert_eq!(
        (&loaded["state"], &loaded["generation"], &loaded["restarts"]),
        (&"running".into(), &3.into(), &0.into()),
        "{loaded}"
    );
    assert_eq!(host.server.address("unruly"), address);
    answers(&mut host.connect());
    assert_eq!(client.get("/unruly/nothing").text(), "did nothing\n");
    assert_eq!(host.count(), "1", "loaded, it begins anew");
    host.monitor.ask(["load", "unruly"]).refused("loaded already");

    // It may be restarted again, and is quarantined after that.
    host.panics("unruly", 1 + 1);
    host.becomes("unruly", 4, "running");
    host.panics("unruly", 1 + 1);
    host.becomes("unruly", 4, "quarantined");
    assert_eq!(client.get("/unruly/nothing").status, 503);

    host.server.install("mended", &Tree::get().library("unruly"));
    let upgraded = host.monitor.json(["upgrade", "unruly", "--library", "mended"]);
    assert_eq!(upgraded["result"], "upgraded", "{upgraded}");
    host.becomes("unruly", 5, "running");
    answers(&mut host.connect());
    assert_eq!(client.get("/unruly/nothing").text(), "did nothing\n");
    drop(before);
}

#[test]
fn nobody_answers_for_a_quarantined_extension_nor_passes_its_filters_by() {
    let limits = "[plugin.limits]\npanics_per_hour_max = 1\nrestarts_per_hour_max = 0\n";
    let server = Server::start(&format!(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nattach = \"web\"\n{limits}\
         [[plugin]]\nname = \"site\"\nlibrary = \"chain\"\nattach = \"web\"\n[plugin.config]\nhandlers = [\"/\"]\n\
         [[plugin]]\nname = \"guard\"\nlibrary = \"chain\"\nattach = \"web\"\n{limits}[plugin.config]\nfilters = [\"/in\"]\n"
    ));
    let mut client = Client::connect(server.address("web"));
    let quarantined = |name: &str| {
        wait_until(&format!("{name} to be quarantined"), PATIENCE, || {
            server.plugin(name)[0]["state"] == "quarantined"
        });
    };
    for _ in 0..1 + 1 {
        // The second answer is the server's own.
        assert_eq!(client.get("/unruly/same").text(), "did same\n");
    }
    for _ in 0..1 + 1 {
        assert_eq!(client.get("/unruly/panic").status, 500);
    }
    quarantined("unruly");
    assert_eq!(client.get("/unruly/same").status, 503);

    assert_eq!(client.get("/in?guard=answer").text(), "guard answers\n");
    for _ in 0..1 + 1 {
        assert_eq!(client.get("/in?guard=panic").status, 500);
    }
    quarantined("guard");
    assert_eq!(client.get("/in").status, 503);
    assert_eq!(client.get("/out").text(), "site |/out -\n");
    server.ctl(["load", "guard"]).succeeded();
    assert_eq!(client.get("/in").text(), "site |/in guard\n");
    // Taken away, it guards nothing: that is the operator's word.
    server.ctl(["unload", "guard"]).succeeded();
    assert_eq!(client.get("/in").text(), "site |/in -\n");
}

#[test]
fn one_that_may_not_be_restarted_is_quarantined_at_once() {
    let mut host = Host::new("panics_per_hour_max = 1\nrestarts_per_hour_max = 0\n");
    host.panics("unruly", 1 + 1);
    let quarantined = host.becomes("unruly", 1, "quarantined");
    holds(&quarantined["reason"], "no restart is allowed (`restarts_per_hour_max`)");
    is_turned_away(&mut host.connect());
    let unloaded = host.monitor.json(["unload", "unruly"]);
    assert_eq!((&unloaded["result"], &unloaded["mapped"]), (&"unloaded".into(), &false.into()));
    host.monitor.ask(["load", "unruly"]).succeeded();
    answers(&mut host.connect());
}

#[test]
fn stalls_restart_and_quarantine_it_too() {
    let mut host = Host::new(
        "stall_ms = 50\nstalls_per_hour_max = 1\nrestarts_per_hour_max = 1\nrestart_backoff_ms_min = 0\n",
    );
    for (generation, state) in [(2, "running"), (2, "quarantined")] {
        for _ in 0..1 + 1 {
            host.monitor.ask(["unruly", "do", "stall", "400"]).succeeded();
        }
        host.becomes("unruly", generation, state);
    }
    let quarantined = host.newest("unruly");
    assert_eq!((&quarantined["stalls"], &quarantined["panics"]), (&2.into(), &0.into()));
    holds(&quarantined["reason"], "2 stalls within an hour (`stalls_per_hour_max` is 1)");
    let line = host.logged("restarted, for ");
    assert!(line.contains("2 stalls within an hour (`stalls_per_hour_max` is 1)"), "{line}");
}

#[test]
fn with_limits_of_zero_it_never_is() {
    let witness = "[[plugin]]\nname = \"witness\"\nlibrary = \"unruly\"\n\
                   [plugin.limits]\npanics_per_hour_max = 1\n";
    let mut host = Host::with(
        witness,
        "stall_ms = 50\npanics_per_hour_max = 0\nstalls_per_hour_max = 0\nrestarts_per_hour_max = 0\n",
        "",
    );
    host.panics("unruly", 20);
    host.monitor.ask(["unruly", "do", "stall", "400"]).succeeded();
    host.panics("witness", 1 + 1);
    // Both are looked at together.
    host.becomes("witness", 2, "running");
    let left_alone = host.becomes("unruly", 1, "running");
    assert_eq!((&left_alone["panics"], &left_alone["stalls"]), (&20.into(), &1.into()));
    assert_eq!((&left_alone["restarts"], &left_alone["reason"]), (&0.into(), &Value::Null));
}

#[test]
fn state_is_dropped_when_the_faults_are_back_within_the_back_off() {
    let mut host = Host::new("panics_per_hour_max = 1\nrestart_backoff_ms_min = 4000\n");
    assert_eq!(host.count(), "1");
    host.panics("unruly", 1 + 1);
    host.becomes("unruly", 2, "running");
    assert_eq!(host.count(), "2");
    host.panics("unruly", 1 + 1);
    // It serves while it waits.
    wait_until("it to wait for its back-off", PATIENCE, || {
        host.newest("unruly")["reason"].as_str().is_some_and(|it| it.starts_with("is restarted in"))
    });
    answers(&mut host.connect());
    host.becomes("unruly", 3, "running");
    assert_eq!(host.count(), "1");
    host.logged("the state that it kept is dropped: the faults were back");
}

#[test]
fn state_that_cannot_be_carried_over_is_dropped() {
    for place in ["export", "import"] {
        let mut host =
            Host::with("", "panics_per_hour_max = 1\n", &format!("panic_at = \"{place}\""));
        assert_eq!(host.count(), "1");
        host.panics("unruly", 1 + 1);
        // The second, with the state, was given up.
        host.becomes("unruly", 3, "running");
        assert_eq!(host.count(), "1");
        let line = host.logged("restarted, for ");
        assert!(line.contains("the state that it kept is dropped"), "{line}");
        assert!(line.contains(&format!("panicked in {place}_state")), "{line}");
    }
}

#[test]
fn one_that_cannot_be_started_anew_goes_on_as_it_is() {
    let mut host = Host::with(
        "",
        "panics_per_hour_max = 1\nrestarts_per_hour_max = 1000\nrestart_backoff_ms_max = 0\n",
        "start_unless = \"not-now\"",
    );
    let not_now = host.server.folder().path("not-now");
    fs::write(&not_now, "").expect("it can be made");
    host.panics("unruly", 1 + 1);
    host.server.wait_for_log("cannot be restarted, for 2 panics within an hour");
    answers(&mut host.connect());
    fs::remove_file(&not_now).expect("it is there");
    let restarted = wait_for("a restart", PATIENCE, || {
        let newest = host.newest("unruly");
        (newest["restarts"] == 1).then_some(newest)
    });
    assert_eq!(restarted["panics"], 0, "{restarted}");
    answers(&mut host.connect());
}

/// The connection ends without a word, and without a wait.
#[track_caller]
fn is_turned_away(stream: &mut TcpStream) {
    match stream.read(&mut [0]) {
        Ok(length) => assert_eq!(length, 0, "it is answered"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}
