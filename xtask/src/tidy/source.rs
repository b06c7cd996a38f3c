//! A Rust file with its comments and literals blanked out, so that looking for a word finds code only.

use std::path::Path;

use super::{Problem, TextFile};

/// A Rust file, whole and blanked.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
    /// As long as `text`, with the same line ends; what was in comments, strings and characters is spaces.
    pub(super) code: String,
}

impl<'a> Source<'a> {
    pub(super) fn of(file: &'a TextFile) -> Self {
        Self { path: &file.path, text: &file.text, code: blanked(&file.text) }
    }

    /// Where `word` stands in the code as a word of its own: byte offsets.
    pub(super) fn word(&self, word: &str) -> impl Iterator<Item = usize> {
        let bytes = self.code.as_bytes();
        let is_name = |at: Option<usize>| {
            at.and_then(|at| bytes.get(at))
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        self.code
            .match_indices(word)
            .map(|(at, _)| at)
            .filter(move |at| !is_name(at.checked_sub(1)) && !is_name(Some(at + word.len())))
    }

    pub(super) fn problem(&self, offset: usize, sentence: impl Into<String>) -> Problem {
        let line = 1 + self.text[..offset].matches('\n').count();
        Problem { file: self.path.to_path_buf(), line, sentence: sentence.into() }
    }
}

/// The text with everything that is not code made spaces. Knows nested comments, raw strings, and lifetimes from
/// characters; that is all of Rust's grammar that matters here.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        match end {
            Some(end) => {
                code[at..end]
                    .iter_mut()
                    .filter(|byte| **byte != b'\n')
                    .for_each(|byte| *byte = b' ');
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8(code).unwrap_or_default()
}

/// Where the comment or literal ends that begins at `at`, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let in_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => {
            Some(at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()))
        }
        [b'/', b'*', ..] => Some(at + comment_length(rest)),
        [b'"', ..] => Some(at + quoted_length(rest, b'"')),
        [b'r', b'"' | b'#', ..] if !in_name || bytes[at - 1] == b'b' => {
            raw_length(rest).map(|length| at + length)
        }
        [b'\'', b'\\', ..] => Some(at + quoted_length(rest, b'\'')),
        [b'\'', ..] => character_length(rest).map(|length| at + length),
        _ => None,
    }
}

fn comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`; not `r#name`.
fn raw_length(rest: &[u8]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
    let body = rest.get(1 + hashes..)?.strip_prefix(b"\"")?;
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let length = body
        .windows(end.len())
        .position(|window| window == end)
        .map_or(body.len(), |at| at + end.len());
    Some(1 + hashes + 1 + length)
}

/// `'x'`, also where x takes several bytes; not a lifetime.
fn character_length(rest: &[u8]) -> Option<usize> {
    let width = match rest.get(1)? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(2 + width)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        assert_eq!(blanked(text), expected, "of {text:?}");
    }

    #[test]
    fn only_code_is_left() {
        check("a // b\nc", "a     \nc");
        check("a /* b /* c */ d */ e", "a                   e");
        check(r#"f("a\"b", c)"#, r"f(      , c)");
        check(r##"f(r#"a"b"#, c)"##, "f(        , c)");
        check(r#"f(br"a", c)"#, "f(b    , c)");
        check(r"f('\'', 'a', 'é')", "f(    ,    ,     )");
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("r#type", "r#type");
    }

    #[test]
    fn a_word_is_found_whole() {
        let file = TextFile { path: "a.rs".into(), text: "unsafe_code unsafe{} // unsafe".into() };
        assert_eq!(Source::of(&file).word("unsafe").collect::<Vec<_>>(), [12]);
    }
}
