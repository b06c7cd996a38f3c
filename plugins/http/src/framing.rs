//! Watches the bytes on their way to hyper, finds where each message begins and ends, and refuses what hyper lets pass:
//! lone line feeds, two lengths, a length beside a transfer coding, a missing `Host` (RFC 9112 sections 2 to 7).
//!
//! It judges framing only. What a method, a field name or a value may consist of is left to hyper, which is strict there.
//! Bytes are looked at where they lie; only a head that comes in several reads is copied.

use memchr::memchr2;

use crate::{chunked::Chunked, refusal::Refusal};

/// Empty lines that may come before a request line (RFC 9112 section 2.2).
const EMPTY_LINES_MAX: u32 = 4;

/// What a request may come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the head, with request line and line ends.
    pub(crate) head_bytes_max: usize,
    /// Bytes of the request's target.
    pub(crate) target_bytes_max: usize,
    /// Header fields.
    pub(crate) fields_max: usize,
    /// Bytes of the body, without its framing.
    pub(crate) body_bytes_max: u64,
}

/// The bytes before `at` are good; what stands there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// For a head, where it begins, or 0 if that was in an earlier call; for a body, where it breaks.
    pub(crate) at: usize,
    pub(crate) refusal: Refusal,
    /// It is a body that is refused; its head has gone on to hyper.
    pub(crate) in_body: bool,
}

/// The watch over one connection's input.
#[derive(Debug)]
pub(crate) struct Framing {
    limits: Limits,
    state: State,
    head: Head,
    /// The head so far, if it did not come whole.
    carry: Vec<u8>,
    /// Heads that were found good.
    heads: u64,
    /// The last head that was whole, or refused, is that of a request by HEAD.
    was_head: bool,
    /// Where digits of newer versions stand in the bytes that were judged last.
    newer: Vec<usize>,
    /// Where the bytes that were judged last end for now.
    held: Option<usize>,
}

#[derive(Debug)]
enum State {
    Head,
    Body(u64),
    Chunked(Chunked),
}

/// What is known of a head whose lines up to `line` were judged.
#[derive(Debug, Default)]
struct Head {
    /// Where the first line begins that was not judged yet.
    line: usize,
    /// Up to where no line end was found.
    searched: usize,
    empty_lines: u32,
    /// The version's minor number, once the request line was judged.
    minor: Option<u8>,
    /// Where its digit stands, if it is newer than ours and was found by the last call.
    newer: Option<usize>,
    fields: usize,
    hosts: u32,
    length: Option<u64>,
    coding: Option<Coding>,
    expectation: bool,
    /// There is a field `Upgrade`, and an option of `Connection` that says that it is meant for us.
    upgrade: bool,
    is_upgrade_ours: bool,
}

/// The transfer codings so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// Others, and `chunked` after them.
    OthersThenChunked,
    /// Others, so far without `chunked` after them.
    Others,
    /// Something after `chunked`.
    AfterChunked,
}

enum Body {
    None,
    Length(u64),
    Chunked,
}

impl Framing {
    pub(crate) fn new(limits: Limits) -> Framing {
        let (head, carry) = (Head::default(), Vec::new());
        Framing {
            limits,
            state: State::Head,
            head,
            carry,
            heads: 0,
            was_head: false,
            newer: Vec::new(),
            held: None,
        }
    }

    /// Where in the bytes that were judged last the judging stopped, behind a request that asks for another protocol (RFC 9110 section
    /// 7.8): what follows is of that protocol, or of HTTP, as the answer will be. It is to be judged again if it is HTTP's.
    pub(crate) fn held(&self) -> Option<usize> {
        self.held
    }

    /// Where in the bytes that were judged last a `1` is to be written. A minor version that is newer than ours is to be read
    /// as ours (RFC 9110 section 2.5), and hyper knows none.
    pub(crate) fn newer_versions(&self) -> &[usize] {
        &self.newer
    }

    /// How many heads have been found good.
    pub(crate) fn heads(&self) -> u64 {
        self.heads
    }

    /// A head has begun and is not yet whole. Empty lines are no beginning.
    pub(crate) fn in_head(&self) -> bool {
        let line = self.carry.get(self.head.line..).unwrap_or_default();
        self.head.minor.is_some() || !matches!(line, [] | [b'\r'])
    }

