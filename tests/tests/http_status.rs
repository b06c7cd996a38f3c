//! What `http-status` shows: the page, JSON, metrics and health; of instances that are well, that are not, and that fail to show what
//! they have.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use medusa_tests::{Client, Response, Server, tool_from, wait_until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

const SERVER: &str = r#"
[[plugin]]
name = "web"
library = "http"
listen = ["127.0.0.1:0"]

[[plugin]]
name = "status"
library = "http-status"
attach = "web"
path = "/status"
[plugin.config]
refresh_s = 7
patience = "200 ms"

[[plugin]]
name = "shaky"
library = "unruly"
[plugin.limits]
panics_per_hour_max = 2
restarts_per_hour_max = 0

[[plugin]]
name = "tools"
library = "toolbox"
listen = ["127.0.0.1:0"]
"#;

/// Prints each sample that Prometheus's own parser finds: its name, labels, value and kind.
const PARSER: &str = r"
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(sys.stdin.read()))
names = [family.name for family in families]
assert len(names) == len(set(names)), 'a family is torn apart'
assert all(family.documentation for family in families), 'a family has no help'
print(json.dumps([[s.name, s.labels, s.value, family.type] for family in families for s in family.samples]))
";

fn client(server: &Server) -> Client {
    Client::connect(server.address("web"))
}

#[track_caller]
fn get(server: &Server, path: &str) -> Response {
    let response = client(server).get(path);
    assert_eq!(response.header("cache-control"), Some("no-store"), "{path}");
    response
}

#[track_caller]
fn json(server: &Server, path: &str) -> Value {
    let response = get(server, path);
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_str(response.text()).expect("it is JSON")
}

/// What the JSON has of one instance.
#[track_caller]
fn instance(server: &Server, name: &str) -> Value {
    let all = json(server, "/status/status.json");
    let found = all["instances"].as_array().expect("a list").iter().find(|it| it["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {all}")).clone()
}

#[test]
fn a_page_for_people() {
    let server = Server::start(SERVER);
    let page = get(&server, "/status");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let text = page.text();
    for name in ["web", "status", "shaky", "tools"] {
        assert!(text.contains(&format!("scope=\"row\">{name}<small>")), "{name} in {text}");
    }
    assert!(text.contains("<p class=\"verdict good\">All instances are running.</p>"), "{text}");
    assert!(text.contains("<meta http-equiv=\"refresh\" content=\"7\">"));
    assert!(text.contains(&server.address("tools").to_string()));
    assert!(text.contains("href=\"/status/metrics\""));
    assert!(!text.contains("<script"), "it needs none");
    assert!(text.contains(">Polls</h2>") && text.contains("data-label=\"longest\""), "{text}");
    assert_eq!(get(&server, "/status/").text().matches("data-label=\"state\"").count(), 4);
}

#[test]
fn the_same_figures_as_the_monitor_has() {
    let server = Server::start(SERVER);
    let shown = json(&server, "/status/status.json");
    let host = server.ctl_json(["status"]);
    for field in ["version", "pid", "state", "instances", "config"] {
        assert_eq!(shown["host"][field], host[field], "{field}");
    }
    assert!(shown["host"]["resident_bytes"].as_u64() > Some(1_000_000), "{shown}");
    for plugin in server.ctl_json(["plugins"]).as_array().expect("a list") {
        let shown = instance(&server, plugin["name"].as_str().expect("a name"));
        for field in ["library", "version", "state", "generation", "listen", "attach", "panics"] {
            assert_eq!(shown[field], plugin[field], "{field} of {shown}");
        }
        assert_eq!(shown["generations"].as_array().map(Vec::len), Some(1));
        assert_eq!(shown["figures"]["name"], plugin["name"]);
    }
    let web = instance(&server, "web");
    assert!(web["requests"].as_u64() > Some(2), "{web}");
    assert_eq!(web["connections"], 1, "the one that asks: {web}");
    assert_eq!(web["listeners"][0]["address"], server.address("web").to_string());
    assert!(web["metrics"].as_array().is_some_and(|metrics| !metrics.is_empty()), "{web}");
}

#[test]
fn an_upgrade_keeps_the_counts_of_an_instance() {
    let server = Server::start(SERVER);
    for _ in 0..3 {
        server.ctl(["shaky", "do", "panic"]).refused("panic");
    }
    server.ctl(["upgrade", "shaky"]).succeeded();
    let shaky = instance(&server, "shaky");
    assert_eq!((&shaky["generation"], &shaky["panics"]), (&2.into(), &3.into()), "{shaky}");
}

