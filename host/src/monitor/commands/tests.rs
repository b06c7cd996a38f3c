//! The commands against a host that is all made up.

use std::{cell::RefCell, rc::Rc};

use super::*;
use crate::{
    config::Limits,
    monitor::{
        control::ConnectionStatus,
        fake::{self, Fake, with_monitor},
    },
};

#[test]
fn names_are_unique_and_every_argument_is_explained() {
    let mut names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COMMANDS.len());
    for command in COMMANDS {
        assert!(
            !command.summary.is_empty()
                && command.arguments.iter().all(|argument| !argument.doc.is_empty())
        );
        assert!(
            !command.changes || command.role > Role::Viewer,
            "{} changes something",
            command.name
        );
    }
}

async fn check(line: &str, exit: u8, expected: &str) {
    let (text, found) = fake::run(line).await;
    assert!(found == exit && text.contains(expected), "{line}: {found}\n{text}");
}

#[tokio::test]
async fn what_there_is_is_shown() {
    check("status", 0, "medusa            9.9").await;
    check("status --json", 0, "\"version\":\"9.9\"").await;
    check("plugins", 0, "no instances").await;
    check("plugins --json", 0, "[]\n").await;
    check("stats", 0, "web          1       0       0   1.5 KiB   0 B         0").await;
    check("stats web --json", 0, "\"received_bytes\":1536").await;
    check("stats wbe", 1, "did you mean `web`?").await;
    check("listeners", 0, "web       [::1]:80").await;
    check("listeners --json", 0, "\"address\":\"[::1]:80\"").await;
    check("routes", 0, "/dav").await;
    check("config show", 0, "name = \"site\"").await;
    check("config show site", 0, "token = \"(not shown)\"").await;
    check("config show sit", 1, "did you mean `site`?").await;
    check("log", 0, "").await;
    check("log x", 2, "N is a number").await;
    check("log level loud", 2, "is not a level").await;
    check("log --level loud", 2, "is not a level").await;
    check("log follow --level wran", 2, "did you mean `warn`?").await;
    check("log --instance sit", 1, "did you mean `site`?").await;
    check("log --instance site", 0, "").await;
    check("log follow --instance nobody", 1, "there is no instance `nobody`").await;
}

#[tokio::test]
async fn help_comes_from_the_table() {
    check("help", 0, "routes move ID PLACE [OTHER]").await;
    check("help", 0, "chat kick WHO").await;
    check("help load", 0, "--set KEY=VALUE").await;
    check("help log", 0, "log follow").await;
    check("help log level", 0, "error, warn, info").await;
    check("help chat kick", 0, "throw somebody out").await;
    check("help --json", 0, "\"name\":\"upgrade\"").await;
    check("help lod", 2, "did you mean `load`?").await;
}

#[tokio::test]
async fn words_that_are_no_command_are_told_what_was_meant() {
    check("''", 2, "there is no command").await;
    check("plugin", 2, "did you mean `plugins`?").await;
    check("unlaod x", 2, "did you mean `unload`?").await;
    check("config", 2, "config show [NAME]").await;
    check("config sohw", 2, "config show [NAME]").await;
    check("chat", 2, "chat kick WHO").await;
    check("status now", 2, "usage: status").await;
    check("unload", 2, "NAME is missing").await;
    check("kill x", 2, "ID is a number").await;
    check("frobnicate", 2, "try `help`").await;
}

/// What the host was asked to do, with the exit status.
async fn check_done(line: &str, exit: u8, expected: &str) {
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        let (text, found) = bench.talk().await.ask(line).await;
        let done = bench.fake.done.borrow().last().cloned().unwrap_or_default();
        assert!(found == exit && done == expected, "{line}: {found} {done}\n{text}");
    })
    .await;
}

#[tokio::test]
async fn what_is_asked_for_is_done() {
    check_done("load site", 0, "load site /etc/plugins/http-files.so [] None").await;
    check_done("load a --library b", 0, "load a /etc/plugins/b.so [] None").await;
    let expected = "load a /home/ada/b.so [\"127.0.0.1:0\", \"unix:/home/ada/s\"] Some(\"web\")";
    check_done(
        "load a --library ./b.so --listen 127.0.0.1:0 --listen unix:s --attach web --set x=1",
        0,
        expected,
    )
    .await;
    check_done("unload a", 0, "unload a Drain").await;
    check_done("unload a --now", 0, "unload a Now").await;
    check_done("unload none", 1, "unload none Drain").await;
    check_done("unload stuck", 1, "unload stuck Drain").await;
    check_done("upgrade a", 0, "upgrade a None").await;
    check_done("upgrade bad", 1, "upgrade bad None").await;
    check_done("upgrade a --library b", 0, "upgrade a Some(\"/etc/plugins/b.so\")").await;
    check_done("upgrade a --library ./b.so", 0, "upgrade a Some(\"/home/ada/b.so\")").await;
    check_done("reload a", 0, "upgrade a None").await;
    check_done("kill 7", 0, "kill 7").await;
    check_done("routes move 3 first", 0, "move 3 First").await;
    check_done("routes move 3 after 4", 0, "move 3 After(4)").await;
    check_done("routes move 3 back", 0, "move 3 Back").await;
    check_done("chat kick ada --hard --json", 0, "chat kick [\"ada\", \"--hard\"] json=true").await;
}

