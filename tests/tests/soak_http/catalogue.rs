//! What is asked for, and what is right: status and body are known beforehand, the other fields are those of the first answer, which
//! came alone on a connection of its own.

use std::net::SocketAddr;

use medusa_tests::{Client, Response};

use crate::random::Random;

/// Sizes around those of buffers and pipes.
const SIZES: [usize; 10] =
    [0, 1, 1024, 8 * 1024 + 1, 65_535, 65_536, 65_537, 262_144, 1_048_579, 4_194_311];

/// Answers that take a slow reader a while.
const LARGE_BYTES: usize = 200_000;

/// More than the system takes of an answer that its client does not read.
const HUGE_BYTES: usize = 8_000_000;

pub(crate) struct Ask {
    /// The request line, or what is special of it.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_head: bool,
    /// The answer is the last on its connection.
    pub(crate) closes: bool,
    pub(crate) expected: Response,
}

/// Everything that can be asked.
pub(crate) struct Catalogue(Vec<Ask>);

/// The files of the site.
pub(crate) fn site() -> impl Iterator<Item = (String, Vec<u8>)> {
    SIZES.into_iter().map(|size| (format!("{size}.bin"), file(size)))
}

fn file(size: usize) -> Vec<u8> {
    Random::new(size as u64 + 1).bytes(size)
}

/// What the probe answers at `/bytes`.
fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * at / 7) as u8).collect()
}

impl Catalogue {
    /// Asks for everything once.
    ///
    /// # Panics
    /// When an answer is not what it must be.
    pub(crate) fn learn(address: SocketAddr) -> Catalogue {
        let mut asks = Learning { address, asks: Vec::new() };
        asks.static_files();
        asks.dynamic();
        asks.bodies();
        asks.last_ones();
        Catalogue(asks.asks)
    }

    pub(crate) fn asks(&self) -> &[Ask] {
        &self.0
    }

    pub(crate) fn named(&self, name: &str) -> &Ask {
        self.0.iter().find(|ask| ask.name == name).expect("the catalogue has it")
    }

    /// Any ask that leaves its connection open.
    pub(crate) fn any(&self, random: &mut Random) -> &Ask {
        self.pick(random, |ask| !ask.closes)
    }

    /// An ask whose answer is long.
    pub(crate) fn large(&self, random: &mut Random) -> &Ask {
        self.pick(random, |ask| !ask.closes && ask.is_large())
    }

    /// An ask that is quickly answered.
    pub(crate) fn small(&self, random: &mut Random) -> &Ask {
        self.pick(random, |ask| !ask.closes && !ask.is_large())
    }

    /// A GET without any condition.
    pub(crate) fn plain(&self, random: &mut Random) -> &Ask {
        self.pick(random, |ask| ask.is_plain() && !ask.is_large())
    }

    /// An ask whose answer is the last on its connection.
    pub(crate) fn last(&self, random: &mut Random) -> &Ask {
        self.pick(random, |ask| ask.closes)
    }

    /// An ask that the server thinks about, and then answers with more than it can send at once.
    pub(crate) fn huge(&self) -> &Ask {
        self.named(&format!("GET /probe/late?{HUGE_BYTES}"))
    }

    /// As much, in answer to a request whose body is left unread, and which would like to speak another protocol: not even that lets
    /// the server lose a byte.
    pub(crate) fn huge_and_last(&self) -> &Ask {
        let start = format!("POST /probe/bytes?{HUGE_BYTES}");
        self.0.iter().find(|ask| ask.name.starts_with(&start)).expect("the catalogue has it")
    }

    fn pick(&self, random: &mut Random, is_fit: impl Fn(&Ask) -> bool) -> &Ask {
        loop {
            let ask = &self.0[random.below(self.0.len())];
            if is_fit(ask) {
                return ask;
            }
        }
    }
}

impl Ask {
    fn is_large(&self) -> bool {
        self.expected.body.len() + self.bytes.len() > LARGE_BYTES
    }

