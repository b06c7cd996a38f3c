//! Hundreds of upgrades of a plugin under load, each to another build: nobody who is connected notices.

mod build;
mod client;
mod load;
mod random;
mod site;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use medusa_tests::{Monitor, Server, images, soak_count, still_mapped, wait_until};

use crate::{build::Builds, load::Load, site::Site};

const PATIENCE: Duration = Duration::from_secs(60);

/// Requests that are answered between two upgrades, at least.
const REQUESTS_BETWEEN: u64 = 25;

/// Generations of an instance that may be alive when the next upgrade begins: one serves, one drains.
const GENERATIONS_MAX: usize = 2;

#[test]
fn http_is_upgraded_under_load() {
    upgrade_under_load("web", "http");
}

#[test]
fn http_files_is_upgraded_under_load() {
    upgrade_under_load("site", "http-files");
}

fn upgrade_under_load(name: &str, library: &str) {
    let site = Site::new();
    let server = serve(&site);
    let (process, mut monitor) = (server.process(), Monitor::of(&server));
    let builds = Builds::of(library, server.folder().path("builds"));
    let started = Instant::now();
    let load = Load::begin(server.address("web"), &site, library);
    let mut seen = images(process);
    let mut pauses_us = Vec::new();
    for number in 1..=soak_count(20, 500) as u64 {
        load.wait_for(REQUESTS_BETWEEN, PATIENCE);
        wait_until("the generation before last to go", PATIENCE, || {
            monitor.plugin(name).len() <= GENERATIONS_MAX
        });
        let path = builds.write(number);
        let upgrade = monitor.json(["upgrade", name, "--library", &path]);
        load.upgraded(number);
        assert_eq!(upgrade["result"], "upgraded", "upgrade {number}: {upgrade}");
        pauses_us.push(upgrade["pause_us"].as_u64().expect("a number"));
        seen.extend(images(process));
    }
    load.wait_for(REQUESTS_BETWEEN, PATIENCE);
    let report = load.end();
    wait_until("all old generations to go", PATIENCE, || monitor.plugin(name).len() == 1);
    println!("{name}: {} upgrades in {:.1?}; {report}", pauses_us.len(), started.elapsed());
    println!("{name}: pause {}", quantiles(&mut pauses_us));

    let alive = images(process);
    assert_eq!(alive.len(), 3, "http, http-files and busy, one image each");
    let old: BTreeSet<_> = seen.difference(&alive).copied().collect();
    assert!(old.len() >= pauses_us.len(), "every upgrade is an image of its own");
    assert_eq!(still_mapped(process, &old), [], "the old images are gone");
    let log = server.log();
    let leaks = log.lines().filter(|line| line.contains("leaked_bytes="));
    let leaks: Vec<_> = leaks.filter(|line| !line.contains("leaked_bytes=0 ")).collect();
    assert!(leaks.is_empty(), "old generations leaked: {leaks:#?}");
}

fn serve(site: &Site) -> Server {
    let folder = medusa_tests::Folder::new();
    for file in site.files() {
        folder.write(&format!("site/{}", file.name), &file.bytes);
    }
    folder.start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n\
         [plugin.config]\nroot = \"site\"\n\n\
         [[plugin]]\nname = \"busy\"\nlibrary = \"busy\"\nattach = \"web\"\npath = \"/busy\"\n",
    )
}

fn quantiles(values: &mut [u64]) -> String {
    values.sort_unstable();
    let at = |permille: usize| values[(values.len() - 1) * permille / 1000];
    format!("median {} µs, p99 {} µs, longest {} µs", at(500), at(990), at(1000))
}
