//! Byte ranges (RFC 9110 section 14): which parts of a file a request wants.

/// Two ranges with no more bytes than this between them become one: the head of a part is longer.
const GAP_BYTES_MAX: u64 = 80;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u64,
    /// Never 0.
    pub(crate) length: u64,
}

impl Span {
    /// Behind its last byte.
    pub(crate) fn end(self) -> u64 {
        self.start + self.length
    }
}

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// 200: the range is none, is in another unit, or asks for too many parts.
    Whole,
    /// 206 with this part.
    One(Span),
    /// 206 with these, at least two, none of which touch.
    Many(Vec<Span>),
    /// 416.
    Unsatisfiable,
}

/// Reads the value of `Range` for a file of `size` bytes. More than `ranges_max` ranges are not looked at.
pub(crate) fn select(value: &[u8], size: u64, ranges_max: usize) -> Selection {
    let Some(set) = byte_set(value) else { return Selection::Whole };
    let mut spans = Vec::new();
    let mut count = 0;
    for spec in set.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        // RFC 9110 section 5.6.1.2: empty elements of a list are ignored.
        if spec.is_empty() {
            continue;
        }
        count += 1;
        match span(spec, size) {
            _ if count > ranges_max => return Selection::Whole,
            None => return Selection::Whole,
            Some(None) => {}
            Some(Some(span)) => spans.push(span),
        }
    }
    match (count, spans.len()) {
        (0, _) => Selection::Whole,
        // No part of an empty file can be named in `Content-Range`, and the whole is as good an answer.
        (_, 0) if size == 0 && set.trim_ascii().starts_with(b"-") => Selection::Whole,
        (_, 0) => Selection::Unsatisfiable,
        _ => coalesce(spans),
    }
}

/// What follows `bytes=`.
fn byte_set(value: &[u8]) -> Option<&[u8]> {
    let equals = value.iter().position(|byte| *byte == b'=')?;
    let (unit, set) = (&value[..equals], &value[equals + 1..]);
    unit.trim_ascii().eq_ignore_ascii_case(b"bytes").then_some(set)
}

/// The part that one range means: `None` if it is malformed, `Some(None)` if the file has no such part.
fn span(spec: &[u8], size: u64) -> Option<Option<Span>> {
    let dash = spec.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        let length = number(last)?.min(size);
        return Some((length > 0).then(|| Span { start: size - length, length }));
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    let last = last.min(size.saturating_sub(1));
    Some((first < size).then(|| Span { start: first, length: last - first + 1 }))
}

/// A number of digits only; one that is too large counts as the largest.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    }))
}

/// Joins ranges that overlap or all but touch; if none do, their order stays (RFC 9110 section 15.3.7.2).
fn coalesce(spans: Vec<Span>) -> Selection {
    let mut sorted = spans.clone();
    sorted.sort_by_key(|span| span.start);
    let mut joined: Vec<Span> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match joined.last_mut() {
            Some(last) if span.start <= last.end().saturating_add(GAP_BYTES_MAX) => {
                last.length = last.end().max(span.end()) - last.start;
            }
            _ => joined.push(span),
        }
    }
    match joined[..] {
        [span] => Selection::One(span),
        _ if joined.len() == spans.len() => Selection::Many(spans),
        _ => Selection::Many(joined),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For a file of 1,000 bytes, parts as `(first, last)`.
    fn check(value: &str, expected: &[(u64, u64)]) {
        let spans: Vec<Span> = expected
            .iter()
            .map(|(first, last)| Span { start: *first, length: last - first + 1 })
            .collect();
        let expected = match spans[..] {
            [span] => Selection::One(span),
            _ => Selection::Many(spans),
        };
        assert_eq!(select(value.as_bytes(), 1000, 4), expected, "{value}");
    }

    #[test]
    fn single_ranges() {
        check("bytes=0-0", &[(0, 0)]);
        check("bytes=0-999", &[(0, 999)]);
        check("bytes=0-", &[(0, 999)]);
        check("bytes=999-", &[(999, 999)]);
        check("bytes=500-9999", &[(500, 999)]);
        check("bytes=-1", &[(999, 999)]);
        check("bytes=-5000", &[(0, 999)]);
        check("Bytes = 1-2", &[(1, 2)]);
        check("bytes= 1-2 , ", &[(1, 2)]);
        check("bytes=5-99999999999999999999999", &[(5, 999)]);
    }

    #[test]
    fn several_ranges() {
        check("bytes=0-0,500-501,-1", &[(0, 0), (500, 501), (999, 999)]);
        check("bytes=500-501,0-0", &[(500, 501), (0, 0)]);
        check("bytes=0-0,2000-3000", &[(0, 0)]);
        check("bytes=0-99,50-150", &[(0, 150)]);
        check("bytes=100-199,0-99", &[(0, 199)]);
        check("bytes=0-9,90-99", &[(0, 99)]);
        check("bytes=0-9,91-99", &[(0, 9), (91, 99)]);
        check("bytes=900-999,0-9,0-5,0-7", &[(0, 9), (900, 999)]);
        check("bytes=0-,0-,0-,0-", &[(0, 999)]);
    }

    #[test]
    fn others_are_ignored_or_refused() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "lines=0-1",
            "bytes=a-b",
            "bytes=1",
            "bytes=--1",
            "bytes=2-1",
            "bytes=-",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=0x1-2",
            "bytes=0-1,x",
            "bytes=1 - 2",
            "0-1",
            "bytes=0-0,1-1,2-2,3-3,4-4",
        ] {
            assert_eq!(select(value.as_bytes(), 1000, 4), Selection::Whole, "{value}");
        }
        for value in ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=5000-,6000-"] {
            assert_eq!(select(value.as_bytes(), 1000, 4), Selection::Unsatisfiable, "{value}");
        }
        assert_eq!(select(b"bytes=0-", 0, 4), Selection::Unsatisfiable);
        assert_eq!(select(b"bytes=-5", 0, 4), Selection::Whole);
    }

    #[test]
    fn parts_lie_in_the_file_and_do_not_touch() {
        for first in 0..40u64 {
            for size in [0, 1, 7, 300, u64::MAX] {
                let value = format!("bytes={first}-{},-{first},{}-", first * 7, first * first);
                let Selection::Many(spans) = select(value.as_bytes(), size, 4) else { continue };
                assert!(spans.iter().all(|span| span.length > 0 && span.end() <= size), "{value}");
                let mut spans = spans;
                spans.sort_by_key(|span| span.start);
                assert!(spans.windows(2).all(|pair| pair[0].end() < pair[1].start), "{value}");
            }
        }
    }
}
