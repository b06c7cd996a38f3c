//! The crowd: all who are at something when an upgrade comes, and go on once it is over.

use std::collections::BTreeMap;

use medusa_tests::Server;

use crate::{
    Files, Listed,
    http::{Browser, Place},
    sockets::{Echo, Socket},
    talkers::Talker,
    wire,
};

/// How many connections there are.
pub(crate) const CONNECTIONS: usize = BROWSERS + SOCKETS + ECHOES + TALKERS + OTHERS;

const BROWSERS: usize = 550;
const SOCKETS: usize = 200;
const ECHOES: usize = 110;
const TALKERS: usize = 120;
/// 10 browsers, 8 sockets and 2 talkers that do not wait for upgrades.
const OTHERS: usize = 20;

/// Of so many talkers one finishes its line after an upgrade; each has half a line typed.
const SPEAKS_EVERY: usize = 10;

/// What a browser is at, by its number.
fn place(number: usize) -> Place {
    match number % 22 {
        0 => Place::Download,
        1 => Place::Queue,
        2..5 => Place::Upload,
        5..9 => Place::Head,
        9..12 => Place::Pipeline,
        _ => Place::Idle,
    }
}

pub(crate) struct Crowd<'a> {
    browsers: Vec<Browser<'a>>,
    sockets: Vec<Socket>,
    echoes: Vec<Echo>,
    talkers: Vec<Talker>,
    exchanges: u64,
}

/// Those who do not wait.
pub(crate) struct Others<'a> {
    pub(crate) browsers: Vec<Browser<'a>>,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) talkers: [Talker; 2],
}

/// Connects those who do not wait.
pub(crate) fn others<'a>(server: &Server, files: &'a Files) -> Others<'a> {
    let (web, talk) = (server.address("web"), server.address("talk"));
    let seed = |it: usize| (CONNECTIONS + it) as u64;
    Others {
        browsers: (0..10).map(|it| Browser::connect(web, Place::Idle, files, seed(it))).collect(),
        sockets: (10..18).map(|it| Socket::connect(web, seed(it))).collect(),
        talkers: ["restless", "sleepless"].map(|nick| Talker::enter(talk, nick)),
    }
}

