//! The operator's order of routes: `routes move`, and what limits how many there are.

use medusa_tests::{Client, Folder, Server};
use serde_json::Value;

const WEB: &str = "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n";

#[test]
fn a_move_is_exact_and_can_be_taken_back() {
    let server = Server::start(&format!("{WEB}{}{}{}", root("a"), root("b"), root("c")));
    let order = || instances(&server, "handler");
    assert_eq!(order(), ["c", "b", "a"]);
    moved(&server, "a", &["before", &id(&server, "b")]);
    assert_eq!(order(), ["c", "a", "b"]);
    assert_eq!(served_by(&server, "/?c=pass"), "a");
    moved(&server, "c", &["after", &id(&server, "a")]);
    assert_eq!(order(), ["a", "c", "b"]);
    assert_eq!(route(&server, "c")["moved"], format!("after {}", id(&server, "a")));
    moved(&server, "a", &["last"]);
    assert_eq!(order(), ["c", "b", "a"], "what was put behind it does not follow");
    moved(&server, "b", &["first"]);
    assert_eq!(order(), ["b", "c", "a"]);
    // Whoever is loaded later is heard, but not before the first.
    server.ctl(["load", "d", "--library", "chain", "--attach", "web", "--set", "handlers=[\"/\"]"]);
    assert_eq!(order(), ["b", "d", "c", "a"]);
    for name in ["a", "b", "c"] {
        moved(&server, name, &["back"]);
        assert_eq!(route(&server, name)["moved"], Value::Null);
    }
    assert_eq!(order(), ["d", "c", "b", "a"]);
}

#[test]
fn a_move_without_an_effect_is_refused() {
    let server = Server::start(&format!(
        "{WEB}{}{}",
        chain("a", "handlers = [\"/\", \"/deep\"]\nfilters = [\"/\"]\nobservers = 1\n"),
        root("b")
    ));
    let of = |kind: &str, path: &str| {
        let routes = routes(&server);
        let found = routes.iter().find(|it| it["kind"] == kind && it["path"] == path);
        found.expect("such a route")["id"].to_string()
    };
    let refused = |words: &[&str], part: &str| {
        server.ctl(["routes", "move"].iter().chain(words)).refused(part);
    };
    let b = id(&server, "b");
    let deep = of("handler", "/deep");
    refused(&[&deep, "before", &b], "the longer path is always asked first");
    refused(&[&of("filter", "/"), "after", &b], "filters are always asked first");
    refused(&[&of("observer", "/"), "first"], "observer");
    refused(&[&b, "before", &b], "itself");
    refused(&[&b, "after", "999"], "there is no route 999");
    refused(&["999", "first"], "there is no route 999");
    assert!(routes(&server).iter().all(|it| it["moved"] == Value::Null));
    assert!(!server.folder().path("state/routes.toml").exists());
}

#[test]
fn a_move_is_of_one_route() {
    let server = Server::start(&format!(
        "{WEB}{}{}",
        root("b"),
        chain("a", "handlers = [\"/\", \"/ example.org\", \"/\"]\nfilters = [\"/\"]\n")
    ));
    let ids: Vec<_> = handlers(&server).iter().map(|it| it["id"].as_u64()).collect();
    server.ctl(["routes", "move", &handlers(&server)[1]["id"].to_string(), "last"]).succeeded();
    let after: Vec<_> = handlers(&server).iter().map(|it| it["id"].as_u64()).collect();
    assert_eq!(after, [ids[0], ids[2], ids[3], ids[1]], "the others stand where they did");
}

#[test]
fn a_move_lasts_over_upgrades_unloads_and_restarts() {
    let mut server = Server::start(&format!("{WEB}{}{}{}", root("a"), root("b"), root("c")));
    moved(&server, "a", &["before", &id(&server, "b")]);
    moved(&server, "c", &["last"]);
    let order = |server: &Server| instances(server, "handler");
    let moved_order = ["a", "b", "c"];
    assert_eq!(order(&server), moved_order);
    server.ctl(["reload", "a"]).succeeded();
    assert_eq!(order(&server), moved_order);
    server.ctl(["unload", "a"]).succeeded();
    assert_eq!(order(&server), ["b", "c"]);
    server.restart();
    assert_eq!(order(&server), moved_order);
    assert_eq!(served_by(&server, "/"), "a");
    // What belongs to nobody who is there is kept.
    server.ctl(["unload", "a"]).succeeded();
    moved(&server, "c", &["back"]);
    server.restart();
    assert_eq!(order(&server), ["c", "a", "b"]);
    moved(&server, "a", &["back"]);
    server.restart();
    assert_eq!(order(&server), ["c", "b", "a"]);
}

#[test]
fn a_broken_file_of_moves_is_left_alone() {
    let broken = "[[move]]\nserver = = \"web\"\n";
    let folder = Folder::new().with("state/routes.toml", broken);
    let mut server = folder.start(&format!("{WEB}{}{}", root("a"), root("b")));
    server.wait_for_log("routes.toml cannot be read and is left alone");
    assert!(server.log().contains("line 2"), "{}", server.log());
    let file = server.folder().path("state/routes.toml");
    let text = || std::fs::read_to_string(&file).expect("the file");
    server.ctl(["routes", "move", &id(&server, "a"), "first"]).refused("not be after a restart");
    assert_eq!(instances(&server, "handler"), ["a", "b"], "it is moved all the same");
    assert_eq!(text(), broken);
    std::fs::remove_file(&file).expect("the file is there");
    moved(&server, "a", &["first"]);
    server.restart();
    assert_eq!(instances(&server, "handler"), ["a", "b"]);
}

