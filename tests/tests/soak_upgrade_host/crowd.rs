//! The crowd: connections that are between two requests, in the head of one, in a frame or a line when the host is replaced.

use medusa_tests::Server;

use crate::{
    Files,
    http::{Browser, Place},
    sockets::{Echo, Socket},
    talkers::Talker,
};

/// Who is of the same step goes on at the same time; each time one step does.
pub(crate) const STEPS: usize = 10;

pub(crate) struct Crowd<'a> {
    browsers: Vec<Browser<'a>>,
    sockets: Vec<Socket>,
    echoes: Vec<Echo>,
    talkers: Vec<Talker>,
    exchanges: u64,
}

impl<'a> Crowd<'a> {
    /// Connects so many, and has all begin something.
    #[track_caller]
    pub(crate) fn gather(server: &Server, files: &'a Files, count: usize) -> Crowd<'a> {
        let [web, lines, talk] = ["web", "lines", "talk"].map(|name| server.address(name));
        let part = |percent: usize| count * percent / 100;
        let place = |it: usize| [Place::Idle, Place::Idle, Place::Head, Place::Pipeline][it % 4];
        let browser = |it: usize| Browser::connect(web, place(it), files, it as u64 + 1);
        let mut talkers: Vec<_> =
            (0..part(10)).map(|it| Talker::enter(talk, &format!("t{it}"))).collect();
        for at in 0..talkers.len() {
            let nick = talkers[at].nick().to_owned();
            talkers[..at].iter_mut().for_each(|talker| talker.hears_come(&nick));
        }
        talkers.iter_mut().for_each(Talker::begin);
        let mut crowd = Crowd {
            browsers: (0..part(60)).map(browser).collect(),
            sockets: (0..part(15)).map(|it| Socket::connect(web, it as u64 + 1)).collect(),
            echoes: (0..part(15)).map(|_| Echo::connect(lines)).collect(),
            talkers,
            exchanges: 0,
        };
        crowd.browsers.iter_mut().for_each(Browser::begin);
        crowd.sockets.iter_mut().for_each(Socket::begin);
        crowd.echoes.iter_mut().for_each(Echo::begin);
        crowd
    }

    /// Those of a step finish what they have begun, and begin something else.
    #[track_caller]
    pub(crate) fn go_on(&mut self, step: usize) {
        let exchanges = &mut self.exchanges;
        let of_step = |all: usize| (0..all).filter(move |at| at % STEPS == step % STEPS);
        for at in of_step(self.browsers.len()) {
            self.browsers[at].finish();
            self.browsers[at].begin();
            *exchanges += 1;
        }
        for at in of_step(self.sockets.len()) {
            self.sockets[at].finish();
            self.sockets[at].begin();
            *exchanges += 1;
        }
        for at in of_step(self.echoes.len()) {
            self.echoes[at].finish();
            self.echoes[at].begin();
            *exchanges += 1;
        }
        // One speaks, and all others hear it.
        if let Some(speaker) = (!self.talkers.is_empty()).then(|| step % self.talkers.len()) {
            self.talkers[speaker].finish();
            let (nick, number) =
                (self.talkers[speaker].nick().to_owned(), self.talkers[speaker].said());
            for (at, talker) in self.talkers.iter_mut().enumerate() {
                if at != speaker {
                    talker.hears(&nick, number);
                }
            }
            self.talkers[speaker].begin();
            *exchanges += 1;
        }
    }

    /// Nobody has heard what nobody has said.
    #[track_caller]
    pub(crate) fn part(&mut self) {
        for talker in &mut self.talkers {
            assert!(talker.has_heard_all(), "{} hears what nobody has said", talker.nick());
        }
    }

    /// How many exchanges there were.
    pub(crate) fn exchanges(&self) -> u64 {
        self.exchanges
    }
}