#[tokio::test]
async fn what_makes_no_sense_is_not_done() {
    check_done("load nothing", 1, "").await;
    check_done("load site --library x", 1, "").await;
    check_done("load a --attach web", 2, "").await;
    check_done("load a --library b --listen x", 1, "").await;
    check_done("load a --library b --set x", 2, "").await;
    check_done("load a --library b --order x", 2, "").await;
    check_done("routes move 3 up", 2, "").await;
    check_done("routes move 3 first 4", 2, "").await;
    check_done("routes move 3 before", 2, "").await;
}

#[tokio::test]
async fn json_has_the_fields_that_programs_rely_on() {
    check(
        "unload a --json",
        0,
        r#"{"name":"a","result":"unloaded","mapped":false,"leaked_bytes":0,"reason":null}"#,
    )
    .await;
    let upgrade = r#"{"name":"a","result":"upgraded","from":"","to":"","handed_over":0,"drained":0,"pause_us":0,"reason":null}"#;
    check("upgrade a --json", 0, upgrade).await;
}

/// Thirty connections of two instances, from 10.0.0.0 on; every third is parked, and the last has no address.
fn many() -> Vec<ConnectionStatus> {
    let connection = |id: u64| ConnectionStatus {
        id,
        instance: if id.is_multiple_of(2) { "web" } else { "chat" }.to_owned(),
        peer: if id == 30 { "unix:".to_owned() } else { format!("10.0.{}.{id}:4{id:03}", id % 2) },
        local: "[::1]:80".to_owned(),
        state: if id.is_multiple_of(3) { "parked" } else { "open" }.to_owned(),
        age_ms: 1000 * (100 - id),
        idle_ms: (id != 30).then_some(id * 10),
        received_bytes: id * 1024,
        ..ConnectionStatus::default()
    };
    (1..=30).map(connection).collect()
}

async fn ask_many(line: &str) -> (String, u8) {
    let answer = Rc::new(RefCell::new((String::new(), 0)));
    let copy = answer.clone();
    let fake = Fake { connections: RefCell::new(Some(many())), ..Fake::default() };
    fake.instances.set(1);
    with_monitor(fake, Limits::default(), |bench| async move {
        *copy.borrow_mut() = bench.talk().await.ask(line).await;
    })
    .await;
    answer.take()
}

