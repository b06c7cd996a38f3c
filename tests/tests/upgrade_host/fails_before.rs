//! Programs that will not do, found out before the process goes on as them: the old one serves on, and nobody has been kept waiting.

use std::path::Path;

use medusa_tests::{Server, Tree};

use crate::{
    held::{CONFIGURATION, Held, folder, serve},
    next::{children, copy, file, is_locked, order, program_of, script, upgrade},
};

/// A program that will not do is refused for that reason, and the connections go on.
#[track_caller]
fn is_refused(server: &Server, held: &mut Held, binary: &Path, reason: &str) {
    let pid = server.process().pid();
    let errors = server.log().matches(" ERROR ").count();
    let said = order(server, Some(binary));
    said.refused("the host goes on as it is");
    said.refused(reason);
    assert!(said.stderr.contains(&binary.display().to_string()), "{said:?}");
    assert!(server.log().matches(" ERROR ").count() > errors, "the log has it too");
    held.go_on(server);
    assert_eq!(server.ctl_json(["status"])["pid"], pid);
    assert_eq!(children(server.process()), [] as [u32; 0]);
}

#[track_caller]
fn a_good_one_follows(server: &Server, held: &mut Held) {
    let good = copy(server.folder(), "good");
    upgrade(server, &good);
    assert_eq!(program_of(server.process()), good);
    held.go_on(server);
}

#[test]
fn what_is_no_program_is_refused() {
    let server = serve("");
    let mut held = Held::of(&server);
    let at = |name: &str| server.folder().path(name);
    is_refused(&server, &mut held, &at("missing"), "it is not there");
    file(server.folder(), "plain", b"\x7fELF", 0o644);
    is_refused(&server, &mut held, &at("plain"), "cannot be executed");
    is_refused(&server, &mut held, &at("site"), "cannot be executed");
    file(server.folder(), "cut", b"\x7fELF and no more", 0o755);
    is_refused(&server, &mut held, &at("cut"), "cannot be executed");
    file(server.folder(), "text", b"words\n", 0o755);
    is_refused(&server, &mut held, &at("text"), "cannot be executed");
    let was_run = at("was-run");
    file(server.folder(), "touch", format!("echo >'{}'\n", was_run.display()).as_bytes(), 0o755);
    is_refused(&server, &mut held, &at("touch"), "cannot be executed");
    assert!(!was_run.exists(), "no shell was asked what it is");
    a_good_one_follows(&server, &mut held);
}

