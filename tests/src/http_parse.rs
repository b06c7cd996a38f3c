//! RFC 9112 responses, read without any mercy: a server that is lax must not pass its tests.

use std::fmt;

/// A whole response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// The minor version: 1 of HTTP/1.1.
    pub minor_version: u8,
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// Header fields as they came.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// What came after a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Interim (1xx) responses that came before it.
    pub interim: Vec<Self>,
    /// Whether only the end of the connection ended the body.
    pub lasted_until_end: bool,
}

/// Why there is no whole response; with what was received of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The peer closed in order before a response was whole, or instead of it.
    Closed {
        /// What came.
        received: Vec<u8>,
    },
    /// The peer reset the connection.
    Reset {
        /// What came.
        received: Vec<u8>,
    },
    /// Nothing came for half a minute.
    Silent {
        /// What came.
        received: Vec<u8>,
    },
    /// What came is no response by RFC 9112.
    Malformed {
        /// The rule that was broken.
        why: String,
        /// What came.
        received: Vec<u8>,
    },
}

/// How far a parse has come.
pub(crate) enum Progress {
    Whole { response: Response, length: usize },
    WantsMore,
}

/// What a parser of a part returns: nothing where more bytes are wanted.
type Parsed<T> = Result<Option<T>, String>;

impl Response {
    /// Reads one response from the beginning of `bytes`, an interim one too, and says how long it is; `None` if it is not whole.
    /// `has_ended` tells that no more will come, `is_head` that the request was HEAD.
    ///
    /// # Errors
    ///
    /// When it breaks a rule of RFC 9112, or the end comes too early.
    pub fn parse(
        bytes: &[u8],
        has_ended: bool,
        is_head: bool,
    ) -> Result<Option<(Self, usize)>, Broken> {
        Ok(match parse(bytes, has_ended, is_head)? {
            Progress::Whole { response, length } => Some((response, length)),
            Progress::WantsMore => None,
        })
    }

    /// The value of a header field that may occur once at most.
    ///
    /// # Panics
    ///
    /// When it occurs twice.
    #[must_use]
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        let value = values.next();
        assert!(values.next().is_none(), "{name} occurs twice in {:?}", self.headers);
        value.map(|(_, value)| value.as_str())
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// When it is not UTF-8.
    #[must_use]
    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body should be text")
    }
}

/// Reads one response from the beginning of `bytes`.
pub(crate) fn parse(bytes: &[u8], has_ended: bool, is_head: bool) -> Result<Progress, Broken> {
    match parse_response(bytes, has_ended, is_head) {
        Ok(Some((response, length))) => Ok(Progress::Whole { response, length }),
        Ok(None) if has_ended => Err(Broken::Closed { received: bytes.to_vec() }),
        Ok(None) => Ok(Progress::WantsMore),
        Err(why) => Err(Broken::Malformed { why, received: bytes.to_vec() }),
    }
}

fn parse_response(bytes: &[u8], has_ended: bool, is_head: bool) -> Parsed<(Response, usize)> {
    let Some((status_line, mut at)) = line(bytes, 0)? else { return Ok(None) };
    let mut response = parse_status_line(status_line)?;
    let Some(after_head) = parse_fields(bytes, at, &mut response.headers)? else { return Ok(None) };
    at = after_head;

    match framing(&response, is_head)? {
        Framing::Nothing => {}
        Framing::Length(length) => {
            let Some(body) = bytes.get(at..at + length) else { return Ok(None) };
            response.body = body.to_vec();
            at += length;
        }
        Framing::Chunked => {
            let Some(after_body) = parse_chunks(bytes, at, &mut response)? else { return Ok(None) };
            at = after_body;
        }
        Framing::UntilEnd => {
            if !has_ended {
                return Ok(None);
            }
            response.body = bytes[at..].to_vec();
            response.lasted_until_end = true;
            at = bytes.len();
        }
    }
    Ok(Some((response, at)))
}

enum Framing {
    Nothing,
    Length(usize),
    Chunked,
    UntilEnd,
}

