//! Responses that come whole, written as hyper would write them: head and body in one piece.

use http::{HeaderMap, StatusCode};
use medusa_plugin_api::{
    Instant,
    server::{Whole, WholeBody},
};
use std::time::{Duration, SystemTime};

use crate::server::Server;

/// Bytes of a date (RFC 9110 section 5.6.7).
pub(crate) const DATE_BYTES: usize = 29;

/// The longest body that is copied behind its head; a longer one is hyper's to send from where it lies.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// What was written of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rendered {
    /// Where the date stands, counted from the response's beginning, if it is ours.
    pub(crate) date_at: Option<usize>,
    /// Bytes of the body that were written.
    pub(crate) body_bytes: usize,
}

/// Writes a response that an extension gave; of a file's body nothing. `None`, with `out` as it was, for one that takes more thought.
pub(crate) fn whole(
    out: &mut Vec<u8>,
    server: &Server,
    is_head: bool,
    response: &Whole<'_>,
) -> Option<Rendered> {
    let Whole { status, body, .. } = *response;
    let has_body = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let is_usual = status.as_u16() >= 200 && status != StatusCode::RESET_CONTENT;
    let bytes = match body {
        WholeBody::Bytes(bytes) => bytes,
        WholeBody::File(_) if !has_body => return None,
        WholeBody::File(_) => b"",
    };
    if !is_usual || bytes.len() > BODY_BYTES_MAX || (is_head && body.length() == 0) {
        return None;
    }
    let before = out.len();
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(body.length()).as_bytes();
    status_line(out, status);
    let mut has_date = false;
    for (name, value) in response.fields() {
        match name {
            // The one may name others that concern one hop only; the other promises what not every response can have.
            b"connection" | b"trailer" => {
                out.truncate(before);
                return None;
            }
            // The length that GET would have need not be that of this body, which is not sent.
            b"content-length" if is_head && value != digits => {
                out.truncate(before);
                return None;
            }
            // RFC 9110 section 7.6.1: the connection is the server's affair, and so is the framing.
            b"transfer-encoding" | b"upgrade" | b"te" | b"keep-alive" | b"content-length" => {}
            b"server" if server.name.is_some() => {}
            b"server-build" if server.has_build() => {}
            _ if is_name(name) && is_value(value) => {
                has_date |= name == b"date";
                field(out, name, value);
            }
            // In lower case it may be any of the above.
            _ if name.iter().any(u8::is_ascii_uppercase) => {
                out.truncate(before);
                return None;
            }
            _ => {}
        }
    }
    if has_body {
        field(out, b"content-length", digits);
    }
    server.write_fields(out);
    let date_at = (!has_date).then(|| date(out, server) - before);
    out.extend_from_slice(b"\r\n");
    if is_head || !has_body {
        return Some(Rendered { date_at, body_bytes: 0 });
    }
    out.extend_from_slice(bytes);
    Some(Rendered { date_at, body_bytes: bytes.len() })
}

/// Writes a response of the server's own.
pub(crate) fn local(
    out: &mut Vec<u8>,
    server: &Server,
    is_head: bool,
    content_type: &str,
    body: &[u8],
) {
    status_line(out, StatusCode::OK);
    field(out, b"content-type", content_type.as_bytes());
    length(out, body.len());
    server.write_fields(out);
    date(out, server);
    out.extend_from_slice(b"\r\n");
    if !is_head {
        out.extend_from_slice(body);
    }
}

/// Writes the head of a 101 that an extension gave.
pub(crate) fn switching(out: &mut Vec<u8>, server: &Server, fields: &HeaderMap) {
    status_line(out, StatusCode::SWITCHING_PROTOCOLS);
    field(out, b"connection", b"upgrade");
    let mut has_date = false;
    for (name, value) in fields {
        match name.as_str() {
            // RFC 9110 section 8.6: there is no content that it could be the length of.
            "connection" | "transfer-encoding" | "te" | "keep-alive" | "content-length" => {}
            "server" if server.name.is_some() => {}
            "server-build" if server.has_build() => {}
            name => {
                has_date |= name == "date";
                field(out, name.as_bytes(), value.as_bytes());
            }
        }
    }
    server.write_fields(out);
    if !has_date {
        date(out, server);
    }
    out.extend_from_slice(b"\r\n");
}

/// Has the response that begins at `start` say that it is the connection's last, if it is.
pub(crate) fn close_if(is_last: bool, out: &mut Vec<u8>, start: usize) {
    if is_last && let Some(end) = memchr::memchr(b'\n', &out[start..]) {
        let at = start + end + 1;
        out.splice(at..at, *b"connection: close\r\n");
    }
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn length(out: &mut Vec<u8>, length: usize) {
    let mut digits = itoa::Buffer::new();
    field(out, b"content-length", digits.format(length).as_bytes());
}

/// Writes the date, and answers where it stands.
fn date(out: &mut Vec<u8>, server: &Server) -> usize {
    field(out, b"date", server.date.borrow().text());
    out.len() - DATE_BYTES - 2
}

/// The time as a header field has it, made anew once a second.
#[derive(Debug)]
pub(crate) struct Date {
    text: [u8; DATE_BYTES],
    until: Instant,
}

impl Date {
    pub(crate) fn new() -> Date {
        let mut date = Date { text: [b' '; DATE_BYTES], until: Instant::now() };
        date.make();
        date
    }

    /// As it is written.
    pub(crate) fn text(&self) -> &[u8; DATE_BYTES] {
        &self.text
    }

    /// Makes it anew if its second has passed.
    pub(crate) fn refresh(&mut self, now: Instant) {
        if now >= self.until {
            self.make();
        }
    }

    fn make(&mut self) {
        let now = SystemTime::now();
        // Its length is always the same, until the year 10000.
        if let Ok(text) = httpdate::fmt_http_date(now).as_bytes().try_into() {
            self.text = text;
        }
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = 1_000_000_000 - since_epoch.subsec_nanos();
        self.until = Instant::now() + Duration::from_nanos(left.into());
    }
}

/// RFC 9110 section 5.1: a token, here in lower case.
fn is_name(name: &[u8]) -> bool {
    const TOKEN: [bool; 256] = {
        let mut token = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            let letter = byte as u8;
            token[byte] = letter.is_ascii_lowercase() || letter.is_ascii_digit();
            byte += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < others.len() {
            token[others[at] as usize] = true;
            at += 1;
        }
        token
    };
    !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// RFC 9110 section 5.5: nothing that could end the line.
fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .fold(true, |good, byte| good & ((*byte >= b' ' && *byte != 0x7f) | (*byte == b'\t')))
}