async fn check_ids(options: &str, expected: &[u64]) {
    let (text, exit) = ask_many(&format!("connections --json {options}")).await;
    assert_eq!(exit, 0, "{options}: {text}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let ids: Vec<_> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, expected, "{options}");
}

#[tokio::test]
async fn connections_are_narrowed_and_sorted() {
    let all: Vec<u64> = (1..=30).collect();
    check_ids("", &all).await;
    check_ids("--limit 3", &[1, 2, 3]).await;
    check_ids("--limit 0", &[]).await;
    check_ids("--reverse --limit 2", &[30, 29]).await;
    check_ids("web --limit 3", &[2, 4, 6]).await;
    check_ids("--state parked --limit 3", &[3, 6, 9]).await;
    check_ids("--state parked --state open --limit 3", &[1, 2, 3]).await;
    check_ids("--state closing", &[]).await;
    check_ids("--peer 10.0.1.0/24 --limit 2", &[1, 3]).await;
    check_ids("--peer 10.0.0.4", &[4]).await;
    check_ids("--peer 10.0.0.4:4004", &[4]).await;
    check_ids("--peer unix", &[30]).await;
    check_ids("--local [::1]:80 --limit 1", &[1]).await;
    check_ids("--local [::1]:81", &[]).await;
    check_ids("--older 98s", &[1, 2]).await;
    check_ids("--older 98000 --peer 10.0.1.0/24", &[1]).await;
    check_ids("--idle '280 ms'", &[28, 29]).await;
    check_ids("--bytes 29KiB", &[29, 30]).await;
    check_ids("--sort age --limit 2", &[1, 2]).await;
    check_ids("--sort idle --limit 2", &[29, 28]).await;
    check_ids("--sort bytes --limit 2", &[30, 29]).await;
    check_ids("--sort bytes --reverse --limit 2", &[1, 2]).await;
    check_ids("--sort sent --limit 2", &[1, 2]).await;
}

#[tokio::test]
async fn connections_are_counted() {
    let check = async |line: &str, expected: &str| {
        let (text, exit) = ask_many(line).await;
        assert!(exit == 0 && text.ends_with(expected), "{line}: {text}");
        text.lines().count()
    };
    assert_eq!(check("connections", "\n30 connections: 20 open, 10 parked\n").await, 32);
    let some = "10 of 30 connections: 10 parked; 4 shown, `--limit N` shows more\n";
    assert_eq!(check("connections --state parked --limit 4", some).await, 6);
    assert_eq!(check("connections --peer 1.2.3.4", "0 of 30 connections\n").await, 1);
    assert_eq!(
        check("connections web --count", "15 of 30 connections: 10 open, 5 parked\n").await,
        1
    );
    let counts = "{\"all\":30,\"matched\":15,\"states\":{\"open\":10,\"parked\":5}}\n";
    check("connections web --count --json", counts).await;
}

#[tokio::test]
async fn filters_that_make_no_sense_are_told_so() {
    let check = async |line: &str, exit: u8, expected: &str| {
        let (text, found) = ask_many(line).await;
        assert!(found == exit && text.contains(expected), "{line}: {found} {text}");
    };
    check("connections wep", 1, "did you mean `web`?").await;
    check("connections --state prked", 2, "did you mean `parked`?").await;
    check("connections --state idle", 2, "`connecting`, `open`, `parked`, `closing`").await;
    check("connections --sort size", 2, "`received`").await;
    check("connections --peer localhost", 2, "a network (10.0.0.0/8)").await;
    check("connections --older soon", 2, "\"30 s\"").await;
    check("connections --idle -1", 2, "--idle cannot be \"-1\"").await;
    check("connections --bytes much", 2, "\"64 KiB\"").await;
    check("connections --limit all", 2, "limit is a number").await;
    check("connections --peer a --peer b", 2, "given twice").await;
    check("help connections", 0, "--peer PEER").await;
}

#[tokio::test]
async fn others_are_answered_between_two_parts_of_a_long_list() {
    let fake = Fake {
        connections: RefCell::new(Some(vec![ConnectionStatus::default(); 7 * 40])),
        ..Fake::default()
    };
    with_monitor(fake, Limits::default(), |bench| async move {
        let (mut one, mut two) = (bench.talk().await, bench.talk().await);
        one.send("connections --count").await;
        bench.until_done("connections 7").await;
        two.send("kill 1").await;
        one.answer().await;
        two.answer().await;
        let done = bench.fake.done.borrow();
        let place = |what: &str| done.iter().position(|done| done == what).unwrap();
        assert!(place("kill 1") < place("connections 273"), "{done:?}");
    })
    .await;
}

async fn check_candidates(words: &[&str], expected: &[&str]) {
    let fake = Fake { connections: RefCell::new(Some(many())), ..Fake::default() };
    fake.instances.set(1);
    let line = words.iter().map(|word| format!(" '{word}'")).collect::<String>();
    with_monitor(fake, Limits::default(), |bench| async move {
        let (text, exit) = bench.talk().await.ask(&format!("complete --json -- {line}")).await;
        let found: Vec<String> = serde_json::from_str(&text).unwrap();
        assert_eq!(exit, 0);
        assert_eq!(found, expected, "{line}");
    })
    .await;
}

#[tokio::test]
async fn what_may_be_typed_is_known() {
    check_candidates(&["lo"], &["load", "log"]).await;
    check_candidates(&["ch"], &["chat"]).await;
    check_candidates(&["chat", ""], &["kick"]).await;
    check_candidates(&["config", "s"], &["show"]).await;
    check_candidates(&["help", "config", ""], &["apply", "check", "show"]).await;
    check_candidates(&["log", "le"], &["level"]).await;
    check_candidates(&["log", "level", "w"], &["warn"]).await;
    check_candidates(&["load", ""], &["site"]).await;
    check_candidates(&["config", "show", ""], &["site"]).await;
    check_candidates(&["unload", ""], &["web"]).await;
    check_candidates(&["unload", "web", "--"], &["--json", "--now"]).await;
    check_candidates(&["unload", "web", ""], &[]).await;
    check_candidates(&["unload", "--now", "w"], &["web"]).await;
    check_candidates(&["load", "x", "--li"], &["--library", "--listen"]).await;
    check_candidates(&["load", "x", "--library", ""], &["echo", "http"]).await;
    check_candidates(&["load", "x", "--library=h"], &["--library=http"]).await;
    check_candidates(&["load", "x", "--library", "http", "--li"], &["--listen"]).await;
    check_candidates(&["load", "x", "--attach", ""], &["web"]).await;
    check_candidates(&["load", "x", "--path", ""], &["/dav"]).await;
    check_candidates(&["kill", "2"], &["2"]).await;
    check_candidates(&["routes", "move", ""], &["3"]).await;
    check_candidates(&["routes", "move", "3", "b"], &["back", "before"]).await;
    check_candidates(&["routes", "move", "3", "before", ""], &["3"]).await;
    check_candidates(&["connections", "web", "w"], &["web"]).await;
    check_candidates(&["connections", "--state", "pa"], &["parked"]).await;
    check_candidates(&["connections", "--local", ""], &["[::1]:80"]).await;
    check_candidates(&["connections", "--peer", "10.0.0."], &["10.0.0.2", "10.0.0.4", "10.0.0.6"])
        .await;
    check_candidates(&["frobnicate", ""], &[]).await;
}