/// RFC 9112 section 6.3, with what section 6.1 and 6.2 forbid a server.
fn framing(response: &Response, is_head: bool) -> Result<Framing, String> {
    let values = |name: &str| -> Vec<&str> {
        let fields = response.headers.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let status = response.status;
    if lengths.len() > 1 || codings.len() > 1 || (!lengths.is_empty() && !codings.is_empty()) {
        return Err("more than one of content-length and transfer-encoding".into());
    }
    if (status / 100 == 1 || status == 204) && !(lengths.is_empty() && codings.is_empty()) {
        return Err(format!(
            "a {status} has no content, so neither content-length nor transfer-encoding"
        ));
    }
    let length = lengths.first().map(|length| decimal(length)).transpose()?;
    if codings.first().is_some_and(|coding| !coding.eq_ignore_ascii_case("chunked")) {
        return Err(format!("a transfer coding that nobody asked for: {}", codings[0]));
    }
    if is_head || status / 100 == 1 || status == 204 || status == 304 {
        return Ok(Framing::Nothing);
    }
    Ok(match (length, codings.is_empty()) {
        (Some(length), _) => Framing::Length(length),
        (None, false) => Framing::Chunked,
        (None, true) => Framing::UntilEnd,
    })
}

/// `HTTP/1.1 200 OK`; the space before the reason must stand there even without a reason (RFC 9112 section 4).
fn parse_status_line(line: &str) -> Result<Response, String> {
    let wrong = || format!("no status line: {line:?}");
    let rest = line.strip_prefix("HTTP/1.").ok_or_else(wrong)?;
    let mut words = rest.splitn(3, ' ');
    let minor_version =
        words.next().and_then(|it| it.parse().ok()).filter(|it| *it <= 1).ok_or_else(wrong)?;
    let status =
        words.next().filter(|it| it.len() == 3).and_then(|it| it.parse().ok()).ok_or_else(wrong)?;
    let reason = words.next().ok_or_else(wrong)?.to_owned();
    if !(100..600).contains(&status) {
        return Err(wrong());
    }
    Ok(Response { minor_version, status, reason, ..Response::default() })
}

/// Fields up to the empty line; returns where it ends.
fn parse_fields(bytes: &[u8], mut at: usize, fields: &mut Vec<(String, String)>) -> Parsed<usize> {
    loop {
        let Some((text, after)) = line(bytes, at)? else { return Ok(None) };
        at = after;
        if text.is_empty() {
            return Ok(Some(at));
        }
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| format!("a header line without a colon: {text:?}"))?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("a header name that is no token: {name:?}"));
        }
        if value.bytes().any(|byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
            return Err(format!("a control character in the value of {name}"));
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

/// RFC 9112 section 7.1; returns where the body ends.
fn parse_chunks(bytes: &[u8], mut at: usize, response: &mut Response) -> Parsed<usize> {
    loop {
        let Some((text, after)) = line(bytes, at)? else { return Ok(None) };
        let digits = text.split(';').next().unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_hexdigit()) {
            return Err(format!("no chunk size: {text:?}"));
        }
        let size = usize::from_str_radix(digits, 16)
            .map_err(|error| format!("chunk size {digits}: {error}"))?;
        if size == 0 {
            return parse_fields(bytes, after, &mut response.trailers);
        }
        let Some(chunk) = bytes.get(after..after + size) else { return Ok(None) };
        let Some(end) = bytes.get(after + size..after + size + 2) else { return Ok(None) };
        if end != b"\r\n" {
            return Err(format!("a chunk of {size} bytes is not followed by CRLF"));
        }
        response.body.extend_from_slice(chunk);
        at = after + size + 2;
    }
}

/// The line that begins at `at`, without its CRLF, and where the next one begins. A bare CR or LF is an error.
fn line(bytes: &[u8], at: usize) -> Parsed<(&str, usize)> {
    let rest = &bytes[at..];
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let text = rest[..end].strip_suffix(b"\r").ok_or("a line that ends in a bare LF")?;
    if text.contains(&b'\r') {
        return Err("a bare CR within a line".into());
    }
    let text = std::str::from_utf8(text).map_err(|_| "a head that is not UTF-8")?;
    Ok(Some((text, at + end + 1)))
}

fn decimal(text: &str) -> Result<usize, String> {
    let is_decimal = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    text.parse().ok().filter(|_| is_decimal).ok_or_else(|| format!("no content-length: {text:?}"))
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

impl Broken {
    /// Bytes as one can read them, the middle of many left out.
    pub(crate) fn shown(bytes: &[u8]) -> String {
        match bytes.len() {
            0 => "nothing".into(),
            1..=2000 => format!("{} bytes: \"{}\"", bytes.len(), bytes.escape_ascii()),
            n => format!(
                "{n} bytes: \"{}\" … \"{}\"",
                bytes[..1500].escape_ascii(),
                bytes[n - 400..].escape_ascii()
            ),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, received) = match self {
            Self::Closed { received } => ("the peer closed", received),
            Self::Reset { received } => ("the peer reset the connection", received),
            Self::Silent { received } => ("nothing more came", received),
            Self::Malformed { why, received } => (why.as_str(), received),
        };
        write!(f, "{what}; received: {}", Self::shown(received))
    }
}

impl std::error::Error for Broken {}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        match parse(text.as_bytes(), true, false) {
            Err(Broken::Malformed { why, .. }) => {
                assert!(why.contains(expected), "{why} for {text:?}")
            }
            _ => panic!("{text:?} should be malformed: {expected}"),
        }
    }

    #[test]
    fn what_is_lax_is_malformed() {
        check("HTTP/1.1 200\r\n\r\n", "no status line");
        check("HTTP/1.2 200 OK\r\n\r\n", "no status line");
        check("HTTP/1.1 200 OK\n\n", "bare LF");
        check("HTTP/1.1 200 OK\r\na: b\rc\r\n\r\n", "bare CR");
        check("HTTP/1.1 200 OK\r\na : b\r\n\r\n", "no token");
        check("HTTP/1.1 200 OK\r\na\r\n\r\n", "without a colon");
        check("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n", "without a colon");
        check("HTTP/1.1 200 OK\r\na: \x01\r\n\r\n", "control character");
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
            "more than one",
        );
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\na",
            "more than one",
        );
        check("HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\na", "no content-length");
        check("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", "has no content");
        check("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", "nobody asked for");
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n",
            "no chunk size",
        );
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "not followed by CRLF",
        );
    }
}
