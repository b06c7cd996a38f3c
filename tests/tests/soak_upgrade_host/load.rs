//! Load: clients that are at work all the while, one after the other on connections that stay, and on new ones.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use medusa_tests::{Client, wait_until};

use crate::PATIENCE;

/// Clients that keep their connections.
const STAYING: usize = 3;

/// Requests of each between two upgrades, at least.
const BETWEEN: u64 = 5;

/// After so many requests, so that the machine is not theirs alone.
const PAUSE: std::time::Duration = std::time::Duration::from_micros(300);

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    /// Requests of each client.
    counts: Vec<AtomicU64>,
    slowest_us: AtomicU64,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// One client, on a connection that stays.
    pub(crate) fn of_one(web: SocketAddr, small: &[u8]) -> Load {
        let mut load = Load::none(1);
        let (mut client, small) = (Client::connect(web), small.to_vec());
        load.start(move || get(&mut client, &small));
        load
    }

    fn none(clients: usize) -> Load {
        let counts = (0..clients).map(|_| AtomicU64::new(0)).collect();
        let shared = Arc::new(Shared { counts, ..Shared::default() });
        Load { shared, threads: Vec::new() }
    }

    pub(crate) fn begin(web: SocketAddr, lines: SocketAddr, small: &[u8]) -> Load {
        let mut load = Load::none(STAYING + 2);
        for _ in 0..STAYING {
            let (mut client, small) = (Client::connect(web), small.to_vec());
            load.start(move || get(&mut client, &small));
        }
        let small = small.to_vec();
        load.start(move || get(&mut Client::connect(web), &small));
        load.start(move || {
            let answer = medusa_tests::exchange(lines, "a line that is new\n");
            assert_eq!(answer, b"a line that is new\n");
        });
        load
    }

    fn start(&mut self, mut exchange: impl FnMut() + Send + 'static) {
        let (shared, at) = (self.shared.clone(), self.threads.len());
        self.threads.push(thread::spawn(move || {
            while !shared.is_over.load(SeqCst) {
                let started = Instant::now();
                exchange();
                let us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                shared.slowest_us.fetch_max(us, SeqCst);
                shared.counts[at].fetch_add(1, SeqCst);
                thread::sleep(PAUSE);
            }
        }));
    }

    /// Waits until each client has had more requests answered.
    #[track_caller]
    pub(crate) fn wait_for_more(&self) {
        let counts = || self.shared.counts.iter().map(|it| it.load(SeqCst));
        let before: Vec<_> = counts().collect();
        wait_until("requests to be answered", PATIENCE, || {
            assert!(!self.threads.iter().any(JoinHandle::is_finished), "a client has failed");
            counts().zip(&before).all(|(now, before)| now >= before + BETWEEN)
        });
    }

    pub(crate) fn forget_slowest(&self) {
        self.shared.slowest_us.store(0, SeqCst);
    }

    /// How long the slowest request has taken since.
    pub(crate) fn slowest_us(&self) -> u64 {
        self.shared.slowest_us.load(SeqCst)
    }

    /// Ends all, and says what they did.
    #[track_caller]
    pub(crate) fn end(self) -> String {
        self.shared.is_over.store(true, SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("nothing is amiss"));
        let count = |it: &AtomicU64| it.load(SeqCst);
        let (staying, new) = self.shared.counts.split_at(STAYING.min(self.shared.counts.len()));
        let sum = |all: &[AtomicU64]| all.iter().map(count).sum::<u64>();
        format!("{} requests meanwhile and {} new connections", sum(staying), sum(new))
    }
}

#[track_caller]
fn get(client: &mut Client, small: &[u8]) {
    let response = client.get("/small");
    assert!(response.status == 200 && response.body == small, "status {}", response.status);
    assert_eq!(response.header("connection"), None, "{:?}", response.headers);
}
