//! A small, strict HTTP/1.1 client over a raw socket: sends exact bytes, reads exactly one response.

use std::{
    fmt,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::http_parse::{Broken, Progress, Response, parse};

/// How long a read may take. Generous: machines that run tests are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// One connection. Requests can be pipelined: send several, then read as many responses.
pub struct Client {
    stream: TcpStream,
    /// Received and not yet part of a response that was returned.
    unread: Vec<u8>,
    has_ended: bool,
    pace: Option<(usize, Duration)>,
}

/// How the peer ended the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order: the end of input.
    Eof,
    /// With a reset.
    Reset,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    ///
    /// When the connection is refused.
    #[must_use]
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address)
            .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"))
    }

    /// Connects, or says why not.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, unread: Vec::new(), has_ended: false, pace: None })
    }

    /// From now on, reads at most `bytes_max` at a time, and pauses after each: a slow reader.
    pub fn read_slowly(&mut self, bytes_max: usize, pause: Duration) {
        self.pace = Some((bytes_max, pause));
    }

    /// Sends these bytes and no others.
    ///
    /// # Panics
    ///
    /// When the peer has closed.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap_or_else(|error| panic!("cannot send: {error}"));
    }

    /// Sends these bytes and no others, or says why not.
    ///
    /// # Errors
    ///
    /// Those of `write(2)`.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// Closes our writing half; what the peer sends can still be read.
    pub fn finish_sending(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads the response to a request that was sent, of any method but HEAD.
    ///
    /// # Panics
    ///
    /// When there is none, or it breaks a rule of RFC 9112.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response(false).unwrap_or_else(|broken| panic!("no whole response: {broken}"))
    }

    /// Reads the response to a HEAD request that was sent.
    ///
    /// # Panics
    ///
    /// When there is none, or it breaks a rule of RFC 9112.
    #[track_caller]
    pub fn head_response(&mut self) -> Response {
        self.try_response(true).unwrap_or_else(|broken| panic!("no whole response: {broken}"))
    }

    /// Reads a response, or says what came instead. `is_head` tells that the request was HEAD, which no response says.
    ///
    /// # Errors
    ///
    /// Each way in which a response can fail to come, with the bytes that did.
    pub fn try_response(&mut self, is_head: bool) -> Result<Response, Broken> {
        let mut interim = Vec::new();
        loop {
            match parse(&self.unread, self.has_ended, is_head)? {
                Progress::Whole { mut response, length } => {
                    self.unread.drain(..length);
                    if response.status / 100 == 1 && response.status != 101 {
                        interim.push(response);
                        continue;
                    }
                    response.interim = interim;
                    return Ok(response);
                }
                Progress::WantsMore => self.read_more()?,
            }
        }
    }

    /// Sends `GET PATH` and reads the response.
    ///
    /// # Panics
    ///
    /// When there is none, or it breaks a rule of RFC 9112.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.get_with(path, "")
    }

    /// Sends `GET PATH` with more header lines (each ending in CRLF) and reads the response.
    ///
    /// # Panics
    ///
    /// When there is none, or it breaks a rule of RFC 9112.
    #[track_caller]
    pub fn get_with(&mut self, path: &str, header_lines: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{header_lines}\r\n"));
        self.response()
    }

    /// Sends `HEAD PATH` and reads the response.
    ///
    /// # Panics
    ///
    /// When there is none, or it breaks a rule of RFC 9112.
    #[track_caller]
    pub fn head(&mut self, path: &str) -> Response {
        self.send(format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.head_response()
    }

    /// Goes without a word: the peer gets a reset.
    ///
    /// # Panics
    ///
    /// When the socket cannot be set up for it.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
            .expect("a socket can be told not to linger");
    }

    /// Waits for the end of the connection, and says which it was.
    ///
    /// # Panics
    ///
    /// When anything else comes, or nothing.
    #[track_caller]
    pub fn end(&mut self) -> End {
        loop {
            assert!(
                self.unread.is_empty(),
                "the end was expected, not {}",
                Broken::shown(&self.unread)
            );
            if self.has_ended {
                return End::Eof;
            }
            match self.read_more() {
                Ok(()) => {}
                Err(Broken::Reset { .. }) => return End::Reset,
                Err(broken) => panic!("the end was expected: {broken}"),
            }
        }
    }

    /// Whether the peer has neither closed nor sent anything that was not read. Does not wait.
    ///
    /// # Panics
    ///
    /// When the socket cannot be set up for it.
    pub fn is_idle(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("a socket can be made non-blocking");
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("a socket can be made blocking");
        self.unread.is_empty()
            && !self.has_ended
            && seen.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Reads at least one byte and at most `bytes_max`, unparsed: for readers that are slow on purpose. Empty at the end.
    ///
    /// # Panics
    ///
    /// When the peer resets, or nothing comes.
    #[track_caller]
    pub fn read_some(&mut self, bytes_max: usize) -> Vec<u8> {
        if self.unread.is_empty() && !self.has_ended {
            let mut bytes = vec![0; bytes_max];
            let n =
                self.stream.read(&mut bytes).unwrap_or_else(|error| panic!("cannot read: {error}"));
            bytes.truncate(n);
            self.has_ended = n == 0;
            return bytes;
        }
        self.unread.drain(..bytes_max.min(self.unread.len())).collect()
    }

    /// The socket itself: to set its buffers, or to speak another protocol after an upgrade.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    fn read_more(&mut self) -> Result<(), Broken> {
        let mut bytes = [0; 64 * 1024];
        let (bytes_max, pause) = self.pace.unwrap_or((bytes.len(), Duration::ZERO));
        let bytes_max = bytes_max.min(bytes.len());
        let received = || self.unread.clone();
        match self.stream.read(&mut bytes[..bytes_max]) {
            Ok(0) => self.has_ended = true,
            Ok(n) => {
                self.unread.extend_from_slice(&bytes[..n]);
                thread::sleep(pause);
            }
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    return Err(Broken::Silent { received: received() });
                }
                _ => return Err(Broken::Reset { received: received() }),
            },
        }
        Ok(())
    }
}

