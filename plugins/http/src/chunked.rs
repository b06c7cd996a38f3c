//! The framing of a chunked body, byte by byte (RFC 9112 section 7.1): sizes, extensions, trailers. What the data is
//! does not matter here.

use crate::{framing::Limits, refusal::Refusal};

/// Bytes of chunk extensions in one body; nobody uses them but attackers.
const EXTENSION_BYTES_MAX: u32 = 4096;

/// Bytes of trailers, with their line ends, if a head may have more: hyper gives up at 16 KiB, and has no page for it.
const TRAILER_BYTES_MAX: usize = 16 * 1024 - 16;

/// How far a chunked body has come.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// Bytes of data that may still come.
    data_left: u64,
    /// Bytes of trailers that may still come, and fields.
    trailer_left: usize,
    trailer_fields_left: usize,
    extension_left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the size, of which so many digits have come.
    Size {
        digits: u8,
        size: u64,
    },
    /// In blanks between the size and an extension. hyper takes them without an extension too; RFC 9112 section 7.1.1 does
    /// not.
    Blank {
        size: u64,
    },
    /// In an extension.
    Extension {
        size: u64,
    },
    /// In a quoted string of an extension.
    Quoted {
        size: u64,
    },
    /// Behind a backslash in it.
    Escaped {
        size: u64,
    },
    /// Before the LF of the size's line.
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// At the beginning of a line after the last chunk.
    TrailerLine,
    /// In the name of a trailer field.
    TrailerName,
    /// In its value.
    TrailerValue,
    TrailerLf,
    /// Before the last LF.
    EndLf,
}

impl Chunked {
    /// A body that begins now.
    pub(crate) fn new(limits: &Limits) -> Chunked {
        Chunked {
            state: State::Size { digits: 0, size: 0 },
            data_left: limits.body_bytes_max,
            trailer_left: limits.head_bytes_max.min(TRAILER_BYTES_MAX),
            trailer_fields_left: limits.fields_max,
            extension_left: EXTENSION_BYTES_MAX,
        }
    }

    /// Judges `bytes`. Answers how many of them belong to the body, if it ends in them.
    ///
    /// # Errors
    /// How many bytes are good, and what is wrong with the next.
    pub(crate) fn judge(&mut self, bytes: &[u8]) -> Result<Option<usize>, (usize, Refusal)> {
        let mut at = 0;
        while at < bytes.len() {
            if let State::Data { left } = self.state {
                let used = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                let left = left - used as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
                at += used;
                continue;
            }
            match self.step(bytes[at]) {
                Ok(Some(state)) => self.state = state,
                Ok(None) => return Ok(Some(at + 1)),
                Err(refusal) => return Err((at, refusal)),
            }
            at += 1;
        }
        Ok(None)
    }

    /// The state after `byte`; `None` at the end of the body.
    fn step(&mut self, byte: u8) -> Result<Option<State>, Refusal> {
        Ok(Some(match (self.state, byte) {
            (State::Size { digits, size }, _) if byte.is_ascii_hexdigit() => {
                // 15 digits cannot overflow, and no honest body needs more.
                if digits == 15 {
                    return Err(Refusal::Chunk);
                }
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                State::Size { digits: digits + 1, size: size * 16 + digit }
            }
            (State::Size { digits: 0, .. }, _) => return Err(Refusal::Chunk),
            (State::Size { size, .. } | State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Size { size, .. } | State::Blank { size }, b';') => State::Extension { size },
            (State::Size { size, .. } | State::Blank { size }, b' ' | b'\t') => {
                self.extension(State::Blank { size })?
            }
            (State::Extension { size }, b'"') => self.extension(State::Quoted { size })?,
            (State::Extension { size }, b' '..=0x7e | b'\t') => {
                self.extension(State::Extension { size })?
            }
            (State::Quoted { size }, b'"') => self.extension(State::Extension { size })?,
            (State::Quoted { size }, b'\\') => self.extension(State::Escaped { size })?,
            (State::Quoted { size } | State::Escaped { size }, _) if is_text(byte) => {
                self.extension(State::Quoted { size })?
            }
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerLine,
            (State::SizeLf { size }, b'\n') => {
                self.data_left = self.data_left.checked_sub(size).ok_or(Refusal::BodyTooLong)?;
                State::Data { left: size }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },
            (State::TrailerLine, b'\r') => State::EndLf,
            (State::TrailerLine, _) => {
                let left = self.trailer_fields_left.checked_sub(1);
                self.trailer_fields_left = left.ok_or(Refusal::TrailersTooLong)?;
                self.trailer(is_token(byte), State::TrailerName)?
            }
            (State::TrailerName, b':') => self.trailer(true, State::TrailerValue)?,
            (State::TrailerName, _) => self.trailer(is_token(byte), State::TrailerName)?,
            (State::TrailerValue, b'\r') => self.trailer(true, State::TrailerLf)?,
            (State::TrailerValue, _) => self.trailer(is_text(byte), State::TrailerValue)?,
            (State::TrailerLf, b'\n') => self.trailer(true, State::TrailerLine)?,
            (State::TrailerLf, _) => return Err(Refusal::Trailer),
            (State::EndLf, b'\n') => return Ok(None),
            _ => return Err(Refusal::Chunk),
        }))
    }

