//! The load: clients of every temper, each a thread, until so many requests were answered.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use crate::{
    catalogue::{Ask, Catalogue},
    random::Random,
    wire::{Manner, Wire},
};

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
enum Temper {
    /// One request after the other.
    Steady,
    /// Up to hundreds at once, of all kinds.
    Pipelining,
    /// As many at once, all plain.
    Plain,
    /// Sends in pieces.
    Splitting,
    /// Reads in sips, with a small buffer.
    Slow,
    /// Ends its half behind its last request.
    Ending,
    /// Goes in the middle of an answer.
    Leaving,
}

const CLIENTS: [Temper; 8] = [
    Temper::Steady,
    Temper::Pipelining,
    Temper::Plain,
    Temper::Splitting,
    Temper::Splitting,
    Temper::Slow,
    Temper::Ending,
    Temper::Leaving,
];

/// What the load came to, with nothing wrong.
#[derive(Default)]
pub(crate) struct Load {
    answers: AtomicU64,
    bytes: AtomicU64,
    connections: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Runs until so many requests were answered.
    ///
    /// # Panics
    /// When an answer was wrong, with what helps to ask for the same again.
    pub(crate) fn run(address: SocketAddr, catalogue: &Catalogue, count: u64) -> Load {
        let load = Load::default();
        thread::scope(|scope| {
            for (number, temper) in CLIENTS.into_iter().enumerate() {
                let load = &load;
                scope.spawn(move || {
                    let seed = number as u64 + 1;
                    if let Err(failure) = load.client(temper, seed, address, catalogue, count) {
                        let failure =
                            format!("the client that is {temper:?}, of seed {seed}: {failure}");
                        load.failures.lock().expect("nobody panics with it").push(failure);
                        // The others end.
                        load.answers.fetch_add(count, SeqCst);
                    }
                });
            }
        });
        let failures = load.failures.lock().expect("nobody panics with it");
        assert!(failures.is_empty(), "{failures:#?}");
        drop(failures);
        load
    }

    fn client(
        &self,
        temper: Temper,
        seed: u64,
        address: SocketAddr,
        catalogue: &Catalogue,
        count: u64,
    ) -> Result<(), String> {
        let random = &mut Random::new(seed);
        let mut kept = None;
        let mut round = 0;
        while self.answers.load(SeqCst) < count {
            round += 1;
            let mut wire = match kept.take() {
                Some(wire) => wire,
                None => {
                    self.connections.fetch_add(1, SeqCst);
                    let buffer_bytes = if matches!(temper, Temper::Slow | Temper::Ending) {
                        128 * 1024
                    } else {
                        0
                    };
                    Wire::connect(address, buffer_bytes).map_err(|error| error.to_string())?
                }
            };
            let asks = asks(temper, catalogue, random);
            let manner = manner(temper, &asks, random);
            let names =
                || asks.iter().map(|ask| ask.name.as_str()).take(20).collect::<Vec<_>>().join("; ");
            let failed = |wrong: String| {
                format!("round {round}: {wrong}; asked for {} ({}…)", asks.len(), names())
            };
            let bytes = wire.ask(&asks, &manner, random).map_err(failed)?;
            self.answers.fetch_add(asks.len() as u64, SeqCst);
            self.bytes.fetch_add(bytes, SeqCst);
            if manner.leaves_after.is_some() {
                if random.below(2) == 0 {
                    wire.reset();
                }
                continue;
            }
            if manner.ends_half || asks.iter().any(|ask| ask.closes) {
                wire.end().map_err(failed)?;
                continue;
            }
            kept = Some(wire).filter(|_| random.below(50) > 0);
        }
        Ok(())
    }
}

/// What a client of this temper asks for at once.
fn asks<'a>(temper: Temper, catalogue: &'a Catalogue, random: &mut Random) -> Vec<&'a Ask> {
    let mut several = |count_max: usize, one: &dyn Fn(&mut Random) -> &'a Ask| -> Vec<&'a Ask> {
        let count = 1 + random.below(count_max);
        (0..count).map(|_| one(random)).collect()
    };
    let small = |random: &mut Random| catalogue.small(random);
    let any = |random: &mut Random| catalogue.any(random);
    let plain = |random: &mut Random| catalogue.plain(random);
    let mixed = |random: &mut Random| match random.below(4) {
        0 => catalogue.large(random),
        1 => catalogue.small(random),
        _ => catalogue.plain(random),
    };
    let mut asks = match temper {
        Temper::Steady => several(1, &any),
        Temper::Pipelining => several(40, &small),
        Temper::Plain => several(200, &plain),
        Temper::Splitting => several(4, &small),
        Temper::Slow | Temper::Ending => several(4, &mixed),
        Temper::Leaving => several(6, &any),
    };
    match (temper, random.below(8)) {
        // The end has been seen when there is still much to be sent.
        (Temper::Ending, 0..2) => asks.push(catalogue.huge()),
        (Temper::Ending, _) => asks.push(catalogue.large(random)),
        (Temper::Slow, 0) => asks.push(catalogue.huge_and_last()),
        (_, 0) => asks.push(catalogue.last(random)),
        _ => {}
    }
    asks
}

fn manner(temper: Temper, asks: &[&Ask], random: &mut Random) -> Manner {
    let length: usize = asks.iter().map(|ask| ask.bytes.len()).sum();
    let mut cuts: Vec<usize> = match temper {
        Temper::Splitting => (0..1 + random.below(6)).map(|_| 1 + random.below(length)).collect(),
        Temper::Pipelining if random.below(2) == 0 => vec![1 + random.below(length)],
        _ => Vec::new(),
    };
    cuts.sort_unstable();
    let is_slow = matches!(temper, Temper::Slow | Temper::Ending);
    let expected: usize = asks.iter().map(|ask| 200 + ask.expected.body.len()).sum();
    Manner {
        cuts,
        pause_us_max: 2_000,
        sip_bytes_max: is_slow.then(|| 4_000 + random.below(60_000)),
        ends_half: matches!(temper, Temper::Ending),
        leaves_after: matches!(temper, Temper::Leaving).then(|| random.below(expected)),
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [answers, bytes, connections] =
            [&self.answers, &self.bytes, &self.connections].map(|counter| counter.load(SeqCst));
        let mib = bytes / (1024 * 1024);
        write!(f, "{answers} answers with {mib} MiB on {connections} connections, all right")
    }
}