    /// A line of a head has begun and is not yet whole, an empty one too.
    pub(crate) fn in_line(&self) -> bool {
        self.carry.len() > self.head.line
    }

    /// The request that was refused, here or by hyper, or that is not whole yet, is one by HEAD: its response has no body,
    /// whatever it says.
    pub(crate) fn is_for_head(&self) -> bool {
        if self.carry.is_empty() { self.was_head } else { is_head(&self.carry) }
    }

    /// A body has begun and is not yet whole.
    pub(crate) fn in_body(&self) -> bool {
        !matches!(self.state, State::Head)
    }

    /// Judges `bytes`, which follow those of the call before.
    ///
    /// # Errors
    /// What is refused, and how many of `bytes` may go on to hyper. Nothing may be judged after that.
    #[allow(dead_code, reason = "for tests and fuzzing, which look at whole inputs")]
    pub(crate) fn judge(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.newer.clear();
        self.held = None;
        let mut at = 0;
        while at < bytes.len() {
            at = self.step(bytes, at)?;
            if self.held.is_some() {
                self.held = Some(at);
                break;
            }
        }
        Ok(())
    }

    /// As [`Framing::judge`], up to the end of the message that `bytes` begin or go on with. Answers how many of them those are.
    ///
    /// # Errors
    /// As [`Framing::judge`].
    pub(crate) fn judge_message(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        self.newer.clear();
        self.held = None;
        let mut at = 0;
        while at < bytes.len() {
            at = self.step(bytes, at)?;
            if self.is_between() {
                self.held = self.held.map(|_| at);
                break;
            }
        }
        Ok(at)
    }

    /// A message has ended, and nothing has come after it.
    pub(crate) fn is_between(&self) -> bool {
        self.heads > 0 && !self.in_body() && self.carry.is_empty()
    }

    /// Judges a head, or a piece of a body, which begins at `at`. Answers where it ends.
    fn step(&mut self, bytes: &[u8], at: usize) -> Result<usize, Refused> {
        let rest = &bytes[at..];
        match &mut self.state {
            State::Head => match self.head(rest, at) {
                Ok(used) => Ok(used.map_or(bytes.len(), |used| at + used)),
                Err(refusal) => {
                    self.was_head = is_head(rest);
                    Err(Refused { at, refusal, in_body: false })
                }
            },
            State::Body(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= used as u64;
                if *left == 0 {
                    self.state = State::Head;
                }
                Ok(at + used)
            }
            State::Chunked(chunked) => match chunked.judge(rest) {
                Ok(Some(used)) => {
                    self.state = State::Head;
                    Ok(at + used)
                }
                Ok(None) => Ok(bytes.len()),
                Err((used, refusal)) => Err(Refused { at: at + used, refusal, in_body: true }),
            },
        }
    }

    /// How many of `bytes`, which begin at `at`, the head that they go on with takes, if it ends in them.
    fn head(&mut self, bytes: &[u8], at: usize) -> Result<Option<usize>, Refusal> {
        let before = self.carry.len();
        if before > 0 {
            self.carry.extend_from_slice(bytes);
        }
        let head = if before > 0 { &self.carry } else { bytes };
        let body = self.head.judge(head, &self.limits)?;
        if let Some(digit) = self.head.newer.and_then(|digit| digit.checked_sub(before)) {
            self.newer.push(at + digit);
        }
        let Some(body) = body else {
            if before == 0 {
                self.carry.extend_from_slice(bytes);
            }
            return Ok(None);
        };
        let used = self.head.line - before;
        self.was_head = is_head(head);
        self.carry = Vec::new();
        let asks_for_switch = self.head.asks_for_switch();
        self.head = Head::default();
        self.heads += 1;
        self.state = match body {
            Body::None | Body::Length(0) => {
                self.held = asks_for_switch.then_some(at);
                State::Head
            }
            Body::Length(length) => State::Body(length),
            Body::Chunked => State::Chunked(Chunked::new(&self.limits)),
        };
        Ok(Some(used))
    }
}