    /// Counts a byte of the extensions.
    fn extension(&mut self, next: State) -> Result<State, Refusal> {
        self.extension_left = self.extension_left.checked_sub(1).ok_or(Refusal::Chunk)?;
        Ok(next)
    }

    /// Counts a byte of the trailers. Answers `next` if it is good there.
    fn trailer(&mut self, is_good: bool, next: State) -> Result<State, Refusal> {
        if !is_good {
            return Err(Refusal::Trailer);
        }
        self.trailer_left = self.trailer_left.checked_sub(1).ok_or(Refusal::TrailersTooLong)?;
        Ok(next)
    }
}

/// May stand in the name of a field (`tchar`, RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~'
    )
}

/// May stand in the value of a field (RFC 9110 section 5.5).
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=0x7e | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { head_bytes_max: 20, target_bytes_max: 20, fields_max: 3, body_bytes_max: 20 };

    /// What comes of `input`, whole and byte by byte.
    fn check(input: &str, expected: Result<Option<usize>, (usize, Refusal)>) {
        let mut chunked = Chunked::new(&LIMITS);
        assert_eq!(chunked.judge(input.as_bytes()), expected, "{input:?}");
        let mut chunked = Chunked::new(&LIMITS);
        let found = input.as_bytes().iter().enumerate().find_map(|(at, byte)| {
            match chunked.judge(&[*byte]) {
                Ok(None) => None,
                Ok(Some(used)) => Some(Ok(Some(at + used))),
                Err((used, refusal)) => Some(Err((at + used, refusal))),
            }
        });
        assert_eq!(found.unwrap_or(Ok(None)), expected, "{input:?} byte by byte");
    }

    #[test]
    fn chunks_are_exact() {
        check("0\r\n\r\nrest", Ok(Some(5)));
        check("3\r\nabc\r\nA\r\n0123456789\r\n000\r\n\r\n", Ok(Some(30)));
        check("1;a=b; c=\"d\"\r\nx\r\n0;z\r\n\r\n", Ok(Some(24)));
        check("0\r\nX: y\r\nZ: \u{e4}\r\n\r\n", Ok(Some(18)));
        check("3\r\nab", Ok(None));
        check("x", Err((0, Refusal::Chunk)));
        check("\r\n", Err((0, Refusal::Chunk)));
        check("+1\r\n", Err((0, Refusal::Chunk)));
        check("0x1\r\n", Err((1, Refusal::Chunk)));
        check("1 \r\n", Err((2, Refusal::Chunk)));
        check("1 2\r\n", Err((2, Refusal::Chunk)));
        check("1 \t; a = b\r\nx\r\n0\r\n\r\n", Ok(Some(20)));
        check("1;a=\"\u{e4}\\\"\"\r\nx\r\n0\r\n\r\n", Ok(Some(20)));
        check("1;\u{e4}", Err((2, Refusal::Chunk)));
        check("1;\"a\r\n", Err((4, Refusal::Chunk)));
        check("1;\"\\\r", Err((4, Refusal::Chunk)));
        check("1\nx", Err((1, Refusal::Chunk)));
        check("1;a\nx", Err((3, Refusal::Chunk)));
        check("1\rx", Err((2, Refusal::Chunk)));
        check("1\r\nxy", Err((4, Refusal::Chunk)));
        check("1\r\nx\n", Err((4, Refusal::Chunk)));
        check("1\r\nx\r\n\r\n", Err((6, Refusal::Chunk)));
        check("0\r\n\rX", Err((4, Refusal::Chunk)));
        check("1000000000000000", Err((15, Refusal::Chunk)));
    }

    #[test]
    fn trailers_are_fields() {
        check("0\r\nA:\r\nB:\tc d \r\n\r\n", Ok(Some(18)));
        for (at, trailers) in [
            (0, "\n"),
            (0, " X: y\r\n"),
            (0, ": y\r\n"),
            (4, "X: y\n"),
            (6, "X: y\r\n z\r\n"),
            (5, "X: y\rz"),
            (1, "X : y\r\n"),
            (8, "nonsense\r\n"),
            (3, "X: \0\r\n"),
            (3, "X: \u{7f}\r\n"),
            (0, "\u{e4}: y\r\n"),
        ] {
            check(&format!("0\r\n{trailers}"), Err((3 + at, Refusal::Trailer)));
        }
    }

    #[test]
    fn bodies_have_limits() {
        check("14\r\n", Ok(None));
        check("15\r\n", Err((3, Refusal::BodyTooLong)));
        check("a\r\n0123456789\r\nb\r\n", Err((17, Refusal::BodyTooLong)));
        check("0\r\nX: 012345678901234567890\r\n", Err((23, Refusal::TrailersTooLong)));
        check("0\r\nA:\r\nB:\r\nC:\r\n\r\n", Ok(Some(17)));
        check("0\r\nA:\r\nB:\r\nC:\r\nD:", Err((15, Refusal::TrailersTooLong)));
        let long = format!("1;{}", "a".repeat(5000));
        check(&long, Err((2 + 4096, Refusal::Chunk)));
    }
}