impl<'a> Crowd<'a> {
    /// Connects all.
    pub(crate) fn gather(server: &Server, files: &'a Files) -> Crowd<'a> {
        let [web, lines, talk] = ["web", "lines", "talk"].map(|name| server.address(name));
        let browser = |it| Browser::connect(web, place(it), files, it as u64 + 1);
        Crowd {
            browsers: (0..BROWSERS).map(browser).collect(),
            sockets: (0..SOCKETS).map(|it| Socket::connect(web, it as u64 + 1)).collect(),
            echoes: (0..ECHOES).map(|_| Echo::connect(lines)).collect(),
            talkers: (0..TALKERS).map(|it| Talker::enter(talk, &format!("t{it}"))).collect(),
            exchanges: 0,
        }
    }

    /// All talkers have heard those who came after them, and begin to type.
    pub(crate) fn meet(&mut self, others: &mut [Talker; 2]) {
        let mut all: Vec<_> = self.talkers.iter_mut().chain(others).collect();
        let nicks: Vec<_> = all.iter().map(|it| it.nick().to_owned()).collect();
        for (at, talker) in all.iter_mut().enumerate() {
            nicks[at + 1..].iter().for_each(|nick| talker.hears_come(nick));
        }
        self.talkers.iter_mut().for_each(Talker::begin);
    }

    /// Those of these numbers begin something.
    pub(crate) fn begin(&mut self, who: impl Fn(usize) -> bool) {
        chosen(&mut self.browsers, &who).for_each(Browser::begin);
        chosen(&mut self.sockets, &who).for_each(Socket::begin);
        chosen(&mut self.echoes, &who).for_each(Echo::begin);
    }

    /// Those of these numbers finish it; at each step other talkers speak.
    #[track_caller]
    pub(crate) fn finish(&mut self, step: usize, who: impl Fn(usize) -> bool) {
        let before = self.exchanges;
        for browser in chosen(&mut self.browsers, &who) {
            browser.finish();
            self.exchanges += 1;
        }
        for socket in chosen(&mut self.sockets, &who) {
            socket.finish();
            self.exchanges += 1;
        }
        for echo in chosen(&mut self.echoes, &who) {
            echo.finish();
            self.exchanges += 1;
        }
        assert!(self.exchanges > before, "somebody does something");
        let speaks = |it| it % SPEAKS_EVERY == step % SPEAKS_EVERY;
        for talker in chosen(&mut self.talkers, speaks) {
            talker.finish();
            self.exchanges += 1;
        }
        self.listen();
        chosen(&mut self.talkers, speaks).for_each(Talker::begin);
    }

    /// Everybody has heard all that was said, by the others too, and nothing besides.
    #[track_caller]
    pub(crate) fn part(&mut self, others: &mut [Talker; 2]) {
        self.listen();
        let said: Vec<_> = others.iter().map(|it| (it.nick().to_owned(), it.said())).collect();
        for talker in &mut self.talkers {
            said.iter().for_each(|(nick, number)| talker.hears(nick, *number));
            assert!(talker.has_heard_all(), "{} hears what nobody has said", talker.nick());
        }
        for other in others {
            for talker in &self.talkers {
                other.hears(talker.nick(), talker.said());
            }
            assert!(other.has_heard_all(), "{} hears what nobody has said", other.nick());
        }
    }

    /// Whether the server has read all that was sent, but for what is behind a request that it is at.
    pub(crate) fn is_read(&self, connections: &BTreeMap<wire::Place, Listed>) -> bool {
        let browsers = self.browsers.iter().filter(|it| !it.is_queueing());
        let wires = browsers.map(|it| &it.wire).chain(self.echoes.iter().map(|it| &it.wire));
        let wires = wires.chain(self.talkers.iter().map(|it| &it.wire));
        let mut sent = wires.map(|it| (it.place(), it.sent()));
        let is_read = |(place, sent): (wire::Place, u64)| {
            connections.get(&place).is_some_and(|it| it.received == sent)
        };
        let mut sockets = self.sockets.iter().map(|it| (it.place().clone(), it.sent()));
        sent.all(is_read) && sockets.all(is_read)
    }

    /// How many are an instance's own.
    pub(crate) fn of(&self, instance: &str) -> usize {
        match instance {
            "web" => self.browsers.len(),
            "echo" => self.sockets.len(),
            "talk" => self.talkers.len(),
            "lines" => self.echoes.len(),
            _ => 0,
        }
    }

    /// How many browsers have a request in flight.
    pub(crate) fn busy(&self) -> usize {
        let is_busy = |place| matches!(place, Place::Upload | Place::Download | Place::Queue);
        self.browsers.iter().filter(|it| is_busy(it.place)).count()
    }

    /// How many there were.
    pub(crate) fn exchanges(&self) -> u64 {
        self.exchanges
    }

    /// Whether all browsers were served by this build of `http` and of `http-files`, and by none that is newer.
    pub(crate) fn have_seen(&self, build: u64) -> bool {
        self.browsers.iter().all(|browser| {
            let [http, files] = browser.wire.seen();
            // Who uploads sees no file.
            http == build && (files == build || browser.place == Place::Upload)
        })
    }

    #[track_caller]
    fn listen(&mut self) {
        let said: Vec<_> =
            self.talkers.iter().map(|it| (it.nick().to_owned(), it.said())).collect();
        for talker in &mut self.talkers {
            for (nick, number) in &said {
                if nick != talker.nick() {
                    talker.hears(nick, *number);
                }
            }
        }
    }
}

fn chosen<'a, T>(
    all: &'a mut [T],
    who: impl Fn(usize) -> bool + 'a,
) -> impl Iterator<Item = &'a mut T> {
    all.iter_mut().enumerate().filter(move |(at, _)| who(*at)).map(|(_, it)| it)
}