impl Head {
    /// Judges the lines of `head`, which begins where the head does. Answers what body follows, if the head is whole; it
    /// then ends at `self.line`.
    fn judge(&mut self, head: &[u8], limits: &Limits) -> Result<Option<Body>, Refusal> {
        self.newer = None;
        loop {
            let Some(line) = self.next_line(head)? else {
                return self.unfinished(head, limits).map(|()| None);
            };
            if self.line > limits.head_bytes_max {
                return Err(self.too_long(line, limits));
            }
            match (self.minor, line) {
                (None, []) => self.empty_lines += 1,
                (None, line) => {
                    let minor = request_line(line, limits)?;
                    self.minor = Some(minor);
                    // Before CR and LF.
                    self.newer = (minor > 1).then(|| self.line - 3);
                }
                (Some(minor), []) => return self.body(minor, limits).map(Some),
                (Some(_), [b' ' | b'\t', ..]) => return Err(Refusal::ObsFold),
                (Some(_), line) => self.field(line, limits)?,
            }
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(Refusal::EmptyLines);
            }
        }
    }

    /// The next line without its end, if it is whole.
    fn next_line<'a>(&mut self, head: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
        let from = self.searched.max(self.line);
        let Some(found) = memchr2(b'\r', b'\n', &head[from..]) else {
            self.searched = head.len();
            return Ok(None);
        };
        let end = from + found;
        if head[end] == b'\n' {
            return Err(Refusal::BareLf);
        }
        match head.get(end + 1) {
            None => {
                self.searched = end;
                Ok(None)
            }
            Some(b'\n') => {
                let line = &head[self.line..end];
                self.line = end + 2;
                Ok(Some(line))
            }
            Some(_) => Err(Refusal::BareCr),
        }
    }

    fn unfinished(&mut self, head: &[u8], limits: &Limits) -> Result<(), Refusal> {
        let line = head.len() - self.line;
        if self.minor.is_none() {
            // The digit goes on to hyper now. Behind two blanks it can be nothing else: if the line goes on, it is refused.
            let whole = head.strip_suffix(b"\r").unwrap_or(head);
            let line = &whole[self.line.min(whole.len())..];
            let is_newer = minor(line).is_some_and(|minor| minor > 1)
                && memchr::memchr_iter(b' ', line).count() == 2;
            self.newer = is_newer.then(|| whole.len() - 1);
        }
        if self.minor.is_none() && line > limits.target_bytes_max.saturating_add(64) {
            return Err(Refusal::TargetTooLong);
        }
        if head.len() > limits.head_bytes_max {
            return Err(Refusal::HeadTooLong);
        }
        Ok(())
    }

    fn too_long(&self, line: &[u8], limits: &Limits) -> Refusal {
        match self.minor {
            None if line.len() > limits.target_bytes_max => Refusal::TargetTooLong,
            _ => Refusal::HeadTooLong,
        }
    }

    fn field(&mut self, line: &[u8], limits: &Limits) -> Result<(), Refusal> {
        self.fields += 1;
        if self.fields > limits.fields_max {
            return Err(Refusal::TooManyFields);
        }
        // hyper refuses a name with a blank before its colon, so exact names are all that has to be found.
        if let Some(value) = value_of(line, b"host") {
            self.hosts += 1;
            return if is_host(value) { Ok(()) } else { Err(Refusal::BadHost) };
        }
        if let Some(value) = value_of(line, b"content-length") {
            let length = decimal(value).ok_or(Refusal::Length)?;
            return match self.length.replace(length) {
                None => Ok(()),
                Some(_) => Err(Refusal::ManyLengths),
            };
        }
        if let Some(value) = value_of(line, b"transfer-encoding") {
            self.coding = codings(self.coding, value);
        } else if let Some(value) = value_of(line, b"expect") {
            self.expectation |= !value.eq_ignore_ascii_case(b"100-continue");
        } else if let Some(value) = value_of(line, b"upgrade") {
            self.upgrade |= !value.is_empty();
        } else if let Some(value) = value_of(line, b"connection") {
            let mut options = value.split(|byte| *byte == b',');
            self.is_upgrade_ours |= options.any(|it| trim(it).eq_ignore_ascii_case(b"upgrade"));
        }
        Ok(())
    }

    /// Whether the client asks for another protocol. HTTP/1.0 has no such thing.
    fn asks_for_switch(&self) -> bool {
        self.upgrade && self.is_upgrade_ours && self.minor.is_some_and(|minor| minor > 0)
    }

    /// What body follows (RFC 9112 section 6.3), if the head as a whole can be accepted.
    fn body(&self, minor: u8, limits: &Limits) -> Result<Body, Refusal> {
        match self.hosts {
            0 if minor > 0 => return Err(Refusal::NoHost),
            0 | 1 => {}
            _ => return Err(Refusal::ManyHosts),
        }
        let body = match (self.coding, self.length) {
            (None, None) => Body::None,
            (None, Some(length)) if length > limits.body_bytes_max => {
                return Err(Refusal::BodyTooLong);
            }
            (None, Some(length)) => Body::Length(length),
            (Some(_), Some(_)) => return Err(Refusal::LengthAndCoding),
            (Some(_), None) if minor == 0 => return Err(Refusal::CodingInOldVersion),
            (Some(Coding::Others | Coding::AfterChunked), None) => {
                return Err(Refusal::CodingNotChunked);
            }
            (Some(Coding::OthersThenChunked), None) => return Err(Refusal::CodingUnknown),
            (Some(Coding::Chunked), None) => Body::Chunked,
        };
        if self.expectation { Err(Refusal::Expectation) } else { Ok(body) }
    }
}

