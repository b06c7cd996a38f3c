//! A client that checks: every answer byte for byte, that no connection sees an older build after a newer one, and that none is closed
//! unless its client asked for it.

use std::net::SocketAddr;

use medusa_tests::{Broken, Client, Response};

use crate::{build, load::Shared, random::Random, site::File};

/// A request, and the answer that is right.
pub(crate) struct Ask<'a> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) expected: Expected<'a>,
    /// It asks for the end of the connection.
    pub(crate) is_last: bool,
}

pub(crate) enum Expected<'a> {
    /// A file, by `http-files`.
    File(&'a File),
    /// The request's own body, by `busy`.
    Mirror(Vec<u8>),
}

/// One client, with one connection at a time.
pub(crate) struct Session<'a> {
    address: SocketAddr,
    shared: &'a Shared,
    /// Sets a new connection up.
    prepare: fn(&mut Client),
    connection: Option<Connection>,
}

struct Connection {
    client: Client,
    answered: u64,
    /// The newest builds that it has seen: of `http`, of `http-files`.
    seen: [u64; 2],
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        address: SocketAddr,
        shared: &'a Shared,
        prepare: fn(&mut Client),
    ) -> Session<'a> {
        Session { address, shared, prepare, connection: None }
    }

    /// Sends the requests one behind the other without waiting, in pieces cut at random, and checks the answers.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn ask(&mut self, asks: &[Ask<'_>], random: &mut Random) -> Result<(), String> {
        let shared = self.shared;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        // Whatever is asked from here on is answered by this build or a newer one.
        let floor = shared.floor_files();
        let bytes: Vec<u8> = asks.iter().flat_map(|ask| ask.bytes.iter().copied()).collect();
        // If the server has closed, reading tells how.
        let _ = send_in_pieces(&mut connection.client, &bytes, random);
        let mut is_open = true;
        for (done, ask) in asks.iter().enumerate() {
            if !is_open {
                return Err(format!("it was the last after {done} of {} requests", asks.len()));
            }
            let response = connection.client.try_response(false).map_err(|broken| {
                let answered = connection.answered;
                let all = asks.len();
                format!(
                    "after {answered} answers on the connection, request {done} of {all}: {broken}"
                )
            })?;
            let checked = connection.check(ask, &response, floor);
            checked.map_err(|wrong| shown(&wrong, ask, &response))?;
            shared.count_answer(response.body.len());
            is_open = response.header("connection") != Some("close");
            if !is_open && !ask.is_last {
                return Err("the server closes the connection unasked".to_owned());
            }
        }
        self.connection = is_open.then_some(connection);
        Ok(())
    }

    /// Leaves the connection. `Err` if the server has sent what nobody asked for.
    pub(crate) fn leave(&mut self) -> Result<(), String> {
        let Some(mut connection) = self.connection.take() else { return Ok(()) };
        connection.client.finish_sending();
        match connection.client.try_response(false) {
            Err(Broken::Closed { received }) if received.is_empty() => Ok(()),
            other => Err(format!("the end was expected when we left, not {other:?}")),
        }
    }

    fn connect(&self) -> Result<Connection, String> {
        let floor = self.shared.floor_http();
        let client = Client::try_connect(self.address);
        let mut client = client.map_err(|error| format!("cannot connect: {error}"))?;
        (self.prepare)(&mut client);
        self.shared.count_connection();
        Ok(Connection { client, answered: 0, seen: [floor, 0] })
    }
}

impl Connection {
    fn check(&mut self, ask: &Ask<'_>, response: &Response, floor: u64) -> Result<(), String> {
        if response.status != 200 {
            return Err(format!("status {}", response.status));
        }
        let (body, is_file) = match &ask.expected {
            Expected::File(file) => (&file.bytes, true),
            Expected::Mirror(bytes) => (bytes, false),
        };
        if response.body != *body {
            let same = response.body.iter().zip(body).take_while(|(a, b)| a == b).count();
            let (length, wanted) = (response.body.len(), body.len());
            return Err(format!("byte {same} is wrong, in {length} bytes instead of {wanted}"));
        }
        self.note(0, "server-build", response)?;
        if is_file {
            self.seen[1] = self.seen[1].max(floor);
            self.note(1, "x-medusa-build", response)?;
        }
        self.answered += 1;
        Ok(())
    }

    fn note(&mut self, which: usize, field: &str, response: &Response) -> Result<(), String> {
        let id = response.header(field).ok_or_else(|| format!("no {field}"))?;
        let number = build::number(id).ok_or_else(|| format!("{field} is {id}"))?;
        let newest = self.seen[which];
        if number < newest {
            return Err(format!("{field} is {number}, and {newest} was there already"));
        }
        self.seen[which] = number;
        Ok(())
    }
}

/// Sends in a few pieces, each in a packet of its own, and not always at once.
fn send_in_pieces(client: &mut Client, bytes: &[u8], random: &mut Random) -> std::io::Result<()> {
    let mut from = 0;
    for _ in 0..random.below(4) {
        // Most cuts lie where the heads are.
        let end = (from + 1 + random.below(400)).min(bytes.len());
        client.try_send(&bytes[from..end])?;
        from = end;
        if random.below(2) == 0 {
            std::thread::sleep(std::time::Duration::from_micros(random.below(3000) as u64));
        }
    }
    client.try_send(&bytes[from..])
}

fn shown(wrong: &str, ask: &Ask<'_>, response: &Response) -> String {
    let head = ask.bytes.iter().take(120).copied().collect::<Vec<_>>();
    let start = response.body.iter().take(200).copied().collect::<Vec<_>>();
    format!(
        "{wrong}; asked {:?}, got {} {:?} {:?}",
        String::from_utf8_lossy(&head),
        response.status,
        response.headers,
        String::from_utf8_lossy(&start)
    )
}
