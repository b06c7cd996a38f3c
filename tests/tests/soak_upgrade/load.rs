//! The load: clients of every temper, each a thread, until they are told to end.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use medusa_tests::Client;

use crate::{
    client::{Ask, Expected, Session},
    random::Random,
    site::{File, Site},
};

/// Clients at work. Dropped, they end soon.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    floor: fn(&Shared) -> &AtomicU64,
}

/// What the clients share.
#[derive(Default)]
pub(crate) struct Shared {
    is_over: AtomicBool,
    /// The build of `http` that every new connection gets, or a newer one.
    http: AtomicU64,
    /// The build of `http-files` that every new request gets, or a newer one.
    files: AtomicU64,
    answers: AtomicU64,
    bytes: AtomicU64,
    connections: AtomicU64,
    failures: Mutex<Vec<String>>,
}

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
enum Temper {
    /// One request after the other on one connection, with pauses.
    Steady,
    /// Several requests at once.
    Pipelining,
    /// Reads large files in sips.
    Slow,
    /// Sends bodies, which come back.
    Posting,
    /// A new connection for each request.
    Fresh,
}

const CLIENTS: [Temper; 8] = [
    Temper::Steady,
    Temper::Steady,
    Temper::Pipelining,
    Temper::Pipelining,
    Temper::Slow,
    Temper::Slow,
    Temper::Posting,
    Temper::Fresh,
];

impl Load {
    /// Begins, with `library` being the one that will be upgraded.
    pub(crate) fn begin(address: SocketAddr, site: &Site, library: &str) -> Load {
        let shared = Arc::<Shared>::default();
        let start = |(seed, temper): (usize, Temper)| {
            let (shared, site) = (shared.clone(), site.clone());
            thread::spawn(move || {
                let mut random = Random::new(seed as u64 + 1);
                let outcome = run(temper, address, &shared, &site, &mut random);
                if let Err(failure) = outcome {
                    shared.fail(format!("a client that is {temper:?}: {failure}"));
                }
            })
        };
        let clients = CLIENTS.into_iter().enumerate().map(start).collect();
        let floor: fn(&Shared) -> &AtomicU64 = match library {
            "http" => |shared| &shared.http,
            _ => |shared| &shared.files,
        };
        Load { shared, clients, floor }
    }

    /// An upgrade to this build was reported as done.
    pub(crate) fn upgraded(&self, number: u64) {
        (self.floor)(&self.shared).store(number, SeqCst);
    }

    /// Waits for so many answers from now.
    pub(crate) fn wait_for(&self, answers: u64, patience: Duration) {
        let goal = self.shared.answers.load(SeqCst) + answers;
        let started = Instant::now();
        while self.shared.answers.load(SeqCst) < goal {
            self.shared.check();
            assert!(started.elapsed() < patience, "{answers} answers did not come in {patience:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends all clients; each finishes what it has begun.
    pub(crate) fn end(mut self) -> Report {
        self.shared.is_over.store(true, SeqCst);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
        self.shared.check();
        let [answers, bytes, connections] =
            [&self.shared.answers, &self.shared.bytes, &self.shared.connections]
                .map(|counter| counter.load(SeqCst));
        Report { answers, bytes, connections }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_over.store(true, SeqCst);
    }
}

impl Shared {
    pub(crate) fn floor_http(&self) -> u64 {
        self.http.load(SeqCst)
    }

    pub(crate) fn floor_files(&self) -> u64 {
        self.files.load(SeqCst)
    }

    pub(crate) fn count_answer(&self, bytes: usize) {
        self.answers.fetch_add(1, SeqCst);
        self.bytes.fetch_add(bytes as u64, SeqCst);
    }

    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, SeqCst);
    }

    fn fail(&self, failure: String) {
        self.failures.lock().expect("nobody panics with it").push(failure);
    }

    #[track_caller]
    fn check(&self) {
        let failures = self.failures.lock().expect("nobody panics with it");
        assert!(failures.is_empty(), "{failures:#?}");
    }
}

/// What the load came to, with nothing failed.
pub(crate) struct Report {
    answers: u64,
    bytes: u64,
    connections: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { answers, bytes, connections } = self;
        let mib = bytes / (1024 * 1024);
        write!(f, "{answers} answers with {mib} MiB on {connections} connections, all right")
    }
}

fn run(
    temper: Temper,
    address: SocketAddr,
    shared: &Shared,
    site: &Site,
    random: &mut Random,
) -> Result<(), String> {
    let prepare: fn(&mut Client) = match temper {
        Temper::Slow => |client| client.read_slowly(24 * 1024, Duration::from_millis(1)),
        _ => |_| {},
    };
    let mut session = Session::new(address, shared, prepare);
    while !shared.is_over.load(SeqCst) {
        match temper {
            Temper::Steady => {
                session.ask(&[get(one(site.small(), random), "")], random)?;
                thread::sleep(Duration::from_micros(random.below(10_000) as u64));
            }
            Temper::Pipelining => {
                let asks: Vec<_> = (0..2 + random.below(7))
                    .map(|_| match random.below(4) {
                        0 => post(random),
                        _ => get(one(&site.small()[..4], random), ""),
                    })
                    .collect();
                session.ask(&asks, random)?;
            }
            Temper::Slow => session.ask(&[get(one(site.large(), random), "")], random)?,
            Temper::Posting => session.ask(&[post(random)], random)?,
            Temper::Fresh => {
                let header_lines = ["", "Connection: close\r\n"][random.below(2)];
                session.ask(&[get(one(&site.small()[..4], random), header_lines)], random)?;
                session.leave()?;
            }
        }
    }
    Ok(())
}

fn one<'a>(files: &'a [File], random: &mut Random) -> &'a File {
    &files[random.below(files.len())]
}

fn get<'a>(file: &'a File, header_lines: &str) -> Ask<'a> {
    let head = format!("GET /{} HTTP/1.1\r\nHost: test\r\n{header_lines}\r\n", file.name);
    let is_last = head.contains("Connection: close");
    Ask { bytes: head.into_bytes(), expected: Expected::File(file), is_last }
}

/// A body that is to come back, of a known length or in chunks.
fn post(random: &mut Random) -> Ask<'static> {
    let head = "POST /busy/mirror HTTP/1.1\r\nHost: test\r\n";
    let length = [0, 1, 5_000, 70_000][random.below(4)] + random.below(20_000);
    let body = random.bytes(length);
    let mut bytes = head.as_bytes().to_vec();
    if random.below(2) == 0 {
        bytes.extend(format!("Content-Length: {length}\r\n\r\n").bytes());
        bytes.extend(&body);
    } else {
        bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        let mut rest = &body[..];
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at((1 + random.below(30_000)).min(rest.len()));
            bytes.extend(format!("{:x}\r\n", chunk.len()).bytes().chain(chunk.iter().copied()));
            bytes.extend(b"\r\n");
            rest = after;
        }
        bytes.extend(b"0\r\n\r\n");
    }
    Ask { bytes, expected: Expected::Mirror(body), is_last: false }
}
