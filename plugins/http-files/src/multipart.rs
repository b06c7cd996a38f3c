//! `multipart/byteranges` (RFC 9110 section 14.6): several parts of a file in one response.

use std::hash::{BuildHasher, RandomState};

use crate::range::Span;

/// The frame round the parts: what comes before each of them, and after the last.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The boundary, without dashes.
    pub(crate) boundary: String,
    /// One for each part.
    pub(crate) heads: Vec<String>,
    pub(crate) end: String,
    /// Bytes of heads, parts and end together.
    pub(crate) length: u64,
}

/// The frame for these parts of a file of `size` bytes.
pub(crate) fn frame(spans: &[Span], size: u64, content_type: &str, boundary: String) -> Frame {
    let heads: Vec<String> = spans
        .iter()
        .map(|span| {
            let range = content_range(*span, size);
            format!(
                "\r\n--{boundary}\r\ncontent-type: {content_type}\r\ncontent-range: {range}\r\n\r\n"
            )
        })
        .collect();
    let end = format!("\r\n--{boundary}--\r\n");
    let framing = heads.iter().map(String::len).sum::<usize>() + end.len();
    let length = spans.iter().map(|span| span.length).sum::<u64>() + framing as u64;
    Frame { boundary, heads, end, length }
}

/// A boundary that nobody can have foreseen and written into the file.
pub(crate) fn new_boundary() -> String {
    let random = || RandomState::new().hash_one(0u8);
    format!("part-{:016x}{:016x}", random(), random())
}

/// The value of `Content-Range` for a part.
pub(crate) fn content_range(span: Span, size: u64) -> String {
    format!("bytes {}-{}/{size}", span.start, span.end() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_that_of_what_is_sent() {
        let spans = [Span { start: 0, length: 5 }, Span { start: 900, length: 100 }];
        let frame = frame(&spans, 1000, "text/plain", "B".into());
        let mut text = String::new();
        for (head, span) in frame.heads.iter().zip(&spans) {
            text.push_str(head);
            text.push_str(&"x".repeat(span.length as usize));
        }
        text.push_str(&frame.end);
        assert_eq!(text.len() as u64, frame.length);
        assert!(text.starts_with("\r\n--B\r\ncontent-type: text/plain\r\ncontent-range: bytes 0-4/1000\r\n\r\nxxxxx\r\n--B\r\n"));
        assert!(text.contains("bytes 900-999/1000\r\n\r\nx") && text.ends_with("x\r\n--B--\r\n"));
    }

    #[test]
    fn boundaries_differ() {
        assert_ne!(new_boundary(), new_boundary());
    }
}
