//! The plain request: GET or HEAD by HTTP/1.1, whole in one read, without a body and with nothing that would make its connection
//! another than HTTP's. Most requests are, and these need no state between two reads.
//!
//! What this takes is a part of what [`crate::framing`] and hyper take together, and means the same to all three; whatever is
//! doubtful is not plain, and theirs to judge.

use std::{mem::MaybeUninit, ops::Range};

use memchr::memchr_iter;
use smallvec::SmallVec;

use crate::framing::{Limits, is_host};

/// The most header fields of a plain request.
const FIELDS_MAX: usize = 64;

/// Where the parts of a plain request lie in the bytes that it came in.
#[derive(Debug)]
pub(crate) struct Plain {
    /// Bytes of the head, which is the whole request.
    pub(crate) length: usize,
    /// HEAD, not GET.
    pub(crate) is_head: bool,
    /// The client sends no request after this one.
    pub(crate) is_last: bool,
    path: Range<usize>,
    query: Option<Range<usize>>,
    host: Range<usize>,
    fields: SmallVec<[Field; 16]>,
}

#[derive(Debug)]
struct Field {
    name: Range<u32>,
    value: Range<u32>,
}

impl Plain {
    /// The plain request that `bytes` begin with, if they do. The names of its fields are written in lower case, which changes
    /// nothing for whoever else reads the bytes.
    pub(crate) fn parse(bytes: &mut [u8], limits: &Limits) -> Option<Plain> {
        let is_head = match bytes {
            [b'G', b'E', b'T', b' ', b'/', ..] => false,
            [b'H', b'E', b'A', b'D', b' ', b'/', ..] => true,
            _ => return None,
        };
        let mut found = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(bytes, &mut found);
        let Ok(httparse::Status::Complete(length)) = parsed else { return None };
        let target = request.path.filter(|target| is_plain_target(target.as_bytes()))?;
        let is_within = length <= limits.head_bytes_max
            && target.len() <= limits.target_bytes_max
            && request.headers.len() <= limits.fields_max;
        if !is_within || request.version != Some(1) || !has_whole_line_ends(&bytes[..length]) {
            return None;
        }
        let (mut host, mut is_last) = (None, false);
        let mut fields: SmallVec<[Field; 16]> = SmallVec::new();
        for field in request.headers.iter() {
            let (name, value) = (field.name.as_bytes(), field.value);
            match (name.len(), name.first().map(u8::to_ascii_lowercase)) {
                (4, Some(b'h')) if name.eq_ignore_ascii_case(b"host") => {
                    if host.is_some() || !is_host(value) {
                        return None;
                    }
                    host = Some(range(bytes, value));
                }
                (10, Some(b'c')) if name.eq_ignore_ascii_case(b"connection") => {
                    is_last |= value.eq_ignore_ascii_case(b"close");
                    if !is_last && !value.eq_ignore_ascii_case(b"keep-alive") {
                        return None;
                    }
                }
                (6 | 7 | 14 | 17, Some(b'c' | b'e' | b't' | b'u')) if is_special(name) => {
                    return None;
                }
                _ => {}
            }
            fields.push(Field { name: short_range(bytes, name), value: short_range(bytes, value) });
        }
        let host = host?;
        let target = range(bytes, target.as_bytes());
        let question = memchr::memchr(b'?', &bytes[target.clone()]).map(|at| target.start + at);
        for field in &fields {
            bytes[long(&field.name)].make_ascii_lowercase();
        }
        Some(Plain {
            length,
            is_head,
            is_last,
            path: target.start..question.unwrap_or(target.end),
            query: question.map(|question| question + 1..target.end),
            host,
            fields,
        })
    }

    /// The method.
    pub(crate) fn method(&self) -> &'static str {
        if self.is_head { "HEAD" } else { "GET" }
    }

    /// The path, as it came.
    pub(crate) fn path<'a>(&self, bytes: &'a [u8]) -> &'a str {
        text(bytes, &self.path)
    }

    /// Path and query, as they came.
    pub(crate) fn target<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let end = self.query.as_ref().map_or(self.path.end, |query| query.end);
        &bytes[self.path.start..end]
    }

    /// The first value of a field; the name in lower case.
    pub(crate) fn field<'a>(&'a self, bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
        self.fields(bytes).find(|(field, _)| *field == name).map(|(_, value)| value)
    }

    /// What follows the `?`.
    pub(crate) fn query<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        self.query.as_ref().map(|query| text(bytes, query))
    }

    /// The value of `Host`, unless it is empty.
    pub(crate) fn host<'a>(&self, bytes: &'a [u8]) -> Option<&'a str> {
        Some(text(bytes, &self.host)).filter(|host| !host.is_empty())
    }

    /// The fields, names in lower case.
    pub(crate) fn fields<'a>(
        &'a self,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.fields.iter().map(|field| (&bytes[long(&field.name)], &bytes[long(&field.value)]))
    }
}

/// Path and query of letters that every reader takes for the same.
fn is_plain_target(target: &[u8]) -> bool {
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            plain[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let others = b"-._~!$&'()*+,;=:@/%?";
        let mut at = 0;
        while at < others.len() {
            plain[others[at] as usize] = true;
            at += 1;
        }
        plain
    };
    target.iter().all(|byte| PLAIN[usize::from(*byte)])
}

/// Every line ends in CR and LF; the parser would take LF alone.
fn has_whole_line_ends(head: &[u8]) -> bool {
    memchr_iter(b'\n', head).all(|at| at > 0 && head[at - 1] == b'\r')
}

/// Fields that say something of the message or its connection that a plain request has not.
fn is_special(name: &[u8]) -> bool {
    [&b"content-length"[..], b"transfer-encoding", b"expect", b"upgrade"]
        .iter()
        .any(|special| name.eq_ignore_ascii_case(special))
}

/// Where `part` lies in `bytes`, of which it is a part.
fn range(bytes: &[u8], part: &[u8]) -> Range<usize> {
    // An empty value may be nobody's.
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
    start..start + part.len()
}

/// As [`range`]; the limits keep a head far below what 32 bits count.
fn short_range(bytes: &[u8], part: &[u8]) -> Range<u32> {
    let range = range(bytes, part);
    range.start as u32..range.end as u32
}

fn long(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

/// A part of ASCII letters, as all parts are that this is asked for.
fn text<'a>(bytes: &'a [u8], part: &Range<usize>) -> &'a str {
    std::str::from_utf8(&bytes[part.clone()]).unwrap_or_default()
}
