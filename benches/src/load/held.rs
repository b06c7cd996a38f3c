//! Many connections that are kept and rarely ask: what they cost when idle, when each asks once, and when others ask.

use std::{thread, time::Duration};

use crate::{
    Result, interrupt,
    load::{
        exchange::{self, Connection},
        paced,
    },
    machine,
    options::Options,
    servers::{Kind, Server},
    site::Site,
    trial::{Figure, Figures},
};

/// How many ask at a time.
const GROUP: usize = 64;

/// How long nobody asks for anything, so that the server has done what it does with idle connections (medusa lets them rest
/// after a quarter of a second).
const PAUSE: Duration = Duration::from_secs(1);

/// Requests that a server answers before its memory counts: what it needs for anybody at all is no matter of idle ones.
const WARM_UP: usize = 20;

/// Starts a server, holds connections to it, and measures the three.
pub(crate) fn measure(kind: Kind, options: &Options, site: &Site) -> Result<Figures> {
    machine::can_hold(options.held)?;
    let server = Server::start_ready(kind, site)?;
    let request = exchange::request(kind.sign_of_life(), &[]);
    {
        let mut few = open(&server, GROUP, &request)?;
        (0..WARM_UP).try_for_each(|_| ask_each(&mut few, &request))?;
    }
    thread::sleep(PAUSE);
    let before = server.memory_bytes()?;
    let mut idle = open(&server, options.held, &request)?;
    thread::sleep(PAUSE);
    let after = server.memory_bytes()?;

    // What the server does with those that have become idle again belongs to the request, so the pause does too.
    let spent_before = server.cpu_us()?;
    for _ in 0..options.seconds {
        ask_each(&mut idle, &request)?;
        thread::sleep(PAUSE);
    }
    let spent = server.cpu_us()? - spent_before;

    let p99 = paced::p99(&server, &request, options.length())?;
    Ok(vec![
        (Figure::ConnectionBytes, (after - before) / options.held as f64),
        (Figure::TurnUs, spent / (options.seconds * options.held as u64) as f64),
        (Figure::P99Us, p99.all_us),
        (Figure::QuartersP99Us, p99.quarters_us),
    ])
}

/// Opens so many connections, a group at a time, and asks once on each.
fn open(server: &Server, count: usize, request: &[u8]) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let opened = connections.len();
        for _ in opened..count.min(opened + GROUP) {
            connections.push(exchange::connect(server.address)?);
        }
        ask_each(&mut connections[opened..], request)?;
    }
    Ok(connections)
}

/// Asks once on each connection, a group at a time.
fn ask_each(connections: &mut [Connection], request: &[u8]) -> Result<()> {
    for group in connections.chunks_mut(GROUP) {
        group.iter_mut().try_for_each(|connection| connection.send(request))?;
        for connection in group {
            match connection.answer()? {
                Some(answer) if answer.status == 200 => {}
                other => return Err(format!("a wrong answer: {other:?}")),
            }
        }
    }
    interrupt::check()
}
