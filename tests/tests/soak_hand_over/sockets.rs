//! WebSockets, whose messages are numbered, and sessions that give back what they get.

use std::net::SocketAddr;

use medusa_tests::websocket::{self, WebSocket, frame, opcode};

use crate::{
    random::Random,
    wire::{Place, Wire},
};

/// One message in so many is longer than what is read at a time.
const LONG_EVERY: usize = 20;

pub(crate) struct Socket {
    socket: WebSocket,
    sent: u64,
    place: Place,
    random: Random,
    number: u64,
    /// What is to be sent after the upgrade.
    rest: Vec<u8>,
    /// What is to come then.
    expected: Vec<(u8, Vec<u8>)>,
}

impl Socket {
    pub(crate) fn connect(address: SocketAddr, seed: u64) -> Socket {
        let request = websocket::request("/echo");
        let mut wire = Wire::connect(address, "echo");
        let place = wire.place();
        wire.send(&request);
        let socket = WebSocket::accepted(wire.into_client());
        // What went before the switch was counted where it was asked for.
        let (sent, random) = (0, Random::new(seed));
        Socket { socket, sent, place, random, number: 0, rest: Vec::new(), expected: Vec::new() }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Begins a message: not at all, with a part of its frame, or with some of its frames and a part of one.
    pub(crate) fn begin(&mut self) {
        self.number += 1;
        let padding = match self.random.below(LONG_EVERY) {
            0 => 70_000,
            _ => self.random.below(300),
        };
        let text = format!("message {} {}", self.number, "x".repeat(padding)).into_bytes();
        let bytes = match self.random.below(2) {
            0 => frame(true, opcode::TEXT, &text),
            _ => {
                self.expected.push((opcode::PONG, b"still there".to_vec()));
                let (first, rest) = text.split_at(5);
                [
                    frame(false, opcode::TEXT, first),
                    frame(false, opcode::CONTINUATION, &rest[..3]),
                    frame(true, opcode::PING, b"still there"),
                    frame(true, opcode::CONTINUATION, &rest[3..]),
                ]
                .concat()
            }
        };
        self.expected.push((opcode::TEXT, text));
        let cut = self.random.below(3).min(1) * self.random.below(bytes.len());
        self.send(&bytes[..cut]);
        self.rest = bytes[cut..].to_vec();
    }

    /// Sends the rest of it, and gets it back.
    #[track_caller]
    pub(crate) fn finish(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.send(&rest);
        for (opcode, payload) in std::mem::take(&mut self.expected) {
            self.socket.check_next(opcode, payload);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sent += bytes.len() as u64;
        self.socket.send_bytes(bytes);
    }
}

/// A client of `echo-session`.
pub(crate) struct Echo {
    pub(crate) wire: Wire,
    number: u64,
    expected: Vec<u8>,
}

impl Echo {
    pub(crate) fn connect(address: SocketAddr) -> Echo {
        Echo { wire: Wire::connect(address, "lines"), number: 0, expected: Vec::new() }
    }

    pub(crate) fn begin(&mut self) {
        self.number += 1;
        self.send(&format!("line {}", self.number));
    }

    #[track_caller]
    pub(crate) fn finish(&mut self) {
        self.send(" ends\n");
        while !self.expected.is_empty() {
            let some = self.wire.read_some();
            assert!(self.expected.starts_with(&some), "{:?} came", String::from_utf8_lossy(&some));
            self.expected.drain(..some.len());
        }
    }

    fn send(&mut self, text: &str) {
        self.wire.send(text);
        self.expected.extend(text.as_bytes());
    }
}
