//! The pause by the number of connections that are idle, as the host tells it and as another client sees it.

use medusa_tests::{Client, Monitor, soak_count, wait_until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Files, PATIENCE, load::Load, no_children, quantiles, serve, upgrade};

#[test]
fn the_pause_by_the_number_of_idle_connections() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("it is allowed");
    for count in [100, 1000, soak_count(1000, 10_000)] {
        let files = Files::new();
        let server = serve(&files, "");
        let mut monitor = Monitor::of(&server);
        let mut clients: Vec<_> =
            (0..count).map(|_| Client::connect(server.address("web"))).collect();
        let ask = |clients: &mut Vec<Client>| {
            for client in clients {
                let response = client.get("/small");
                assert!(response.body == files.small && response.header("connection").is_none());
            }
        };
        ask(&mut clients);
        wait_until("all to rest", PATIENCE, || {
            monitor
                .json(["connections", "--state", "parked", "--limit", "100000"])
                .as_array()
                .is_some_and(|all| all.len() == count)
        });
        let load = Load::of_one(server.address("web"), &files.small);
        let (mut pauses, mut slowest) = (Vec::new(), Vec::new());
        for _ in 0..soak_count(2, 20) {
            load.wait_for_more();
            load.forget_slowest();
            pauses.push(upgrade(&mut monitor, &server));
            load.wait_for_more();
            slowest.push(load.slowest_us());
        }
        load.end();
        ask(&mut clients);
        println!("{count} idle connections: pause {}", quantiles(&mut pauses));
        println!("  slowest request of another client: {}", quantiles(&mut slowest));
        no_children(server.process());
        drop(clients);
    }
}