    fn is_plain(&self) -> bool {
        self.name.starts_with("GET ") && !self.closes && self.bytes.ends_with(b"Host: test\r\n\r\n")
    }

    /// What is wrong with an answer, if it is.
    pub(crate) fn check(&self, answer: &Response) -> Result<(), String> {
        let expected = &self.expected;
        if (answer.status, &answer.reason) != (expected.status, &expected.reason) {
            return Err(format!(
                "{} {} instead of {}",
                answer.status, answer.reason, expected.status
            ));
        }
        let (found, wanted) = (fields(answer), fields(expected));
        if found != wanted {
            return Err(format!("the fields are {found:#?} instead of {wanted:#?}"));
        }
        if answer.trailers != expected.trailers {
            return Err(format!("the trailers are {:?}", answer.trailers));
        }
        if answer.body != expected.body {
            let pairs = answer.body.iter().zip(&expected.body);
            let same = pairs.take_while(|(found, wanted)| found == wanted).count();
            let (length, wanted) = (answer.body.len(), expected.body.len());
            return Err(format!("byte {same} is wrong, in {length} bytes instead of {wanted}"));
        }
        Ok(())
    }
}

/// All fields but the time, by name; the order of those of one name counts.
fn fields(response: &Response) -> Vec<(&str, &str)> {
    let fields = response.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut fields: Vec<_> = fields.filter(|(name, _)| *name != "date").collect();
    fields.sort_by_key(|(name, _)| *name);
    fields
}

struct Learning {
    address: SocketAddr,
    asks: Vec<Ask>,
}

impl Learning {
    /// Adds a request, by its request line without the version, its other lines and its body.
    fn add(
        &mut self,
        line: &str,
        lines: &str,
        body: &[u8],
        status: u16,
        expected: &[u8],
    ) -> Response {
        let version = if lines.contains("old") { "1.0" } else { "1.1" };
        let lines = lines.replace("old", "");
        let head = format!("{line} HTTP/{version}\r\nHost: test\r\n{lines}\r\n");
        let bytes = [head.as_bytes(), body].concat();
        let is_head = line.starts_with("HEAD");
        let mut client = Client::connect(self.address);
        client.send(&bytes);
        let response = client.try_response(is_head);
        let response = response.unwrap_or_else(|broken| panic!("{head}: {broken}"));
        assert_eq!(response.status, status, "{head}");
        assert!(response.body == expected, "{head}: {} bytes", response.body.len());
        assert!(response.header("date").is_some(), "{head}");
        let closes = version == "1.0" || response.header("connection") == Some("close");
        let lines = lines.trim_end().replace("\r\n", ", ");
        let name = if lines.is_empty() { line.to_owned() } else { format!("{line} ({lines})") };
        self.asks.push(Ask { name, bytes, is_head, closes, expected: response.clone() });
        response
    }

    fn get(&mut self, target: &str, expected: &[u8]) -> Response {
        self.add(&format!("GET {target}"), "", b"", 200, expected)
    }

    fn static_files(&mut self) {
        for (name, bytes) in site() {
            let got = self.get(&format!("/{name}"), &bytes);
            let head = self.add(&format!("HEAD /{name}"), "", b"", 200, b"");
            assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
            let (get, tag) = (format!("GET /{name}"), got.header("etag").expect("files have tags"));
            self.add(&get, &format!("If-None-Match: {tag}\r\n"), b"", 304, b"");
            self.add(&get, "If-None-Match: \"other\"\r\n", b"", 200, &bytes);
            let modified = got.header("last-modified").expect("files have times");
            self.add(&get, &format!("If-Modified-Since: {modified}\r\n"), b"", 304, b"");
            if let Some(last) = bytes.len().checked_sub(1) {
                for (first, last) in [(0, 0), (last / 3, last / 3 * 2), (0, last), (last, last)] {
                    let range = format!("Range: bytes={first}-{last}\r\n");
                    self.add(&get, &range, b"", 206, &bytes[first..=last]);
                }
            }
        }
    }

