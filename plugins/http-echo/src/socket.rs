//! One WebSocket: from the bytes that come to those that go back. It never waits, and what it holds between two calls is bytes, so that it
//! can rest, and go on in another image of the plugin, at any point.
//!
//! What the bytes mean is tungstenite's to know: it is given whole frames only, so that nothing stays behind in its buffers.

use std::io::{self, Cursor, Read, Write};

use medusa_plugin_api::prelude::*;
use serde::{Deserialize, Serialize};
use tungstenite::{
    Error as WebSocketError, Message,
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{
            FrameHeader,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use crate::config::Settings;

/// The room that tungstenite makes beforehand for each socket that is not idle, in bytes.
const BUFFER_BYTES: usize = 4 * 1024;

/// What a client may send.
pub(crate) struct Limits {
    config: WebSocketConfig,
    message_bytes_max: u64,
}

/// A WebSocket. Idle it holds nothing.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Socket {
    /// What has come of a frame that is not whole.
    #[serde(with = "serde_bytes")]
    input: Vec<u8>,
    /// The frames that have come of a message that is not whole.
    #[serde(with = "serde_bytes")]
    message: Vec<u8>,
    /// A close frame was sent, and the client's is waited for.
    is_closing: bool,
    /// What these amount to; made of them when it is missing.
    #[serde(skip)]
    context: Option<Box<WebSocketContext>>,
}

/// What is to be sent.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) bytes: Vec<u8>,
    /// The connection is to be closed then.
    pub(crate) is_last: bool,
}

/// The two directions, as tungstenite reads and writes them.
#[derive(Default)]
struct Pipe<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Limits {
        let bytes_max = settings.message_bytes_max.as_usize();
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(bytes_max))
            .max_frame_size(Some(bytes_max));
        Limits { config, message_bytes_max: bytes_max as u64 }
    }
}

impl Socket {
    /// Whether the client's close frame is all that is waited for.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Takes what has come, and answers every frame that is whole by now.
    pub(crate) fn receive(&mut self, bytes: &[u8], limits: &Limits) -> Reply {
        let mut context = self.take_context(limits);
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let (mut at, mut pipe) = (0, Pipe::default());
        while let Some(frame) = whole_frame(&input[at..], limits) {
            self.note(frame);
            at += frame.len();
            pipe.input = frame;
            if let Err(error) = answer(&mut context, &mut pipe) {
                return close(&mut context, pipe, &error);
            }
        }
        let bytes = pipe.output;
        input.drain(..at);
        self.input = input;
        self.keep(context);
        Reply { bytes, is_last: false }
    }

    /// Says that this end goes away (RFC 6455 section 7.4.1).
    pub(crate) fn go_away(&mut self, limits: &Limits) -> Reply {
        let mut context = self.take_context(limits);
        let mut pipe = Pipe::default();
        let frame = CloseFrame { code: CloseCode::Away, reason: "the server goes away".into() };
        // Nothing that is written to memory fails.
        let _ = context.close(&mut pipe, Some(frame));
        self.is_closing = true;
        self.keep(context);
        Reply { bytes: pipe.output, is_last: false }
    }

    fn take_context(&mut self, limits: &Limits) -> Box<WebSocketContext> {
        self.context.take().unwrap_or_else(|| {
            let mut context = Box::new(WebSocketContext::new(Role::Server, Some(limits.config)));
            // It was answered when it came.
            let mut pipe = Pipe { input: &self.message, output: Vec::new() };
            let _ = answer(&mut context, &mut pipe);
            if self.is_closing {
                let _ = context.close(&mut pipe, None);
            }
            context
        })
    }

    /// Keeps what has been made of the bytes, unless it is nothing.
    fn keep(&mut self, context: Box<WebSocketContext>) {
        if self.is_closing || !self.message.is_empty() {
            self.context = Some(context);
        }
    }

    /// Remembers a frame if its message goes on behind it.
    fn note(&mut self, frame: &[u8]) {
        let Ok(Some((header, length))) = FrameHeader::parse(&mut Cursor::new(frame)) else {
            return;
        };
        match header.opcode {
            OpCode::Control(_) => {}
            OpCode::Data(_) if header.is_final => self.message.clear(),
            // One that adds nothing need not be had again; there may be any number of them.
            OpCode::Data(Data::Continue) if length == 0 => {}
            OpCode::Data(_) => self.message.extend_from_slice(frame),
        }
    }
}

/// The frame that `input` begins with, if it is whole; all of `input` if it is one that will be refused.
fn whole_frame<'a>(input: &'a [u8], limits: &Limits) -> Option<&'a [u8]> {
    let mut cursor = Cursor::new(input);
    match FrameHeader::parse(&mut cursor) {
        Ok(None) => None,
        Ok(Some((_, length))) if length <= limits.message_bytes_max => {
            let end = usize::try_from(cursor.position() + length).ok()?;
            input.get(..end)
        }
        _ => Some(input),
    }
}

/// Has the frames in `pipe` answered: messages by themselves, the others as the protocol says.
fn answer(context: &mut WebSocketContext, pipe: &mut Pipe<'_>) -> Result<(), WebSocketError> {
    loop {
        match context.read(pipe) {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) if context.can_write() => {
                context.write(pipe, message)?;
            }
            Ok(_) => {}
            Err(WebSocketError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return context.flush(pipe);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The last reply: a close frame with the reason, unless both ends have said that they close.
fn close(context: &mut WebSocketContext, mut pipe: Pipe<'_>, error: &WebSocketError) -> Reply {
    let code = match error {
        WebSocketError::ConnectionClosed => None,
        WebSocketError::Capacity(_) => Some(CloseCode::Size),
        WebSocketError::Utf8(_) => Some(CloseCode::Invalid),
        _ => Some(CloseCode::Protocol),
    };
    if let Some(code) = code {
        let frame = CloseFrame { code, reason: error.to_string().into() };
        // As in `go_away`; and if a close frame was sent before, this one is not.
        let _ = context.close(&mut pipe, Some(frame));
    }
    Reply { bytes: pipe.output, is_last: true }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