/// Whether a head, as far as it has come, is that of a request by HEAD.
fn is_head(head: &[u8]) -> bool {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    start.is_some_and(|start| head[start..].starts_with(b"HEAD "))
}

/// The version's minor number, from a good request line (RFC 9112 section 3).
fn request_line(line: &[u8], limits: &Limits) -> Result<u8, Refusal> {
    let blank = memchr::memchr(b' ', line).ok_or(Refusal::RequestLine)?;
    let (method, rest) = (&line[..blank], &line[blank + 1..]);
    let blank = memchr::memrchr(b' ', rest).ok_or(Refusal::RequestLine)?;
    let (target, version) = (&rest[..blank], &rest[blank + 1..]);
    if method.is_empty() || target.is_empty() {
        return Err(Refusal::RequestLine);
    }
    if target.len() > limits.target_bytes_max {
        return Err(Refusal::TargetTooLong);
    }
    let minor = match minor(version) {
        Some(minor) if version.len() == 8 => minor,
        _ if version.starts_with(b"HTTP/") => return Err(Refusal::Version),
        _ => return Err(Refusal::RequestLine),
    };
    // `#` would begin a fragment, which the `http` crate cuts off without a word.
    let bad = |byte: u8| byte <= b' ' || byte >= 0x7f || byte == b'#';
    if target.iter().fold(false, |any, byte| any | bad(*byte)) || !has_form(method, target) {
        return Err(Refusal::Target);
    }
    Ok(minor)
}

/// The minor number of the version that a line ends in.
fn minor(line: &[u8]) -> Option<u8> {
    match line {
        [.., b'H', b'T', b'T', b'P', b'/', b'1', b'.', digit @ b'0'..=b'9'] => Some(digit - b'0'),
        _ => None,
    }
}

/// The target is in one of the four forms, and in that which its method may have (RFC 9112 section 3.2).
fn has_form(method: &[u8], target: &[u8]) -> bool {
    let after = |scheme: &[u8]| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &target[scheme.len()..])
    };
    match target {
        _ if method == b"CONNECT" => target[0] != b'/',
        [b'/', ..] => true,
        b"*" => method == b"OPTIONS",
        _ => after(b"http://").or_else(|| after(b"https://")).is_some_and(|rest| {
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?'));
            let authority = &rest[..end.unwrap_or(rest.len())];
            !authority.is_empty() && is_host(authority)
        }),
    }
}

/// The value of the field in `line`, without blanks around it, if its name is `name`, which is in lower case.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    if line.get(name.len()) != Some(&b':') || !line[..name.len()].eq_ignore_ascii_case(name) {
        return None;
    }
    Some(trim(&line[name.len() + 1..]))
}

/// Without blanks and tabs around it (`OWS`, RFC 9110 section 5.6.3).
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// A number of digits only, below 2^63.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    let number = value
        .iter()
        .try_fold(0u64, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?))?;
    (number < 1 << 63).then_some(number)
}