#[test]
fn what_is_no_medusa_is_refused() {
    let server = serve("");
    let mut held = Held::of(&server);
    is_refused(&server, &mut held, Path::new("/bin/true"), "it is no medusa");
    is_refused(&server, &mut held, Path::new("/bin/false"), "it ended with exit status: 1");
    is_refused(&server, &mut held, Path::new("/bin/ls"), "");
    let name = |name: &str| (server.folder(), name.to_owned());
    for (number, (text, reason)) in [
        (r#"echo '{"version":"9.9.9","format":77}'"#, "reads form 77"),
        ("echo words; exit 3", "it ended with exit status: 3"),
        ("echo the reason is this >&2; exit 3", "the reason is this"),
        ("kill -SEGV $$", "signal: 11"),
        ("kill -KILL $$", "signal: 9"),
        ("exec 1>&-; exit 0", "it is no medusa"),
    ]
    .into_iter()
    .enumerate()
    {
        let (folder, name) = name(&format!("program-{number}"));
        let path = file(folder, &name, format!("#!/bin/sh\n{text}\n").as_bytes(), 0o755);
        is_refused(&server, &mut held, &path, reason);
    }
    a_good_one_follows(&server, &mut held);
}

#[test]
fn what_does_not_answer_in_time_is_refused() {
    let config = format!("[host.limits]\npreflight_ms_max = 300\n\n{CONFIGURATION}");
    let server = folder().start(&config);
    let mut held = Held::of(&server);
    for (name, text) in [
        ("hangs", "while :; do sleep 0.05; done"),
        ("talks", "while :; do echo words; done"),
        // What it has begun has its output, and does not end.
        ("leaves", "sleep 3600 & echo $! > left; exit 0"),
    ] {
        let text = format!("#!/bin/sh\ncd '{}'\n{text}\n", server.folder().path("").display());
        let path = file(server.folder(), name, text.as_bytes(), 0o755);
        is_refused(&server, &mut held, &path, "");
    }
    if let Ok(left) = std::fs::read_to_string(server.folder().path("left"))
        && let Some(pid) = left.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    // With so little time a good one may be late as well.
    server.folder().configure(CONFIGURATION);
    server.ctl(["config", "apply"]).succeeded();
    a_good_one_follows(&server, &mut held);
}

#[test]
fn what_passes_and_cannot_be_executed_after_all_is_refused() {
    let server = serve("");
    let mut held = Held::of(&server);
    let path = server.folder().path("goes");
    for (what, reason) in [("rm -f", "No such file"), ("chmod 644", "Permission denied")] {
        let real = Tree::get().program();
        let text =
            format!("#!/bin/sh\n{what} '{}'\nexec '{}' \"$@\"\n", path.display(), real.display());
        file(server.folder(), "goes", text.as_bytes(), 0o755);
        is_refused(&server, &mut held, &path, reason);
    }
    a_good_one_follows(&server, &mut held);
}

#[test]
fn a_plugin_that_cannot_read_its_state_is_found_out_before() {
    let fickle = |how: &str| {
        format!(
            "[[plugin]]\nname = \"fickle\"\nlibrary = \"fickle\"\nlisten = [\"127.0.0.1:0\"]\n\
             [plugin.config]\nlock = \"lock\"\nfails = \"rehearsal\"\nhow = \"{how}\"\n"
        )
    };
    let server = folder().start(&format!(
        "[host.limits]\npreflight_ms_max = 3000\n\n{CONFIGURATION}{}",
        fickle("refuse")
    ));
    let mut held = Held::of(&server);
    server.ctl(["fickle", "count"]).succeeded();
    for (how, reason) in [
        ("refuse", "import is to fail"),
        ("panic", "fickle"),
        ("block", "it has not answered within"),
        ("segv", "overflowed"),
        ("abort", "signal: 6"),
        ("exit", "exit status: 7"),
    ] {
        server.folder().configure(&format!(
            "[host.limits]\npreflight_ms_max = 3000\n\n{CONFIGURATION}{}",
            fickle(how)
        ));
        server.ctl(["config", "apply"]).succeeded();
        held.go_on(&server);
        let bad = copy(server.folder(), "bad");
        is_refused(&server, &mut held, &bad, reason);
        assert!(is_locked(&server), "the old one has it");
    }
    a_good_one_follows(&server, &mut held);
    assert_eq!(server.ctl(["fickle", "count"]).succeeded(), "2\n");
}

#[test]
fn what_an_instance_does_not_give_up_keeps_the_host_as_it_is() {
    let keeper = |fails: &str| {
        format!(
            "{CONFIGURATION}[[plugin]]\nname = \"keeper\"\nlibrary = \"keeper\"\nlisten = [\"127.0.0.1:0\"]\n\
             [plugin.limits]\nstart_ms_max = 1000\n[plugin.config]\nlock = \"lock\"\nfails = \"{fails}\"\n"
        )
    };
    for fails in ["release", "hang"] {
        let server = folder().start(&keeper(fails));
        let mut held = Held::of(&server);
        for _ in 0..2 {
            let said = order(&server, None);
            said.refused("the host goes on as it is");
            said.refused("keeper");
            held.go_on(&server);
            assert!(server.folder().path("lock").exists(), "{fails}: it was taken back");
            assert_eq!(children(server.process()), [] as [u32; 0]);
        }
        server.ctl(["unload", "keeper"]).succeeded();
        a_good_one_follows(&server, &mut held);
    }
}

#[test]
fn a_script_that_becomes_the_program_will_do() {
    let server = serve("");
    let mut held = Held::of(&server);
    let path = script(server.folder(), "wrapper", "exec \"$real\" \"$@\"");
    upgrade(&server, &path);
    held.go_on(&server);
    a_good_one_follows(&server, &mut held);
}
