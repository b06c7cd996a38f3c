//! HTTP under clients of every temper: whatever they ask for, in whatever pieces, together with whatever else, and however slowly they
//! read, each byte of each answer is right.

mod catalogue;
mod load;
#[path = "../soak_upgrade/random.rs"]
mod random;
mod wire;

use std::time::{Duration, Instant};

use medusa_tests::{Folder, Server, soak_count, wait_until};

use crate::{
    catalogue::{Catalogue, site},
    load::Load,
    random::Random,
    wire::{Manner, Wire},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn serve() -> Server {
    let folder = Folder::new();
    for (name, bytes) in site() {
        folder.write(&format!("site/{name}"), &bytes);
    }
    folder.start(
        "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\nhealth = \"/health\"\n\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n\
         [plugin.config]\nroot = \"site\"\n\n\
         [[plugin]]\nname = \"probe\"\nlibrary = \"http-probe\"\nattach = \"web\"\npath = \"/probe\"\n",
    )
}

#[test]
fn each_request_can_be_split_at_every_byte() {
    let server = serve();
    let catalogue = Catalogue::learn(server.address("web"));
    let random = &mut Random::new(1);
    let next = catalogue.named("GET /1024.bin");
    let mut count = 0;
    for ask in catalogue.asks().iter().filter(|ask| ask.bytes.len() < 400) {
        let mut wire = Wire::connect(server.address("web"), 0).expect("the server can be reached");
        // All places in some runs, some of them in each.
        let step = soak_count(3, 1);
        for cut in (1 + random.below(step)..ask.bytes.len()).step_by(step) {
            let asks: &[_] = if ask.closes { &[ask] } else { &[ask, next] };
            let manner = Manner { cuts: vec![cut], pause_us_max: 100, ..Manner::default() };
            wire.ask(asks, &manner, random)
                .unwrap_or_else(|wrong| panic!("{} cut at {cut}: {wrong}", ask.name));
            if ask.closes {
                wire.end().unwrap_or_else(|wrong| panic!("{} cut at {cut}: {wrong}", ask.name));
                wire = Wire::connect(server.address("web"), 0).expect("the server can be reached");
            }
            count += 1;
        }
    }
    println!("{count} requests of {} kinds were split", catalogue.asks().len());
}

#[test]
fn every_byte_is_right_under_a_mixed_load() {
    let server = serve();
    let before = sockets(&server);
    let catalogue = Catalogue::learn(server.address("web"));
    let started = Instant::now();
    let count = soak_count(8_000, 1_000_000) as u64;
    let load = Load::run(server.address("web"), &catalogue, count);
    println!("{load}, in {:.1?}", started.elapsed());

    wait_until("the server to be rid of all clients", PATIENCE, || sockets(&server) <= before);
}

fn sockets(server: &Server) -> usize {
    let descriptors = server.process().descriptors();
    descriptors.iter().filter(|it| it.target.to_string_lossy().starts_with("socket:")).count()
}
