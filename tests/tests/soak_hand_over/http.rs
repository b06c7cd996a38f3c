//! Clients of HTTP, each of which is somewhere in a request or between two while an upgrade passes.

use std::net::SocketAddr;

use crate::{Files, random::Random, wire::Wire};

/// Where a client is when an upgrade comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between two requests.
    Idle,
    /// In the head of one.
    Head,
    /// In its body.
    Upload,
    /// In the body of the response.
    Download,
    /// In the head of one that came with others, which are answered.
    Pipeline,
    /// In the body of a response, with requests behind it.
    Queue,
}

pub(crate) struct Browser<'a> {
    pub(crate) wire: Wire,
    pub(crate) place: Place,
    files: &'a Files,
    random: Random,
    /// What is to be sent after the upgrade.
    rest: Vec<u8>,
    /// What is to come then.
    expected: Vec<Vec<u8>>,
}

impl<'a> Browser<'a> {
    pub(crate) fn connect(
        address: SocketAddr,
        place: Place,
        files: &'a Files,
        seed: u64,
    ) -> Browser<'a> {
        let (wire, random) = (Wire::connect(address, "web"), Random::new(seed));
        let mut browser =
            Browser { wire, place, files, random, rest: Vec::new(), expected: Vec::new() };
        browser.wire.send(get("small"));
        browser.wire.check(&files.small);
        browser
    }

    /// Goes to its place.
    pub(crate) fn begin(&mut self) {
        let small = self.files.small.clone();
        let bytes = match self.place {
            Place::Idle => {
                (self.rest, self.expected) = (get("small"), vec![small]);
                return;
            }
            Place::Head => {
                self.expected = vec![small];
                get("small")
            }
            Place::Upload => {
                let (request, body) = upload(&mut self.random);
                self.expected = vec![body];
                request
            }
            Place::Download => {
                self.expected = vec![self.files.large.clone()];
                return self.wire.send(get("large"));
            }
            Place::Pipeline => {
                let three = get("small").repeat(3);
                self.wire.send(&three);
                (0..3).for_each(|_| self.wire.check(&small));
                self.expected = vec![small.clone(), small];
                get("small").repeat(2)
            }
            Place::Queue => {
                let (request, body) = upload(&mut self.random);
                self.expected = vec![self.files.large.clone(), small, body];
                [get("large"), get("small"), request].concat()
            }
        };
        let least = if self.place == Place::Queue { get("large").len() } else { 1 };
        // An upload is cut in its body.
        let (from, to) = match self.place {
            Place::Upload => (bytes.len() / 2, bytes.len()),
            Place::Pipeline => (1, get("small").len()),
            _ => (least, bytes.len()),
        };
        let cut = from + self.random.below(to - from);
        self.wire.send(&bytes[..cut]);
        self.rest = bytes[cut..].to_vec();
    }

    /// Goes on, and comes to be between two requests.
    #[track_caller]
    pub(crate) fn finish(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.wire.send(&rest);
        for body in std::mem::take(&mut self.expected) {
            self.wire.check(&body);
        }
    }

    /// Whether the server cannot have read all that was sent.
    pub(crate) fn is_queueing(&self) -> bool {
        self.place == Place::Queue
    }
}

/// A request for a file.
pub(crate) fn get(file: &str) -> Vec<u8> {
    format!("GET /{file} HTTP/1.1\r\nHost: test\r\nAccept: */*\r\n\r\n").into()
}

/// A request whose body comes back, and that body, which is more than half of it.
pub(crate) fn upload(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let length = 2000 + random.below(30_000);
    let body = random.bytes(length);
    let to = ["/busy/mirror", "/echo/up"][random.below(2)];
    let head = format!("POST {to} HTTP/1.1\r\nHost: test\r\n");
    let request = if random.below(2) == 0 {
        [format!("{head}Content-Length: {length}\r\n\r\n").as_bytes(), &body].concat()
    } else {
        let mut request = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        for chunk in body.chunks(1 + random.below(5000)) {
            request.extend(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend(chunk);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        request
    };
    (request, body)
}
