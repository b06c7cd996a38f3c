//! Clients that do not wait for upgrades to come and go: a few connections of every kind, at work all the while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, Scope, ScopedJoinHandle},
    time::Duration,
};

use crate::{
    http::{Browser, Place},
    random::Random,
    sockets::Socket,
    talkers::Talker,
};

/// The longest pause between two things that a client does, and within one, in microseconds.
const PAUSE_US_MAX: usize = 4000;

/// What the downloads are among the requests, one in so many.
const LARGE_EVERY: usize = 20;

/// Clients at work. Dropped, they end soon.
pub(crate) struct Restless<'scope> {
    is_over: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope> Restless<'scope> {
    /// Begins.
    pub(crate) fn begin<'env>(
        scope: &'scope Scope<'scope, 'env>,
        browsers: &'env mut [Browser<'_>],
        sockets: &'env mut [Socket],
        talkers: &'env mut [Talker; 2],
    ) -> Restless<'scope> {
        let mut restless =
            Restless { is_over: Arc::default(), exchanges: Arc::default(), threads: Vec::new() };
        restless.start(scope, move |random| {
            for browser in browsers.iter_mut() {
                browser.place = match random.below(LARGE_EVERY) {
                    0 => Place::Queue,
                    1 => Place::Download,
                    other => [Place::Idle, Place::Head, Place::Upload, Place::Pipeline][other % 4],
                };
                browser.begin();
            }
            pause(random);
            browsers.iter_mut().for_each(Browser::finish);
            browsers.len()
        });
        restless.start(scope, move |random| {
            sockets.iter_mut().for_each(Socket::begin);
            pause(random);
            sockets.iter_mut().for_each(Socket::finish);
            sockets.len()
        });
        restless.start(scope, move |random| {
            let [one, other] = talkers;
            converse(one, other, random);
            converse(other, one, random);
            2
        });
        restless
    }

    /// How many exchanges they have had, with nothing amiss.
    ///
    /// # Panics
    ///
    /// When one of them has.
    #[track_caller]
    pub(crate) fn exchanges(&self) -> u64 {
        assert!(!self.threads.iter().any(ScopedJoinHandle::is_finished), "a client has failed");
        self.exchanges.load(SeqCst)
    }

    /// Ends all; each finishes what it has begun.
    pub(crate) fn end(mut self) -> u64 {
        let exchanges = self.exchanges();
        self.is_over.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().expect("nothing is amiss");
        }
        exchanges
    }

    /// Has `exchange` called again and again; it answers how many exchanges that were.
    fn start<'env>(
        &mut self,
        scope: &'scope Scope<'scope, 'env>,
        mut exchange: impl FnMut(&mut Random) -> usize + Send + 'scope,
    ) {
        let (is_over, exchanges) = (self.is_over.clone(), self.exchanges.clone());
        let mut random = Random::new(self.threads.len() as u64 + 1);
        self.threads.push(scope.spawn(move || {
            while !is_over.load(SeqCst) {
                exchanges.fetch_add(exchange(&mut random) as u64, SeqCst);
                pause(&mut random);
            }
        }));
    }
}

impl Drop for Restless<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
    }
}

/// One says something, and the other hears it.
fn converse(speaker: &mut Talker, listener: &mut Talker, random: &mut Random) {
    speaker.begin();
    pause(random);
    speaker.finish();
    listener.hears(speaker.nick(), speaker.said());
}

fn pause(random: &mut Random) {
    thread::sleep(Duration::from_micros(random.below(PAUSE_US_MAX) as u64));
}