    fn dynamic(&mut self) {
        for length in [1, 500, 20_000, 65_535, 65_536, 65_537, 300_000] {
            self.get(&format!("/probe/bytes?{length}"), &bytes(length));
            self.add(&format!("HEAD /probe/bytes?{length}"), "", b"", 200, b"");
        }
        self.get(&format!("/probe/late?{HUGE_BYTES}"), &bytes(HUGE_BYTES));
        self.get("/probe/seen?a=b&c", b"GET test test /probe/seen a=b&c\n");
        self.get("/probe/seen", b"GET test test /probe/seen -\n");
        self.add("DELETE /probe/seen", "", b"", 200, b"DELETE test test /probe/seen -\n");
        self.get("/probe/pieces", b"abcdef");
        self.get("/probe/drips", b"drip drip drip drip drip ");
        self.get("/probe/wait?0", b"waited\n");
        self.get("/probe/wait?3", b"waited\n");
        self.add("HEAD /probe/wait?1", "", b"", 200, b"");
        self.get("/probe/echo", b"");
        self.get("/probe/hops", b"x");
        self.get("/health", b"ok\n");
        self.add("HEAD /health", "", b"", 200, b"");
        self.add("GET /probe/no-content", "", b"", 204, b"");
        self.add("OPTIONS *", "", b"", 204, b"");
        for (target, status) in [
            ("GET /none.bin", 404),
            ("GET /probe/none", 404),
            ("TRACE /", 405),
            ("GET /probe/fail", 500),
            ("GET /probe/interim", 500),
        ] {
            let page = self.page(target);
            self.add(target, "", b"", status, &page);
        }
    }

    /// The page of an error is the server's affair; that it is always the same is what counts.
    fn page(&self, target: &str) -> Vec<u8> {
        let mut client = Client::connect(self.address);
        client.send(format!("{target} HTTP/1.1\r\nHost: test\r\n\r\n"));
        client.response().body
    }

    fn bodies(&mut self) {
        for length in [0, 1, 700, 9_000, 60_000, 70_000, 400_000] {
            let body = Random::new(length as u64 + 99).bytes(length);
            for coding in ["plain", "chunked"] {
                let (lines, wire) = match coding {
                    "plain" => (format!("Content-Length: {length}\r\n"), body.clone()),
                    _ => ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(&body)),
                };
                let count = format!("{length}\n");
                self.add("POST /probe/echo", &lines, &wire, 200, &body);
                self.add("PUT /probe/count", &lines, &wire, 200, count.as_bytes());
                // What is longer would not be drained, and may be cut off.
                if length < 60_000 {
                    self.add("POST /probe/ignore", &lines, &wire, 200, b"ignored\n");
                    self.add("GET /1024.bin", &lines, &wire, 200, &file(1024));
                }
                let lines = format!("Expect: 100-continue\r\n{lines}");
                self.add("POST /probe/count", &lines, &wire, 200, count.as_bytes());
            }
        }
    }

    fn last_ones(&mut self) {
        let close = "Connection: close\r\n";
        let unread = [b'u'; 100_000];
        let lines = "Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 100000\r\n";
        let line = format!("POST /probe/bytes?{HUGE_BYTES}");
        self.add(&line, lines, &unread, 200, &bytes(HUGE_BYTES));
        self.add("GET /1024.bin", close, b"", 200, &file(1024));
        self.add("GET /1048579.bin", close, b"", 200, &file(1_048_579));
        self.add("GET /probe/bytes?300000", close, b"", 200, &bytes(300_000));
        self.add("GET /probe/bytes?500", "old", b"", 200, &bytes(500));
        self.add("GET /262144.bin", "old", b"", 200, &file(262_144));
        self.add(
            "POST /probe/echo",
            "Content-Length: 5\r\nConnection: close\r\n",
            b"12345",
            200,
            b"12345",
        );
    }
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, chunk) in body.chunks(7_001).enumerate() {
        let extension = ["", ";a=b"][index % 2];
        bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
        bytes.extend(chunk.iter().copied().chain(*b"\r\n"));
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}
