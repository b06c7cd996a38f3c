//! The configuration as an operator meets it: what is refused before it is loaded, and what settings mean.

use std::{
    fs,
    time::{Duration, Instant},
};

use medusa_tests::{Client, Folder, Server, wait_until};
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn check(folder: &Folder, configuration: &str) -> medusa_tests::CtlOutput {
    folder.configure(configuration);
    folder.medusa(["check", "--config", "medusa.toml"], "")
}

/// A pipe was opened and read on the loop: `config check` hung, and so did everything else, for good.
#[test]
fn a_pipe_in_the_place_of_a_library_stops_nobody() {
    let server = Server::start("");
    let pipe = server.folder().path("pipe.so");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    server.folder().configure("[[plugin]]\nname = \"a\"\nlibrary = \"./pipe.so\"\n");
    server.ctl(["config", "check"]).refused("not a regular file");
    server.ctl(["config", "apply"]).refused("not a regular file");
    let pipe = pipe.to_str().unwrap();
    server.ctl(["load", "b", "--library", pipe]).refused("not a regular file");
    server.folder().medusa(["check", "--config", "medusa.toml"], "").refused("medusa.toml:3");
    server.folder().medusa(["plugin", "inspect", "pipe.so"], "").refused("not a regular file");
    server.ctl(["status"]).succeeded();
}

/// The same went for the configuration itself.
#[test]
fn a_pipe_in_the_place_of_the_configuration_stops_nobody() {
    let server = Server::start("");
    let folder = server.folder();
    mknodat(CWD, folder.path("pipe.toml"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    for command in ["check", "serve"] {
        folder.medusa([command, "--config", "pipe.toml"], "").refused("not a regular file");
    }
    folder.medusa(["check", "--config", "."], "").refused("not a regular file");
    fs::rename(folder.path("pipe.toml"), folder.path("medusa.toml")).unwrap();
    server.ctl(["config", "check"]).refused("not a regular file");
    server.signal(Signal::HUP);
    server.wait_for_log("not a regular file");
    server.ctl(["status"]).succeeded();
}

#[test]
fn a_library_that_is_not_there_is_told_with_those_that_are() {
    let server = Server::start("");
    server.ctl(["load", "a", "--library", "ehco"]).refused("did you mean `echo`?");
    let output = server.ctl(["load", "a", "--library", "weather"]);
    output.refused("`http-files`");
    output.refused("/plugins; the libraries there are");
    server.ctl(["load", "a", "--library", "./weather.so"]).refused("no library at all");
    let folder = server.folder();
    folder.medusa(["plugin", "inspect", "plugins/htp.so"], "").refused("did you mean `http`?");
    folder.medusa(["plugin", "inspect", "none/http.so"], "").refused("there is no folder none");
}

#[test]
fn check_refuses_what_loading_would_refuse() {
    let folder = Folder::new();
    let tls = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\n\
               listen = [{ address = \"127.0.0.1:8443\", tls = \"default\" }]\n[tls.default]\n";
    check(&folder, tls).refused("medusa.toml:4:47");
    check(&folder, tls).refused("\"127.0.0.1:8443\" without `tls`");
    let order =
        |order: &str| format!("[[plugin]]\nname = \"a\"\nlibrary = \"echo\"\norder = {order}\n");
    check(&folder, &order("3000000000")).refused("medusa.toml:4:9");
    check(&folder, &order("3000000000")).refused("from -2147483648 to 2147483647");
    check(&folder, &order("-3")).succeeded();
}

#[test]
fn a_key_where_there_are_none_is_told_to_be_removed() {
    let folder = Folder::new();
    let echo = "[[plugin]]\nname = \"a\"\nlibrary = \"echo\"\n[plugin.config]\ncolour = 1\n";
    check(&folder, echo).refused("medusa.toml:5");
    check(&folder, echo).refused("remove it");
}

#[test]
fn a_star_in_host_stands_for_all_names_below_at_any_depth() {
    let server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\nhost = \"*.example.org\"\n",
    );
    let mut client = Client::connect(server.address("web"));
    let mut status = |host: &str| {
        client.send(format!("GET /hello HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client.response().status
    };
    assert_eq!(status("www.example.org"), 200);
    assert_eq!(status("a.b.Example.org:8080"), 200);
    assert_eq!(status("example.org"), 404);
    assert_eq!(status("www.example.net"), 404);
}

#[test]
fn an_extension_whose_routes_do_not_fit_is_refused_by_the_limits_name() {
    let server = Server::start(
        "[host.limits]\nhttp_routes_max = 1\n\
         [[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [[plugin]]\nname = \"one\"\nlibrary = \"hello\"\nattach = \"web\"\n\
         [[plugin]]\nname = \"two\"\nlibrary = \"hello\"\nattach = \"web\"\npath = \"/two\"\n",
    );
    let two = server.plugin("two");
    assert_eq!(two[0]["state"], "failed", "{two:?}");
    let reason = two[0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("http_routes_max"), "{reason}");
    let mut client = Client::connect(server.address("web"));
    assert_eq!((client.get("/hello").status, client.get("/two/hello").status), (200, 404));
}

#[test]
fn an_extension_says_what_it_waits_for() {
    let server = Server::start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n",
    );
    let loaded = server.ctl(["load", "hello", "--library", "hello", "--attach", "wbe"]);
    assert!(loaded.succeeded().contains("waits for `wbe`"), "{loaded:#?}");
    let plugin = &server.plugin("hello")[0];
    assert_eq!(plugin["state"], "waiting");
    let reason = plugin["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("`wbe`") && reason.contains("did you mean `web`?"), "{reason}");
    server.ctl(["unload", "web"]).succeeded();
    let plugin = &server.plugin("hello")[0];
    let reason = plugin["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("no server of HTTP is running"), "{reason}");
}

#[test]
fn an_unload_waits_for_blocking_jobs_as_long_as_the_configuration_says() {
    let server = Server::start(
        "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\n[plugin.limits]\nblocked_ms_max = 0\n",
    );
    let gate = server.folder().path("gate");
    let job = ["unruly".as_ref(), "do".as_ref(), "block".as_ref(), gate.as_os_str()];
    server.ctl(job).succeeded();
    wait_until("the job", PATIENCE, || gate.with_extension("begun").exists());
    let begun = Instant::now();
    let unloaded = server.ctl_json(["unload", "unruly", "--now"]);
    assert_eq!(unloaded["result"], "pinned", "{unloaded}");
    // Without the limit it would be five seconds.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    std::fs::write(&gate, "").unwrap();
    wait_until("the unload", PATIENCE, || server.plugin("unruly").is_empty());
}
