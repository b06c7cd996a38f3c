//! A failure after each numbered step of the two protocols (ARCHITECTURE.md has both): the old one goes on, with everybody who is
//! connected, and can be upgraded after all.

use std::fs;

use medusa_tests::Server;

use crate::{
    fails_after::{
        Failing,
        Goes::{self, Back, Over},
    },
    next::copy,
};

fn ask(server: &Server, step: &str, kind: &str) {
    server.folder().write("faults", format!("{step} {kind}\n"));
}

fn ask_no_more(server: &Server) {
    fs::remove_file(server.folder().path("faults")).expect("it was asked");
}

/// The host's upgrade fails after `step`, as often as it is tried.
#[track_caller]
fn host(step: &str, kind: &str, goes: Goes) {
    let mut failing = Failing::of("nowhere", "refuse");
    let next = copy(failing.server.folder(), "next");
    ask(&failing.server, step, kind);
    let reason = match (kind, goes) {
        ("error", _) if step != "host.read" => format!("a test wants it to fail after `{step}`"),
        (_, Back) => "did not come to serve".to_owned(),
        (_, Over) => "the new program ended, or stood still, before it served".to_owned(),
    };
    failing.fails(&next, goes, &reason);
    if goes == Back && kind != "hang" {
        failing.fails(&next, goes, &reason);
    }
    ask_no_more(&failing.server);
    failing.a_good_one_follows();
    failing.ends();
}

macro_rules! host {
    ($($name:ident: $step:literal $kind:literal $goes:ident;)*) => {
        $(#[test]
        fn $name() {
            host($step, $kind, $goes);
        })*
    };
}

host! {
    the_host_fails_after_step_1_asked: "host.asked" "error" Back;
    the_host_fails_after_step_2_frozen: "host.frozen" "error" Back;
    the_host_fails_after_step_3_released: "host.released" "error" Back;
    the_host_fails_after_step_4_written: "host.written" "error" Back;
    the_host_fails_after_step_5_forked: "host.forked" "error" Back;
    the_host_crashes_after_step_5_forked: "host.forked" "abort" Over;
    the_host_ends_after_step_5_forked: "host.forked" "exit" Over;
    the_host_fails_after_step_6_passed: "host.passed" "error" Back;
    the_host_crashes_after_step_6_passed: "host.passed" "abort" Over;
    the_host_hangs_after_step_6_passed: "host.passed" "hang" Over;
    the_program_fails_after_step_7_read: "host.read" "error" Back;
    the_program_panics_after_step_7_read: "host.read" "panic" Back;
    the_program_crashes_after_step_7_read: "host.read" "abort" Back;
    the_program_hangs_after_step_7_read: "host.read" "hang" Back;
    the_program_ends_after_step_7_read: "host.read" "exit" Over;
    the_program_fails_after_step_8_begun: "host.begun" "error" Back;
    the_program_panics_after_step_8_begun: "host.begun" "panic" Back;
    the_program_crashes_after_step_8_begun: "host.begun" "abort" Back;
    the_program_hangs_after_step_8_begun: "host.begun" "hang" Back;
    the_program_ends_after_step_8_begun: "host.begun" "exit" Over;
    the_program_fails_after_step_9_restored: "host.restored" "error" Back;
    the_program_panics_after_step_9_restored: "host.restored" "panic" Back;
    the_program_crashes_after_step_9_restored: "host.restored" "abort" Back;
    the_program_hangs_after_step_9_restored: "host.restored" "hang" Back;
    the_program_ends_after_step_9_restored: "host.restored" "exit" Over;
    the_program_fails_after_step_10_complete: "host.complete" "error" Back;
    the_program_panics_after_step_10_complete: "host.complete" "panic" Back;
    the_program_crashes_after_step_10_complete: "host.complete" "abort" Back;
    the_program_hangs_after_step_10_complete: "host.complete" "hang" Back;
    the_program_ends_after_step_10_complete: "host.complete" "exit" Over;
}

/// A plugin's upgrade fails after `step`.
#[track_caller]
fn plugin(step: &str, instances: &[&str]) {
    let mut failing = Failing::of("nowhere", "refuse");
    for name in instances {
        let before = failing.server.plugin(name);
        ask(&failing.server, step, "error");
        for _ in 0..2 {
            failing
                .server
                .ctl(["upgrade", name])
                .refused(&format!("a test wants it to fail after `{step}`"));
            failing.goes_on();
        }
        let now = failing.server.plugin(name);
        assert_eq!(now.len(), 1, "{now:?}");
        assert_eq!(now[0]["generation"], before[0]["generation"], "{now:?}");
        assert_eq!(now[0]["connections"], before[0]["connections"], "{now:?}");
        ask_no_more(&failing.server);
        failing.server.ctl(["upgrade", name]).succeeded();
        failing.goes_on();
    }
}

const ALL: &[&str] = &["web", "site", "ws", "talk", "lines", "wavers"];
/// Has something that only one can hold.
const EXCLUSIVE: &[&str] = &["wavers"];

macro_rules! plugin {
    ($($name:ident: $step:literal $instances:ident;)*) => {
        $(#[test]
        fn $name() {
            plugin($step, $instances);
        })*
    };
}

plugin! {
    a_plugin_fails_after_step_1_staged: "plugin.staged" ALL;
    a_plugin_fails_after_step_2_opened: "plugin.opened" ALL;
    a_plugin_fails_after_step_3_prepared: "plugin.prepared" ALL;
    a_plugin_fails_after_step_4_started: "plugin.started" ALL;
    a_plugin_fails_after_step_5_compared: "plugin.compared" ALL;
    a_plugin_fails_after_step_6_released: "plugin.released" EXCLUSIVE;
    a_plugin_fails_after_step_7_acquired: "plugin.acquired" EXCLUSIVE;
    a_plugin_fails_after_step_8_exported: "plugin.exported" ALL;
    a_plugin_fails_after_step_9_imported: "plugin.imported" ALL;
    a_plugin_fails_after_step_10_sessions: "plugin.sessions" ALL;
}
