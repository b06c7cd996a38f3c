//! A small WebSocket client (RFC 6455) that sends exactly the frames that a test wants, good and bad ones.

use std::net::SocketAddr;

use crate::{Client, End, Response};

/// The key of RFC 6455 section 1.3, and what a server has to make of it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The opcodes of section 5.2.
#[allow(missing_docs, reason = "they are called as there")]
pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

/// A frame as the server sent it.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// The last one of its message.
    pub is_final: bool,
    /// One of [`opcode`].
    pub opcode: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// The status code of a close frame.
    ///
    /// # Panics
    ///
    /// When it is none, or has none.
    #[must_use]
    #[track_caller]
    pub fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, opcode::CLOSE, "{self:?}");
        u16::from_be_bytes([self.payload[0], self.payload[1]])
    }
}

/// A WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    client: Client,
    unread: Vec<u8>,
}

impl WebSocket {
    /// Connects, and opens a WebSocket.
    ///
    /// # Panics
    ///
    /// When the server does not.
    #[must_use]
    #[track_caller]
    pub fn connect(address: SocketAddr, path: &str) -> WebSocket {
        WebSocket::open(Client::connect(address), path, &[])
    }

    /// Opens a WebSocket on a connection, and sends `early` in one piece with the request.
    ///
    /// # Panics
    ///
    /// When the server does not.
    #[must_use]
    #[track_caller]
    pub fn open(mut client: Client, path: &str, early: &[u8]) -> WebSocket {
        client.send([request(path).as_bytes(), early].concat());
        WebSocket::accepted(client)
    }

    /// The WebSocket that a connection becomes, for which was asked by [`request`].
    ///
    /// # Panics
    ///
    /// When the server does not open it.
    #[must_use]
    #[track_caller]
    pub fn accepted(mut client: Client) -> WebSocket {
        check_accepted(&client.response());
        WebSocket::of(client)
    }

    /// The WebSocket that a connection has become.
    #[must_use]
    pub fn of(client: Client) -> WebSocket {
        WebSocket { client, unread: Vec::new() }
    }

    /// Sends a whole message in one frame.
    #[track_caller]
    pub fn send(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        self.client.send(frame(true, opcode, payload.as_ref()));
    }

    /// Sends these bytes and no others.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.client.send(bytes);
    }

    /// Sends a text, and expects it back.
    ///
    /// # Panics
    ///
    /// When anything else comes.
    #[track_caller]
    pub fn check_echo(&mut self, text: &str) {
        self.send(opcode::TEXT, text);
        self.check_next(opcode::TEXT, text);
    }

    /// Expects a message that is this one.
    ///
    /// # Panics
    ///
    /// When anything else comes.
    #[track_caller]
    pub fn check_next(&mut self, opcode: u8, payload: impl AsRef<[u8]>) {
        let frame = self.frame();
        let (is_final, payload) = (true, payload.as_ref().to_vec());
        // A message may be long, and nobody would read it.
        assert!(frame == Frame { is_final, opcode, payload }, "another frame: {}", shown(&frame));
    }

    /// The next frame.
    ///
    /// # Panics
    ///
    /// When there is none, or it is masked.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        let head: [u8; 2] = self.take();
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing (section 5.1)");
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.take())),
            127 => u64::from_be_bytes(self.take()),
            short => u64::from(short),
        };
        self.fill(length as usize);
        let payload = self.unread.drain(..length as usize).collect();
        Frame { is_final: head[0] & 0x80 != 0, opcode: head[0] & 0x0f, payload }
    }

    /// The end of the connection.
    ///
    /// # Panics
    ///
    /// When anything else comes.
    #[track_caller]
    pub fn end(&mut self) -> End {
        assert!(self.unread.is_empty(), "more came than was expected");
        self.client.end()
    }

    /// The connection beneath.
    #[must_use]
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.fill(N);
        let taken: Vec<u8> = self.unread.drain(..N).collect();
        taken.try_into().expect("as many as were taken")
    }

    #[track_caller]
    fn fill(&mut self, length: usize) {
        while self.unread.len() < length {
            let some = self.client.read_some(64 * 1024);
            assert!(!some.is_empty(), "the connection ended in the middle of a frame");
            self.unread.extend(some);
        }
    }
}

/// The request that asks for a WebSocket.
#[must_use]
pub fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A client's frame, masked.
#[must_use]
pub fn frame(is_final: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![u8::from(is_final) << 7 | opcode];
    match payload.len() {
        short @ ..126 => bytes.push(0x80 | short as u8),
        medium @ ..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

#[track_caller]
fn check_accepted(response: &Response) {
    assert_eq!(response.status, 101, "{}", response.text());
    assert_eq!(response.header("upgrade"), Some("websocket"));
    assert_eq!(response.header("connection"), Some("upgrade"));
    assert_eq!(response.header("sec-websocket-accept"), Some(ACCEPT));
}

fn shown(frame: &Frame) -> String {
    let start = &frame.payload[..frame.payload.len().min(80)];
    format!(
        "opcode {}, {} bytes: {}",
        frame.opcode,
        frame.payload.len(),
        String::from_utf8_lossy(start)
    )
}
