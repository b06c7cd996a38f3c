//! The commands against a host that is all made up.

use super::*;
use crate::{
    config::Limits,
    monitor::fake::{self, Fake, with_monitor},
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
    check("listeners", 0, "web       [::1]:80").await;
    check("listeners --json", 0, "\"address\":\"[::1]:80\"").await;
    check("routes", 0, "/dav").await;
    check("config show", 0, "name = \"site\"").await;
    check("config show site", 0, "token = \"(not shown)\"").await;
    check("config show sit", 1, "did you mean `site`?").await;
    check("log", 0, "").await;
    check("log x", 2, "N is a number").await;
    check("log level loud", 2, "is not a level").await;
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