/// Host and port by their letters (RFC 3986 section 3.2.2), without user information; or nothing, which a client sends
/// whose target has no authority.
pub(crate) fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value.iter().rposition(|byte| *byte == b':') {
        Some(colon) if !value.ends_with(b"]") => (&value[..colon], &value[colon + 1..]),
        _ => (value, &b""[..]),
    };
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(byte);
    let literal = |inner: &[u8]| match inner {
        // An address of a version to come.
        [b'v' | b'V', rest @ ..] => rest.iter().position(|byte| *byte == b'.').is_some_and(|dot| {
            let (version, address) = (&rest[..dot], &rest[dot + 1..]);
            let of_address = |byte: &u8| *byte == b':' || (*byte != b'%' && name(byte));
            !version.is_empty()
                && version.iter().all(u8::is_ascii_hexdigit)
                && !address.is_empty()
                && address.iter().all(of_address)
        }),
        _ => {
            let of_address = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            !inner.is_empty() && inner.iter().all(of_address)
        }
    };
    let good = match host {
        [] => port.is_empty() && value.is_empty(),
        [b'[', inner @ .., b']'] => literal(inner),
        _ => host.iter().all(name),
    };
    good && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// The transfer codings up to and with this field's (RFC 9112 section 6.1).
fn codings(before: Option<Coding>, value: &[u8]) -> Option<Coding> {
    value.split(|byte| *byte == b',').map(trim).fold(before, |before, name| {
        let chunked = name.eq_ignore_ascii_case(b"chunked");
        Some(match (before, chunked) {
            (None, true) => Coding::Chunked,
            (None | Some(Coding::Others), false) => Coding::Others,
            (Some(Coding::Others), true) => Coding::OthersThenChunked,
            _ => Coding::AfterChunked,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { head_bytes_max: 512, target_bytes_max: 64, fields_max: 8, body_bytes_max: 1000 };

    /// What comes of `input`, whole and byte by byte: the bytes that go on and the refusal, or how many heads were good.
    fn judge(input: &[u8], step: usize) -> (usize, Result<u64, Refusal>) {
        let mut framing = Framing::new(LIMITS);
        for (index, bytes) in input.chunks(step).enumerate() {
            if let Err(refused) = framing.judge(bytes) {
                return (index * step + refused.at, Err(refused.refusal));
            }
        }
        (input.len(), Ok(framing.heads()))
    }

    fn check(input: impl AsRef<[u8]>, expected: Result<u64, Refusal>) {
        let input = input.as_ref();
        for step in [input.len().max(1), 1, 2, 7] {
            let (_, found) = judge(input, step);
            assert_eq!(found, expected, "{} in steps of {step}", input.escape_ascii());
        }
    }

    /// A request with these lines after its `Host`.
    fn with(lines: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n")
    }

    #[test]
    fn good_messages_are_counted() {
        check("", Ok(0));
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(1));
        check("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(1));
        check("GET / HTTP/1.0\r\n\r\n", Ok(1));
        check("GET / HTTP/1.1\r\nHost:\r\n\r\n", Ok(1));
        check(
            "GET / HTTP/1.1\r\nHOST:\t[::1]:8080 \r\n\r\nGET / HTTP/1.1\r\nhost: b:1\r\n\r\n",
            Ok(2),
        );
        check("GET http://b/x?y HTTP/1.1\r\nHost: a\r\n\r\n", Ok(1));
        check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Ok(1));
        check("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", Ok(1));
        check(with("Content-Length: 5") + "a\nb\nc" + &with("Content-Length: 0"), Ok(2));
        check(with("Transfer-Encoding: Chunked") + "3\r\na\nb\r\n0\r\n\r\n" + &with("X: y"), Ok(2));
        check(with("Expect: 100-Continue\r\nContent-Length: 1") + "x", Ok(1));
    }

    #[test]
    fn lines_end_in_cr_lf() {
        check("GET / HTTP/1.1\nHost: a\r\n\r\n", Err(Refusal::BareLf));
        check("GET / HTTP/1.1\r\nHost: a\n\r\n", Err(Refusal::BareLf));
        check("GET / HTTP/1.1\r\nHost: a\r\n\n", Err(Refusal::BareLf));
        check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Err(Refusal::BareLf));
        check("GET / HTTP/1.1\r\nHost: a\r\nX: y\rz\r\n\r\n", Err(Refusal::BareCr));
        check("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Err(Refusal::BareCr));
        check(with("X: y\r\n z"), Err(Refusal::ObsFold));
        check(with("X: y\r\n\tz"), Err(Refusal::ObsFold));
        check("GET / HTTP/1.1\r\n Host: a\r\n\r\n", Err(Refusal::ObsFold));
        check("\r\n".repeat(5), Err(Refusal::EmptyLines));
    }

    #[test]
    fn empty_lines_are_no_head() {
        let mut framing = Framing::new(LIMITS);
        for (bytes, in_head) in [
            ("\r", false),
            ("\n\r\n", false),
            ("G", true),
            ("ET / HTTP/1.1\r\n", true),
            ("Host: a\r\n\r", true),
            ("\n", false),
            ("\r\n", false),
        ] {
            assert_eq!(framing.judge(bytes.as_bytes()), Ok(()));
            assert_eq!(framing.in_head(), in_head, "after {bytes:?}");
        }
    }

    #[test]
    fn lengths_and_codings_do_not_conflict() {
        check(with("Content-Length: 5\r\nContent-Length: 5"), Err(Refusal::ManyLengths));
        check(with("Content-Length: 5\r\nContent-Length: 6"), Err(Refusal::ManyLengths));
        for length in [
            "",
            "+5",
            "-5",
            "5, 5",
            "5 5",
            "0x5",
            "5a",
            "9223372036854775808",
            "99999999999999999999",
        ] {
            check(with(&format!("Content-Length: {length}")), Err(Refusal::Length));
        }
        check(with("Content-Length: 1001"), Err(Refusal::BodyTooLong));
        check(
            with("Content-Length: 5\r\nTransfer-Encoding: chunked"),
            Err(Refusal::LengthAndCoding),
        );
        check(
            with("Transfer-Encoding: chunked\r\nContent-Length: 5"),
            Err(Refusal::LengthAndCoding),
        );
        check(
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            Err(Refusal::CodingInOldVersion),
        );
        for coding in [
            "gzip",
            "identity",
            "chunked, gzip",
            "chunked, chunked",
            "",
            "xchunked",
            "chunked,",
            "\"chunked\"",
            "chunked\r\nTransfer-Encoding: identity",
            "gzip, chunked, gzip",
            "gzip, chunked, gzip, chunked",
        ] {
            check(with(&format!("Transfer-Encoding: {coding}")), Err(Refusal::CodingNotChunked));
        }
        check(with("Transfer-Encoding: gzip, chunked"), Err(Refusal::CodingUnknown));
        check(
            with("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
            Err(Refusal::CodingUnknown),
        );
    }

    #[test]
    fn requests_have_one_host() {
        check("GET / HTTP/1.1\r\n\r\n", Err(Refusal::NoHost));
        check(with("Host: a"), Err(Refusal::ManyHosts));
        check("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Err(Refusal::ManyHosts));
        for host in [
            "a b", "a/b", "u@a", "a, b", "a:b", "a:", "[::1", "::1", "[]", ":80", "a:123456",
            "[g]", "[v1]", "[v.x]", "[v1.]", "[vg.x]", "[v1.%]",
        ] {
            let expected = if host == "a:" { Ok(1) } else { Err(Refusal::BadHost) };
            check(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), expected);
        }
    }

    #[test]
    fn hosts_can_be_addresses() {
        for host in ["[::1]", "[::ffff:1.2.3.4]:80", "[v1.x]", "[vAF.a:b]:1", "127.0.0.1"] {
            check(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Ok(1));
        }
    }

    #[test]
    fn a_newer_version_is_read_as_ours() {
        let input =
            b"GET / HTTP/1.2\r\nHost: a\r\n\r\nGET /HTTP/1.3 HTTP/1.9\r\nHost: a\r\nX: HTTP/1.4\r\n\r\n";
        let input = [&input[..], b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let expected =
            String::from_utf8_lossy(&input).replace("1.2\r", "1.1\r").replace("1.9\r", "1.1\r");
        for step in 1..input.len() {
            let mut framing = Framing::new(LIMITS);
            let mut output = input.clone();
            for bytes in output.chunks_mut(step) {
                framing.judge(bytes).unwrap();
                framing.newer_versions().iter().for_each(|at| bytes[*at] = b'1');
            }
            assert_eq!(
                (framing.heads(), String::from_utf8_lossy(&output)),
                (3, expected.as_str().into()),
                "{step}"
            );
        }
        check("GET / HTTP/1.2\r\n\r\n", Err(Refusal::NoHost));
    }

    #[test]
    fn request_lines_are_exact() {
        let line = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
        for bad in [
            "GET /",
            "GET",
            "GET  / HTTP/1.1",
            " GET / HTTP/1.1",
            "GET / ",
            "GET / http/1.1",
            "/ HTTP/1.1",
        ] {
            let found = judge(line(bad).as_bytes(), 1).1;
            assert!(
                matches!(found, Err(Refusal::RequestLine | Refusal::Target)),
                "{bad}: {found:?}"
            );
        }
        for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.10", "HTTP/1.", "HTTP/1.a", "HTTP/"] {
            check(line(&format!("GET / {version}")), Err(Refusal::Version));
        }
        for target in [
            "*",
            "a",
            "/a#b",
            "/a b",
            "/\u{e4}",
            "/\u{7f}",
            "ftp://a/",
            "http:///x",
            "http://u@a/",
            "//",
        ] {
            let expected = if target == "//" { Ok(1) } else { Err(Refusal::Target) };
            check(line(&format!("GET {target} HTTP/1.1")), expected);
        }
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Err(Refusal::Version));
    }

    #[test]
    fn heads_have_limits() {
        check(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(63)), Ok(1));
        check(
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(64)),
            Err(Refusal::TargetTooLong),
        );
        check(format!("GET /{}", "a".repeat(4000)), Err(Refusal::TargetTooLong));
        check(with(&"X: y\r\n".repeat(9)), Err(Refusal::TooManyFields));
        check(with(&format!("X: {}", "y".repeat(512))), Err(Refusal::HeadTooLong));
        check(with(&format!("X: {}\r\nY: {0}", "y".repeat(250))), Err(Refusal::HeadTooLong));
        check(with("Expect: 200-ok"), Err(Refusal::Expectation));
    }

    #[test]
    fn what_follows_a_request_for_another_protocol_is_held_back() {
        let asks = with("Connection: keep-alive, Upgrade\r\nUPGRADE: websocket");
        let check = |head: &str, is_held: bool| {
            let before = with("A: b");
            for step in [1000, 1, 7] {
                let mut framing = Framing::new(LIMITS);
                let input = before.clone() + head + "\x01\x02hi";
                let (mut at, mut held) = (0, None);
                for piece in input.as_bytes().chunks(step) {
                    if framing.judge(piece).is_err() {
                        break;
                    }
                    if let Some(used) = framing.held() {
                        held = Some(at + used);
                        break;
                    }
                    at += piece.len();
                }
                assert_eq!(held, is_held.then_some(before.len() + head.len()), "{head}{step}");
            }
        };
        check(&asks, true);
        check(&with("Upgrade: h2c, websocket\r\nConnection: upgrade\r\nContent-Length: 0"), true);
        check(&with("Upgrade: websocket"), false);
        check(&with("Connection: upgrade"), false);
        check(&with("Connection: upgrade\r\nUpgrade:"), false);
        check(&with("Connection: upgrades\r\nUpgrade: websocket"), false);
        check(&asks.replace("HTTP/1.1", "HTTP/1.0"), false);
        // RFC 9110 section 7.8: the whole request has to come before, and its body is not waited for.
        check(&(with("Upgrade: a\r\nConnection: upgrade\r\nContent-Length: 2") + "ab"), false);
    }

    #[test]
    fn a_bad_message_stops_after_the_good_ones() {
        let good = with("Content-Length: 3") + "abc";
        let input = good.clone() + "GET / HTTP/1.1\n\n";
        let refused = Framing::new(LIMITS).judge(input.as_bytes()).unwrap_err();
        assert_eq!(refused, Refused { at: good.len(), refusal: Refusal::BareLf, in_body: false });

        let head = with("Transfer-Encoding: chunked");
        let refused =
            Framing::new(LIMITS).judge((head.clone() + "3\r\nabcd").as_bytes()).unwrap_err();
        assert_eq!(refused, Refused { at: head.len() + 6, refusal: Refusal::Chunk, in_body: true });
    }
}
