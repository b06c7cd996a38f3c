//! A thousand connections that outlive hundreds of upgrades of all that serves them, whatever they are at: the sockets at the end are
//! those of the start, and what comes through them is right to the byte.

mod build;
mod crowd;
mod http;
#[path = "../soak_upgrade/random.rs"]
mod random;
mod restless;
mod sockets;
mod talkers;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use medusa_tests::{
    Descriptor, Folder, Monitor, Server, images, soak_count, still_mapped, wait_until,
};

use crate::{build::Builds, crowd::Crowd, random::Random, restless::Restless};

const PATIENCE: Duration = Duration::from_secs(60);

/// Instances that are upgraded, in turn, with their libraries.
const UPGRADED: [(&str, &str); 5] = [
    ("web", "http"),
    ("echo", "http-echo"),
    ("talk", "talk"),
    ("site", "http-files"),
    ("lines", "echo-session"),
];

/// Of every instance at any time: one serves, one finishes what it has in flight.
const GENERATIONS_MAX: usize = 2;

/// All instances, one image each.
const INSTANCES: usize = UPGRADED.len() + 1;

/// What is in the files that are served.
pub(crate) struct Files {
    pub(crate) small: Vec<u8>,
    /// More than sockets hold.
    pub(crate) large: Vec<u8>,
}

/// An instance, and what its upgrades came to.
struct Upgraded {
    name: &'static str,
    builds: Builds,
    pauses_us: Vec<u64>,
    handed_over: u64,
    drained: u64,
}

#[test]
fn a_thousand_connections_outlive_upgrades_of_all_that_serves_them() {
    let mut random = Random::new(7);
    let files = Files { small: random.bytes(1000), large: random.bytes(6 * 1024 * 1024) };
    let server = serve(&files);
    let mut monitor = Monitor::of(&server);
    let mut instances = UPGRADED.map(|(name, library)| {
        let builds = Builds::of(library, server.folder().path(format!("builds-{name}")));
        Upgraded { name, builds, pauses_us: Vec::new(), handed_over: 0, drained: 0 }
    });
    let (mut crowd, mut others) = (Crowd::gather(&server, &files), crowd::others(&server, &files));
    crowd.meet(&mut others.talkers);
    let before = ids(connections(&mut monitor));
    assert_eq!(before.len(), crowd::CONNECTIONS);
    let sockets_before = sockets_of(&server);
    let mut seen = images(server.process());
    let started = Instant::now();

    let rounds = soak_count(3, 200 / UPGRADED.len()) as u64;
    let exchanges = thread::scope(|scope| {
        let crowd::Others { browsers, sockets, talkers } = &mut others;
        let restless = Restless::begin(scope, browsers, sockets, talkers);
        for round in 1..=rounds {
            crowd.begin(|_| true);
            for (at, instance) in instances.iter_mut().enumerate() {
                wait_until("all that was sent to be read", PATIENCE, || {
                    crowd.is_read(&connections(&mut monitor))
                });
                let busy = if instance.name == "web" { crowd.busy() } else { 0 };
                instance.upgrade(round, &mut monitor, crowd.of(instance.name), busy);
                seen.extend(images(server.process()));
                restless.exchanges();
                assert_eq!(before, ids(connections(&mut monitor)), "the connections of the start");
                // Some stay where they are while everything is upgraded beneath them.
                let is_last = at + 1 == UPGRADED.len();
                crowd.finish(round as usize * UPGRADED.len() + at, |it| is_last || it % 4 > 0);
                if !is_last {
                    crowd.begin(|it| it % 4 > 0);
                }
            }
            for (name, _) in UPGRADED {
                wait_until("the old generations to go", PATIENCE, || {
                    restless.exchanges();
                    monitor.plugin(name).len() == 1
                });
                assert_eq!(monitor.plugin(name)[0]["generation"], round + 1, "{name}");
            }
        }
        restless.end()
    });
    crowd.begin(|_| true);
    crowd.finish(0, |_| true);
    crowd.part(&mut others.talkers);
    assert!(crowd.have_seen(rounds), "the last builds serve everybody");
    let took = started.elapsed();
    assert_eq!(before, ids(connections(&mut monitor)), "the connections of the start");
    assert_eq!(sockets_of(&server), sockets_before, "the sockets of the start");

    let upgrades = rounds as usize * UPGRADED.len();
    println!(
        "{} connections through {upgrades} upgrades in {took:.1?}: {} exchanges between them, {exchanges} meanwhile, all right",
        before.len(),
        crowd.exchanges()
    );
    instances.iter_mut().for_each(Upgraded::print);

    let alive = images(server.process());
    assert_eq!(alive.len(), INSTANCES, "one image each");
    let old: BTreeSet<_> = seen.difference(&alive).copied().collect();
    assert!(old.len() >= upgrades, "every upgrade is an image of its own");
    assert_eq!(still_mapped(server.process(), &old), [], "the old images are gone");
    let log = server.log();
    let is_amiss = |line: &&str| {
        let leaks = line.contains("leaked_bytes=") && !line.contains("leaked_bytes=0 ");
        // A slow machine has the watchdog speak.
        let warns = line.contains(" WARN ") && !line.contains("watchdog");
        leaks || warns || line.contains(" ERROR ")
    };
    let amiss: Vec<_> = log.lines().filter(is_amiss).collect();
    assert!(amiss.is_empty(), "{amiss:#?}");
}

