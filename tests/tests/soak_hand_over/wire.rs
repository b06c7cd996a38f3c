//! A connection that is opened once, counts what it sends, and is never opened again.

use std::net::SocketAddr;

use medusa_tests::{Client, Response};

use crate::build;

/// What tells a connection from all others: whose it is and where it comes from. Of two that go to different ports, both may come from
/// the same.
pub(crate) type Place = (String, String);

pub(crate) struct Wire {
    client: Client,
    /// Whose it is.
    instance: &'static str,
    sent: u64,
    /// The newest builds that it has seen: of `http`, of `http-files`.
    seen: [u64; 2],
}

impl Wire {
    pub(crate) fn connect(address: SocketAddr, instance: &'static str) -> Wire {
        Wire { client: Client::connect(address), instance, sent: 0, seen: [0, 0] }
    }

    /// Whose it is and where it comes from, as the server lists it.
    pub(crate) fn place(&self) -> Place {
        let local = self.client.stream().local_addr();
        let local = local.expect("a socket that is connected has an address");
        (self.instance.to_owned(), local.to_string())
    }

    /// How many bytes were sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// The newest builds that it has seen: of `http`, of `http-files`.
    pub(crate) fn seen(&self) -> [u64; 2] {
        self.seen
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.sent += bytes.as_ref().len() as u64;
        self.client.send(bytes);
    }

    /// What has come, or comes next; never nothing.
    #[track_caller]
    pub(crate) fn read_some(&mut self) -> Vec<u8> {
        let some = self.client.read_some(64 * 1024);
        assert!(!some.is_empty(), "the server has closed a connection");
        some
    }

    /// The next response, which is no end of the connection, and of no build older than one before.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        let response = self.client.response();
        assert_eq!(response.header("connection"), None, "{:?}", response.headers);
        self.note(0, "server-build", &response);
        self.note(1, "x-medusa-build", &response);
        response
    }

    /// Expects a response with this body.
    #[track_caller]
    pub(crate) fn check(&mut self, body: &[u8]) {
        let response = self.response();
        let same = response.body.iter().zip(body).take_while(|(a, b)| a == b).count();
        assert!(
            response.status == 200 && response.body == body,
            "status {}, byte {same} of {} is wrong, {} came",
            response.status,
            body.len(),
            response.body.len()
        );
    }

    /// The connection, to speak another protocol.
    pub(crate) fn into_client(self) -> Client {
        self.client
    }

    /// The connection beneath.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    #[track_caller]
    fn note(&mut self, which: usize, field: &str, response: &Response) {
        let Some(number) = response.header(field).and_then(build::number) else { return };
        let newest = self.seen[which];
        assert!(number >= newest, "{field} is {number}, and {newest} was there already");
        self.seen[which] = number;
    }
}