#[test]
fn what_is_not_understood_in_the_file_of_moves_is_kept() {
    let unknown = "[[move]]\nplace = \"sideways\"\nserver = \"web\"\n";
    let folder = Folder::new().with("state/routes.toml", unknown);
    let server = folder.start(&format!("{WEB}{}{}", root("a"), root("b")));
    server.wait_for_log("is passed over");
    moved(&server, "a", &["first"]);
    let text = std::fs::read_to_string(server.folder().path("state/routes.toml"));
    let text = text.expect("the file");
    assert!(text.contains(unknown) && text.contains("instance = \"a\""), "{text}");
}

#[test]
fn an_upgrade_needs_no_room_beside_the_old_routes() {
    let server = Server::start(&format!(
        "[host.limits]\nhttp_routes_max = 3\n{WEB}{}",
        chain("a", "handlers = [\"/\"]\nfilters = [\"/\"]\nobservers = 1\n")
    ));
    let before: Vec<_> = routes(&server).iter().map(|it| it["id"].as_u64()).collect();
    for _ in 0..3 {
        assert_eq!(server.ctl_json(["reload", "a"])["result"], "upgraded");
        assert_eq!(served_by(&server, "/"), "a");
    }
    let after: Vec<_> = routes(&server).iter().map(|it| it["id"].as_u64()).collect();
    assert_eq!(after, before, "the new ones stand in the places of the old ones");
    assert_eq!(heard(&server, "a").lines().count(), 1, "{}", heard(&server, "a"));
}

#[test]
fn what_does_not_fit_is_refused_and_the_old_goes_on() {
    let server = Server::start(&format!(
        "[host.limits]\nhttp_routes_max = 2\n{WEB}{}",
        chain("a", "handlers = [\"/\", \"/x\"]\n")
    ));
    let load = ["load", "b", "--library", "chain", "--attach", "web", "--set"];
    server.ctl(load.iter().chain(&["handlers=[\"/\"]"])).refused("http_routes_max");
    server.ctl(load.iter().chain(&["observers=1"])).refused("http_routes_max");
    assert_eq!(server.plugin("b"), Vec::<Value>::new());
    let larger = chain("a", "handlers = [\"/\", \"/x\"]\nobservers = 1\n");
    let larger = format!("[host.limits]\nhttp_routes_max = 2\n{WEB}{larger}");
    let unchanged = std::fs::read_to_string(server.folder().path("medusa.toml")).expect("it");
    server.folder().configure(&larger);
    let applied = server.ctl_json(["config", "apply"]);
    let reason = applied["failed"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("http_routes_max") && reason.contains("goes on"), "{reason}");
    assert_eq!(served_by(&server, "/"), "a");
    assert_eq!(served_by(&server, "/x"), "a-1");
    assert_eq!(routes(&server).len(), 2);
    server.folder().write("medusa.toml", unchanged);
    assert_eq!(server.ctl_json(["reload", "a"])["result"], "upgraded");
}

/// An instance of `chain` with one handler at the root.
fn root(name: &str) -> String {
    chain(name, "handlers = [\"/\"]\n")
}

fn chain(name: &str, config: &str) -> String {
    format!(
        "[[plugin]]\nname = \"{name}\"\nlibrary = \"chain\"\nattach = \"web\"\n[plugin.config]\n{config}"
    )
}

fn routes(server: &Server) -> Vec<Value> {
    server.ctl_json(["routes"]).as_array().expect("an array").clone()
}

fn handlers(server: &Server) -> Vec<Value> {
    routes(server).into_iter().filter(|it| it["kind"] == "handler").collect()
}

fn instances(server: &Server, kind: &str) -> Vec<String> {
    let routes = routes(server);
    let of_kind = routes.iter().filter(|it| it["kind"] == kind);
    of_kind.map(|it| it["instance"].as_str().expect("a name").to_owned()).collect()
}

fn route(server: &Server, instance: &str) -> Value {
    let routes = routes(server);
    routes.into_iter().find(|it| it["instance"] == instance).expect("a route of the instance")
}

fn id(server: &Server, instance: &str) -> String {
    route(server, instance)["id"].to_string()
}

#[track_caller]
fn moved(server: &Server, instance: &str, place: &[&str]) {
    let id = id(server, instance);
    server.ctl(["routes", "move", &id].iter().chain(place)).succeeded();
}

/// Which handler answers `GET PATH`.
#[track_caller]
fn served_by(server: &Server, path: &str) -> String {
    let response = Client::connect(server.address("web")).get(path);
    assert_eq!(response.status, 200, "{path}");
    response.text().split(' ').next().expect("a label").to_owned()
}

fn heard(server: &Server, instance: &str) -> String {
    server.ctl([instance, "heard"]).succeeded().to_owned()
}
