//! Talkers: everybody has half a line typed whenever an upgrade comes, and hears what every other says once, and in order.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::wire::Wire;

pub(crate) struct Talker {
    pub(crate) wire: Wire,
    nick: String,
    unread: Vec<u8>,
    /// What it has said so far.
    said: u64,
    /// The number of the last message that it has heard of each.
    heard: BTreeMap<String, u64>,
}

impl Talker {
    /// One who is there, and hears all that is said from now on.
    pub(crate) fn enter(address: SocketAddr, nick: &str) -> Talker {
        let wire = Wire::connect(address, "talk");
        let nick = nick.to_owned();
        let mut talker = Talker { wire, nick, unread: Vec::new(), said: 0, heard: BTreeMap::new() };
        assert_eq!(talker.line(), "your nick:");
        talker.wire.send(format!("{}\n/who\n", talker.nick));
        let here = talker.line();
        assert!(here.split(' ').any(|it| it == talker.nick), "{} in {here:?}", talker.nick);
        talker
    }

    pub(crate) fn nick(&self) -> &str {
        &self.nick
    }

    /// How many messages it has said.
    pub(crate) fn said(&self) -> u64 {
        self.said
    }

    /// Hears that somebody has come.
    #[track_caller]
    pub(crate) fn hears_come(&mut self, nick: &str) {
        assert_eq!(self.line(), format!("* somebody is {nick}"));
    }

    /// Types the first half of its next message.
    pub(crate) fn begin(&mut self) {
        self.wire.send("message num");
    }

    /// Types the other half.
    pub(crate) fn finish(&mut self) {
        self.said += 1;
        self.wire.send(format!("ber {}\n", self.said));
    }

    /// Listens until it has heard this message of `nick`'s.
    #[track_caller]
    pub(crate) fn hears(&mut self, nick: &str, number: u64) {
        while self.heard.get(nick).copied().unwrap_or_default() < number {
            let line = self.line();
            let message = line.split_once(": message number ");
            let message = message.and_then(|(by, number)| Some((by, number.parse().ok()?)));
            let (by, number): (&str, u64) =
                message.unwrap_or_else(|| panic!("{} hears {line:?}", self.nick));
            let last = self.heard.entry(by.to_owned()).or_default();
            assert_eq!(number, *last + 1, "{} hears {by}", self.nick);
            assert_ne!(by, self.nick, "nobody hears himself");
            *last = number;
        }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return String::from_utf8(line).expect("a line is text").trim_end().to_owned();
            }
            let some = self.wire.read_some();
            self.unread.extend(some);
        }
    }

    /// Whether there is nothing that it has not heard.
    pub(crate) fn has_heard_all(&mut self) -> bool {
        self.unread.is_empty() && self.wire.client().is_idle()
    }
}