#[test]
fn heads_and_other_methods_and_paths() {
    let server = Server::start(SERVER);
    let mut client = client(&server);
    for path in ["/status", "/status/status.json", "/status/metrics", "/status/health"] {
        let head = client.head(path);
        assert_eq!(head.status, 200, "{path}");
        assert!(head.body.is_empty() && head.header("content-length").is_some(), "{path}");
        for method in ["POST", "DELETE", "OPTIONS"] {
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
            ));
            let refused = client.response();
            assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
            assert_eq!(refused.header("cache-control"), Some("no-store"));
        }
    }
    assert_eq!(client.get("/status/else").status, 404);
    assert_eq!(client.get("/statuses").status, 404);
}

#[test]
fn metrics_that_prometheus_reads() {
    let parser = "/usr/lib/python3/dist-packages/prometheus_client/parser.py";
    if tool_from(parser, "python3-prometheus-client").is_none() {
        return;
    }
    // Not another Python of the machine, which has other packages.
    let Some(python) = tool_from("/usr/bin/python3", "python3-minimal") else { return };
    let server = Server::start(SERVER);
    server.ctl(["shaky", "do", "panic"]).refused("panic");
    server.ctl(["tools", "use", "register", "metric", "made_total"]).succeeded();
    let response = get(&server, "/status/metrics");
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));

    let mut child = Command::new(python)
        .args(["-c", PARSER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python can be run");
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(response.text().as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "it is not understood:\n{}", response.text());
    let samples: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");

    let check = |name: &str, labels: &[(&str, &str)], kind: &str, value: f64| {
        let has = |sample: &&Value| {
            sample[0] == name && labels.iter().all(|(label, text)| sample[1][label] == *text)
        };
        let found: Vec<_> = samples.as_array().expect("a list").iter().filter(has).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?} in\n{}", response.text());
        assert_eq!((&found[0][2], &found[0][3]), (&value.into(), &kind.into()), "{name}");
    };
    check("medusa_instances", &[], "gauge", 4.0);
    check("medusa_instance_panics_total", &[("name", "shaky")], "counter", 1.0);
    check("medusa_panics_total", &[], "counter", 1.0);
    check("medusa_instance_info", &[("name", "web"), ("library", "http")], "gauge", 1.0);
    check("medusa_instance_state", &[("name", "web"), ("state", "running")], "gauge", 1.0);
    check("medusa_instance_state", &[("name", "web"), ("state", "failed")], "gauge", 0.0);
    check("medusa_instance_figures_failed", &[("name", "web")], "gauge", 0.0);
    check("medusa_instance_threads", &[("name", "web")], "gauge", 0.0);
    let of_web = |quantile| [("name", "web"), ("quantile", quantile)];
    for (name, labels) in [
        ("medusa_instance_poll_seconds", of_web("0.99")),
        ("medusa_instance_latency_seconds", of_web("0.5")),
    ] {
        let has = |sample: &&Value| {
            sample[0] == name && labels.iter().all(|(label, text)| sample[1][label] == *text)
        };
        let found = samples.as_array().expect("a list").iter().find(has);
        let found = found.unwrap_or_else(|| panic!("{name} in\n{}", response.text()));
        assert_eq!(found[3], "summary", "{found}");
    }
    // The one that asks is not answered yet.
    check("medusa_instance_latency_seconds_count", &[("name", "web")], "summary", 0.0);
    check("medusa_plugin_made_total", &[("name", "tools")], "counter", 1.0);
    let address = server.address("web").to_string();
    check("medusa_listener_accepted_total", &[("address", &address)], "counter", 1.0);
}

#[test]
fn health_turns_bad_with_an_instance_and_good_again() {
    let server = Server::start(SERVER);
    let healthy = |expected: u16| {
        let response = get(&server, "/status/health");
        assert_eq!(response.status, expected, "{}", response.text());
        json(&server, "/status/health")
    };
    assert_eq!(healthy(200)["status"], "ok");

    for _ in 0..3 {
        server.ctl(["shaky", "do", "panic"]).refused("panic");
    }
    wait_until("the quarantine", PATIENCE, || get(&server, "/status/health").status == 503);
    let said = healthy(503);
    assert_eq!(said["not_running"].as_array().map(Vec::len), Some(1), "{said}");
    assert_eq!(said["not_running"][0]["name"], "shaky");
    assert_eq!(said["not_running"][0]["state"], "quarantined");
    let page = get(&server, "/status");
    assert!(page.text().contains("One instance is not running."), "{}", page.text());
    assert!(page.text().contains("<p class=\"reason\">3 panics within an hour"), "{}", page.text());
    server.ctl(["upgrade", "shaky"]).succeeded();
    healthy(200);

    server.ctl(["load", "late", "--library", "hello", "--attach", "nobody"]).succeeded();
    assert_eq!(healthy(503)["not_running"][0]["state"], "waiting");
    server.ctl(["unload", "late"]).succeeded();
    healthy(200);
}

