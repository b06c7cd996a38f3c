//! One request and its answer over a plain socket; no more of HTTP than these servers' answers need.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::Result;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// An answer that is there as a whole.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: Option<String>,
    pub(crate) body_bytes: usize,
}

/// A connection that is kept, with what has come of the next answer.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Connects; reading waits for [`ANSWER_MAX`] at the longest.
pub(crate) fn connect(address: SocketAddr) -> Result<Connection> {
    let stream = TcpStream::connect(address).map_err(|error| format!("no connection: {error}"))?;
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(ANSWER_MAX)))
        .map_err(|error| error.to_string())?;
    Ok(Connection { stream, received: Vec::new() })
}

/// The bytes of a GET request.
pub(crate) fn request(path: &str, headers: &[String]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

impl Connection {
    /// From now on, [`Connection::answer`] does not wait.
    pub(crate) fn never_wait(&self) -> Result<()> {
        self.stream.set_nonblocking(true).map_err(|error| error.to_string())
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).map_err(|error| format!("a request cannot be sent: {error}"))
    }

    /// The answer; nothing if it is not there yet and this connection does not wait.
    pub(crate) fn answer(&mut self) -> Result<Option<Answer>> {
        let mut buf = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buf) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(n) => self.received.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(format!("no answer: {error}")),
            }
            if let Some(answer) = parse(&self.received)? {
                // Nothing is kept for it: ten thousand of these wait.
                self.received = Vec::new();
                return Ok(Some(answer));
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.send(request)?;
        self.answer()?.ok_or_else(|| format!("no answer within {} s", ANSWER_MAX.as_secs()))
    }
}

/// The answer at the beginning of the bytes, if it is there as a whole and nothing is behind it.
fn parse(bytes: &[u8]) -> Result<Option<Answer>> {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| format!("not an answer: {head}"))?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let field = |name: &str| {
        let mut found = fields.clone().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim())
    };
    let announced = match (status, field("content-length")) {
        (304, _) => 0,
        (_, Some(length)) => length.parse().map_err(|_| format!("no length: {head}"))?,
        (_, None) => return Err(format!("an answer without its length: {head}")),
    };
    let body_bytes = bytes.len() - end - 4;
    match body_bytes.cmp(&announced) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => {
            Ok(Some(Answer { status, etag: field("etag").map(str::to_owned), body_bytes }))
        }
        std::cmp::Ordering::Greater => Err(format!("more than was announced: {head}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &str, expected: std::result::Result<Option<(u16, usize)>, &str>) {
        let found = parse(bytes.as_bytes()).map(|it| it.map(|it| (it.status, it.body_bytes)));
        match (found, expected) {
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => assert_eq!(found, expected.map_err(str::to_owned), "{bytes:?}"),
        }
    }

    #[test]
    fn an_answer_is_read_when_it_is_whole() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", Ok(None));
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", Ok(None));
        check("HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nhi", Ok(Some((200, 2))));
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Ok(Some((304, 0))));
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhim", Err("more than was announced"));
        check("HTTP/1.1 200 OK\r\n\r\n", Err("without its length"));
        check("220 ready\r\n\r\n", Err("not an answer"));
        let answer = parse(b"HTTP/1.1 200 OK\r\nETag: \"a:b\"\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer.unwrap().unwrap().etag.as_deref(), Some("\"a:b\""));
    }
}
