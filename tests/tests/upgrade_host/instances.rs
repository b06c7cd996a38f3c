//! Instances go over as they are, whatever the configuration says by now.

use medusa_tests::{Client, Server, Tree, wait_until};
use serde_json::Value;

use crate::{
    PATIENCE,
    held::{CONFIGURATION, Held, serve},
    lines::Lines,
    next::again,
};

#[track_caller]
fn only(server: &Server, name: &str) -> Value {
    let mut all = server.plugin(name);
    assert_eq!(all.len(), 1, "{name}: {all:#?}");
    all.remove(0)
}

#[test]
fn what_was_loaded_by_hand_goes_over_as_it_was() {
    let server = serve("");
    server.folder().write("other/there", "by hand");
    let words = "load other --library http-files --attach web --path /other --set";
    let root = format!("root={}", server.folder().path("other").display());
    server.ctl(words.split(' ').chain([root.as_str()])).succeeded();
    let words = "load more --library echo-session --listen 127.0.0.1:0";
    server.ctl(words.split(' ')).succeeded();
    let address = server.address("more");
    let mut client = Lines::connect(address);
    client.says("x", "x");
    let mut web = Client::connect(server.address("web"));
    for _ in 0..3 {
        again(&server);
        assert_eq!(server.address("more"), address);
        client.says("y", "y");
        Lines::connect(address).says("z", "z");
        assert_eq!(web.get("/other/there").text(), "by hand");
    }
    // It is nobody's in the file.
    server.ctl(["unload", "more"]).succeeded();
    again(&server);
    assert_eq!(server.plugin("more"), Vec::<Value>::new());
    assert_eq!(web.get("/other/there").text(), "by hand");
}

#[test]
fn what_was_unloaded_by_hand_does_not_come_back() {
    let server = serve("");
    server.ctl(["unload", "talk"]).succeeded();
    again(&server);
    assert_eq!(server.plugin("talk"), Vec::<Value>::new());
    server.ctl(["load", "talk"]).succeeded();
    Lines::connect(server.address("talk")).reads("your nick:");
}

#[test]
fn what_is_quarantined_stays_so_and_can_be_brought_back() {
    let unruly = "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nlisten = [\"127.0.0.1:0\"]\n\
        [plugin.limits]\npanics_per_hour_max = 1\nrestarts_per_hour_max = 0\n";
    let server = serve(unruly);
    let mut held = Held::of(&server);
    server.ctl(["unruly", "count"]).succeeded();
    for _ in 0..2 {
        server.ctl(["unruly", "do", "panic"]).refused("the plugin panicked");
    }
    wait_until("it to be quarantined", PATIENCE, || {
        server.plugin("unruly").iter().any(|it| it["state"] == "quarantined")
    });
    let before = only(&server, "unruly");
    again(&server);
    let now = only(&server, "unruly");
    assert_eq!(
        (&now["state"], &now["reason"]),
        (&"quarantined".into(), &before["reason"]),
        "{now}"
    );
    held.go_on(&server);
    server.ctl(["reload", "unruly"]).succeeded();
    assert_eq!(only(&server, "unruly")["state"], "running");
    assert_eq!(server.ctl(["unruly", "count"]).succeeded().trim(), "2");
}

#[test]
fn what_has_failed_stays_failed_with_its_reason() {
    let unruly = "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nlisten = [\"127.0.0.1:0\"]\n\
        [plugin.config]\nstart_unless = \"medusa.toml\"\n";
    let server = serve(unruly);
    let mut held = Held::of(&server);
    let before = only(&server, "unruly");
    assert_eq!(before["state"], "failed", "{before}");
    again(&server);
    let now = only(&server, "unruly");
    assert_eq!((&now["state"], &now["reason"]), (&"failed".into(), &before["reason"]));
    held.go_on(&server);
    server.folder().configure(&format!("{CONFIGURATION}{}", unruly.replace("medusa.toml", "none")));
    server.ctl(["config", "apply"]).succeeded();
    assert_eq!(only(&server, "unruly")["state"], "running");
}

#[test]
fn the_configuration_that_has_changed_on_disk_is_not_put_into_force() {
    let server = serve("");
    let mut held = Held::of(&server);
    let changed = CONFIGURATION
        .replace("root = \"site\"", "root = \"other\"")
        .replace("\"talk\"", "\"chat\"");
    server.folder().configure(&changed);
    again(&server);
    held.go_on(&server);
    assert_eq!(server.plugin("chat"), Vec::<Value>::new());
    server.folder().configure("this is no configuration");
    again(&server);
    held.go_on(&server);
    server.ctl(["config", "apply"]).refused("medusa.toml");
    server.folder().configure(CONFIGURATION);
    server.ctl(["config", "apply"]).succeeded();
    held.go_on(&server);
}

#[test]
fn what_was_upgraded_by_hand_from_another_file_goes_on_from_the_same_bytes() {
    let server = serve("");
    let mut held = Held::of(&server);
    let mut library = std::fs::read(Tree::get().library("echo-session")).expect("it was built");
    let (from, to) = (br#""version":"0.1.0""#, br#""version":"0.7.7""#);
    let at = library.windows(from.len()).position(|part| part == from).expect("it has a version");
    library[at..at + to.len()].copy_from_slice(to);
    server.folder().write("later.so", &library);
    let file = server.folder().path("later.so");
    server.ctl(["upgrade", "lines", "--library", file.to_str().expect("plain")]).succeeded();
    assert_eq!(only(&server, "lines")["version"], "0.7.7");
    std::fs::remove_file(file).expect("it is there");
    server.install("talk", &Tree::get().library("echo"));
    for _ in 0..2 {
        again(&server);
        held.go_on(&server);
        assert_eq!(only(&server, "lines")["version"], "0.7.7");
        assert_eq!(only(&server, "talk")["library"], "talk");
    }
}

#[test]
fn an_instance_with_a_thread_of_its_own_is_named_and_the_host_goes_on() {
    let unruly =
        "[[plugin]]\nname = \"unruly\"\nlibrary = \"unruly\"\nlisten = [\"127.0.0.1:0\"]\n";
    let server = serve(unruly);
    let mut held = Held::of(&server);
    server.ctl(["unruly", "do", "owned-thread"]).succeeded();
    crate::next::order(&server, None).refused("`unruly` has a thread of its own");
    held.go_on(&server);
    server.ctl(["unload", "unruly"]).succeeded();
    again(&server);
    held.go_on(&server);
}