#[test]
fn health_names_an_instance_that_could_not_be_loaded() {
    let broken = "[[plugin]]\nname = \"broken\"\nlibrary = \"unruly\"\n[plugin.config]\npanic_at = \"start\"\n";
    let server = Server::start(&format!("{SERVER}\n{broken}"));
    let said = json(&server, "/status/health");
    assert_eq!(said["not_running"][0]["name"], "broken");
    assert_eq!(said["not_running"][0]["state"], "failed");
    assert!(instance(&server, "broken")["reason"].as_str().is_some_and(|it| it.contains("panic")));
    // Nobody wants it any more.
    server.ctl(["unload", "broken"]).succeeded();
    assert_eq!(get(&server, "/status/health").status, 200);
}

#[test]
fn what_an_instance_shows_of_its_own_fails_alone() {
    let server = Server::start(SERVER);
    server.ctl(["load", "others", "--library", "toolbox"]).succeeded();
    let show = |instance: &str, how: &str| {
        server.ctl([instance, "use", "register", "block", how]).succeeded();
    };
    let forget = |how: &str| server.ctl(["tools", "use", "forget", how]).succeeded().to_owned();
    show("others", "well");
    assert_eq!(instance(&server, "tools")["block"], Value::Null);
    for (how, why) in [("fails", "failed"), ("panics", "panicked"), ("hangs", "deadline")] {
        show("tools", how);
        let tools = instance(&server, "tools");
        let error = tools["block"]["error"].as_str();
        assert!(error.is_some_and(|error| error.contains(why)), "{how}: {tools}");
        assert_eq!((&tools["state"], &tools["library"]), (&"running".into(), &"toolbox".into()));
        assert_eq!(instance(&server, "others")["block"]["shown"]["how"], "well");
        let page = get(&server, "/status");
        let page = page.text();
        assert_eq!(page.matches("What it shows of its own cannot be shown.").count(), 1, "{page}");
        assert!(page.contains("<dt>tools</dt><dd>all of &lt;them&gt;</dd>"), "{page}");
        assert!(page.contains("All instances are running."), "{page}");
        assert_eq!(get(&server, "/status/health").status, 200);
        forget(how);
    }
    show("tools", "well");
    assert_eq!(instance(&server, "tools")["block"]["shown"]["how"], "well");
}

#[test]
fn nobody_from_elsewhere_is_answered_unless_it_is_open() {
    let others = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // Nothing is sent: it only says by which address one would.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    let Some(own) = others.ok().map(|it| it.ip()).filter(|it| !it.is_loopback()) else {
        return medusa_tests::skip("this machine has no address but loopback");
    };
    let server = Server::start(&SERVER.replace("[\"127.0.0.1:0\"]", "[\"0.0.0.0:0\"]"));
    let address = (own, server.address("web").port()).into();
    for path in ["/status", "/status/status.json", "/status/metrics", "/status/health"] {
        assert_eq!(Client::connect(address).get(path).status, 403, "{path}");
    }
    server
        .ctl([
            "load",
            "open",
            "--library",
            "http-status",
            "--attach",
            "web",
            "--path",
            "/open",
            "--set",
            "open_to=everyone",
        ])
        .succeeded();
    assert_eq!(Client::connect(address).get("/open/health").status, 200);
}

#[test]
fn it_leaves_nothing_behind_and_is_upgraded_while_it_waits() {
    let server = Server::start(&SERVER.replace("200 ms", "10 s"));
    server.ctl(["tools", "use", "register", "block", "hangs"]).succeeded();
    let mut waiting = client(&server);
    waiting.send("GET /status HTTP/1.1\r\nHost: test\r\n\r\n");
    wait_until("the request to be there", PATIENCE, || {
        server.plugin("status")[0]["requests"].as_u64() == Some(1)
    });
    server.ctl(["upgrade", "status"]).succeeded();
    assert_eq!(server.plugin("status").len(), 2, "the old one waits with its request");
    server.ctl(["unload", "tools", "--now"]).succeeded();
    let page = waiting.response();
    assert!(page.text().contains("What it shows of its own cannot be shown."), "{}", page.text());
    let unload = server.ctl_json(["unload", "status"]);
    assert_eq!(
        (&unload["mapped"], &unload["leaked_bytes"]),
        (&false.into(), &0.into()),
        "{unload}"
    );
    assert_eq!(client(&server).get("/status").status, 404);
}
