//! What a plugin does each period is done once, by whichever program has its turn.

use std::fs;

use medusa_tests::{Folder, Server, wait_until};

use crate::{
    PATIENCE,
    next::{again, copy, no_children, order},
};

/// The last number; every number before is there once and in its place.
#[track_caller]
fn last(server: &Server) -> usize {
    let text = fs::read_to_string(server.folder().path("ticks")).unwrap_or_default();
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().expect("a number")).collect();
    for (at, number) in numbers.iter().enumerate() {
        assert_eq!(*number, at + 1, "doubled or lost, of {}", numbers.len());
    }
    numbers.len()
}

#[track_caller]
fn ticks_on(server: &Server) {
    let before = last(server);
    wait_until("it to tick", PATIENCE, || last(server) > before + 10);
}

fn ticking(more: &str) -> String {
    format!(
        "[[plugin]]\nname = \"ticking\"\nlibrary = \"fickle\"\nlisten = [\"127.0.0.1:0\"]\n\
         [plugin.config]\nlock = \"lock\"\nticks = \"ticks\"\n{more}"
    )
}

#[test]
fn no_tick_is_lost_or_done_twice_over_upgrades() {
    let server = Server::start(&ticking(""));
    for _ in 0..20 {
        ticks_on(&server);
        again(&server);
    }
    ticks_on(&server);
    no_children(server.process());
    last(&server);
}

#[test]
fn nor_where_it_starts_slowly() {
    let server = Server::start(&ticking("start = \"50 ms\"\n"));
    for _ in 0..5 {
        ticks_on(&server);
        again(&server);
    }
    ticks_on(&server);
}

#[test]
fn nor_over_programs_that_fail() {
    let server = Folder::new().start(&format!(
        "{}\n[[plugin]]\nname = \"zfails\"\nlibrary = \"fickle\"\nlisten = [\"127.0.0.1:0\"]\n[plugin.config]\n\
         lock = \"other\"\nstart = \"50 ms\"\nfails = \"start\"\n",
        ticking("")
    ));
    let bad = copy(server.folder(), "bad");
    for _ in 0..5 {
        ticks_on(&server);
        order(&server, Some(&bad)).refused("start is to fail");
    }
    ticks_on(&server);
    again(&server);
    ticks_on(&server);
}

#[test]
fn nor_over_reloads_where_it_starts_slowly() {
    let server = Server::start(&ticking("start = \"50 ms\"\n"));
    for _ in 0..5 {
        ticks_on(&server);
        server.ctl(["reload", "ticking"]).succeeded();
    }
    ticks_on(&server);
}