/// Connects, sends these bytes and the end, and returns everything that comes back until the peer's end: a whole
/// conversation with a server of a simple protocol.
///
/// # Panics
///
/// When the connection is refused or breaks, or nothing comes for half a minute.
#[must_use]
#[track_caller]
pub fn exchange(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut client = Client::connect(address);
    client.send(bytes);
    client.finish_sending();
    let mut answer = Vec::new();
    client
        .stream
        .read_to_end(&mut answer)
        .unwrap_or_else(|error| panic!("cannot read from {address}: {error}"));
    answer
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client {{ {:?}, unread: {} }}", self.stream, Broken::shown(&self.unread))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A client whose peer has sent these bytes and closed.
    fn client(sent: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::connect(listener.local_addr().unwrap());
        thread::spawn(move || listener.accept().unwrap().0.write_all(sent.as_bytes()).unwrap());
        client
    }

    #[test]
    fn pipelined_responses_are_read_one_by_one() {
        let mut client = client(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab\
             HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n\
             HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ncde\r\n0\r\nsum: 1\r\n\r\n",
        );
        let first = client.response();
        assert_eq!((first.status, first.text(), first.interim.len()), (200, "ab", 1));
        assert_eq!(client.response().header("ETag"), Some("\"x\""));
        let third = client.response();
        assert_eq!((third.text(), third.trailers.len()), ("cde", 1));
        assert_eq!(client.end(), End::Eof);
    }

    #[test]
    fn an_early_end_is_no_response() {
        let broken = client("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab")
            .try_response(false)
            .unwrap_err();
        assert!(matches!(broken, Broken::Closed { .. }), "{broken}");
    }

    #[test]
    fn a_body_can_last_until_the_end() {
        let response = client("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc").response();
        assert!(response.lasted_until_end);
        assert_eq!(response.text(), "abc");
    }

    #[test]
    fn a_head_response_has_no_body() {
        let mut client = client("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n");
        assert_eq!(client.head_response().body, b"");
        assert_eq!(client.end(), End::Eof);
    }
}