fn serve(files: &Files) -> Server {
    // Deadlines that no slow machine meets: clients wait on purpose.
    let web = "head_timeout = \"5 min\"\nbody_timeout = \"5 min\"\nsend_timeout = \"5 min\"\nidle_timeout = \"5 min\"\n";
    Folder::new().with("site/small", &files.small).with("site/large", &files.large).start(&format!(
        "[host.limits]\ndrain_ms_max = \"5 min\"\n\n\
         [[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n[plugin.config]\n{web}\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\n[plugin.config]\nroot = \"site\"\n\n\
         [[plugin]]\nname = \"busy\"\nlibrary = \"busy\"\nattach = \"web\"\npath = \"/busy\"\n\n\
         [[plugin]]\nname = \"echo\"\nlibrary = \"http-echo\"\nattach = \"web\"\npath = \"/echo\"\n\n\
         [[plugin]]\nname = \"talk\"\nlibrary = \"talk\"\nlisten = [\"127.0.0.1:0\"]\n\n\
         [[plugin]]\nname = \"lines\"\nlibrary = \"echo-session\"\nlisten = [\"127.0.0.1:0\"]\n"
    ))
}

/// A connection as the server lists it.
#[derive(Debug)]
pub(crate) struct Listed {
    id: u64,
    received: u64,
}

/// All of them.
fn connections(monitor: &mut Monitor) -> BTreeMap<wire::Place, Listed> {
    let all = monitor.json(["connections"]);
    let listed = all.as_array().into_iter().flatten().map(|it| {
        let number = |field: &str| it[field].as_u64().expect("a number");
        let text = |field: &str| it[field].as_str().expect("a text").to_owned();
        (
            (text("instance"), text("peer")),
            Listed { id: number("id"), received: number("received_bytes") },
        )
    });
    listed.collect()
}

/// The sockets that it has open.
fn sockets_of(server: &Server) -> Vec<Descriptor> {
    let mut all = server.process().descriptors();
    all.retain(|it| it.target.to_string_lossy().starts_with("socket:"));
    all
}

/// Their numbers.
fn ids(connections: BTreeMap<wire::Place, Listed>) -> BTreeMap<wire::Place, u64> {
    connections.into_iter().map(|(place, it)| (place, it.id)).collect()
}

impl Upgraded {
    /// Upgrades it to the build of this round. At least `all` connections are its own then, of which `busy` are in a request.
    fn upgrade(&mut self, round: u64, monitor: &mut Monitor, all: usize, busy: usize) {
        let name = self.name;
        assert!(monitor.plugin(name).len() < GENERATIONS_MAX, "{name} in round {round}");
        let path = self.builds.write(round, 1 + (round % 2) as u32);
        let upgrade = monitor.json(["upgrade", name, "--library", &path]);
        assert_eq!(upgrade["result"], "upgraded", "{name} in round {round}: {upgrade}");
        let number = |field: &str| upgrade[field].as_u64().expect("a number");
        let (handed_over, drained) = (number("handed_over"), number("drained"));
        assert!(handed_over + drained >= all as u64, "{name} of {all}: {upgrade}");
        assert!(drained >= busy as u64, "{name} with {busy} at work: {upgrade}");
        self.pauses_us.push(number("pause_us"));
        self.handed_over += handed_over;
        self.drained += drained;
    }

    fn print(&mut self) {
        let Upgraded { name, pauses_us, handed_over, drained, .. } = self;
        pauses_us.sort_unstable();
        let count = pauses_us.len();
        let at = |permille: usize| pauses_us[(count - 1) * permille / 1000];
        println!(
            "{name}: {count} upgrades, {handed_over} handed over in the switch, {drained} in flight; pause median {} µs, p99 {} µs, longest {} µs",
            at(500),
            at(990),
            at(1000)
        );
    }
}
