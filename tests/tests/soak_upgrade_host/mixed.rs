//! Changes of every kind, one after the other: of the host, of plugins, of the configuration; what the process has stays level.

use medusa_tests::{Levels, Monitor, Server, soak_count, wait_until};

use crate::{
    Files, PATIENCE, build::Builds, configuration, crowd::Crowd, no_children, nothing_is_amiss,
    random::Random, serve, upgrade,
};

/// An instance that comes and goes with the configuration.
const MORE: &str =
    "[[plugin]]\nname = \"more\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n";

/// Without a way back, of which a descriptor would be open for a while.
const SHORT: &str = "[plugin.limits]\nprobation_ms = 0\n";

/// Resident memory may grow by so much after the first tenth.
const RSS_GROWTH_MAX: u64 = 8 * 1024 * 1024;

#[test]
fn changes_of_every_kind_leave_the_process_level() {
    let files = Files::new();
    let server = serve(&files, SHORT);
    let mut monitor = Monitor::of(&server);
    let mut crowd = Crowd::gather(&server, &files, 100);
    let plugins = [("web", "http"), ("lines", "echo-session"), ("talk", "talk")];
    let builds = plugins.map(|(name, library)| {
        (name, Builds::of(library, server.folder().path(format!("builds-{name}"))))
    });
    let (mut random, mut counts) = (Random::new(11), [0; 4]);
    let (mut before, count) = (None, soak_count(40, 3000));
    for number in 0..count {
        let kind = random.below(4);
        counts[kind] += 1;
        match kind {
            0 => drop(upgrade(&mut monitor, &server)),
            1 => {
                let (name, builds) = &builds[random.below(builds.len())];
                let path = builds.write(number as u64 + 1, 1);
                let outcome = monitor.json(["upgrade", name, "--library", &path]);
                assert_eq!(outcome["result"], "upgraded", "{number}: {outcome}");
            }
            2 => {
                let more = if random.below(2) == 0 { "" } else { MORE };
                server.folder().configure(&configuration(&format!("{SHORT}{more}")));
                monitor.ask(["config", "apply"]).succeeded();
            }
            _ => {
                // Not the web, whose clients would see an older build than before.
                let name = ["site", "echo", "talk", "lines"][random.below(4)];
                monitor.ask(["reload", name]).succeeded();
            }
        }
        crowd.go_on(number);
        if number == count / 10 {
            before = Some(levels(&server, &mut monitor));
        }
    }
    let (before, now) = (before.expect("there was a first tenth"), levels(&server, &mut monitor));
    let [hosts, plugins, configurations, reloads] = counts;
    println!(
        "{hosts} upgrades of the host, {plugins} of plugins, {configurations} configurations, {reloads} reloads; {} exchanges, all right; {before:?}, then {now:?}",
        crowd.exchanges()
    );
    assert_eq!(now.descriptors, before.descriptors);
    assert!(now.threads <= before.threads + 4, "the pool has a few at most: {before:?} {now:?}");
    assert!(now.mappings <= before.mappings + 40, "{before:?} {now:?}");
    assert!(now.rss_bytes <= before.rss_bytes + RSS_GROWTH_MAX, "{before:?} {now:?}");
    nothing_is_amiss(&server);
}

/// What it has of what it could leak, in the shape of the start.
#[track_caller]
fn levels(server: &Server, monitor: &mut Monitor) -> Levels {
    server.folder().configure(&configuration(SHORT));
    monitor.ask(["config", "apply"]).succeeded();
    wait_until("the old generations to go", PATIENCE, || {
        monitor.json(["plugins"]).as_array().is_some_and(|all| all.len() == 5)
    });
    // It begins anew, as the other time.
    upgrade(monitor, server);
    no_children(server.process());
    Levels::of(server.process())
}
