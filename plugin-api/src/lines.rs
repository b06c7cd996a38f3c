//! Lines of text out of a connection, for protocols that talk in them.

use std::io;

use serde::{Deserialize, Serialize};

use crate::connection::Connection;

/// How much is read at once.
const READ_BYTES: usize = 4 * 1024;

/// Reads lines that end in LF or CRLF. What has come of the next one is kept here: it is a part of a session's state, and goes over
/// with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    #[serde(with = "serde_bytes")]
    begun: Vec<u8>,
    /// The line that has begun is too long already, and none of it is kept.
    is_too_long: bool,
}

/// A line was longer than it may be. All of it was read, and is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

impl Lines {
    /// Reads once, and gives the lines that have ended by it, without their ends: of `bytes_max` bytes at the most, and what is no
    /// UTF-8 replaced (U+FFFD). `None` at the end of the input; what has no end by then is no line. It waits if nothing has come.
    ///
    /// # Errors
    /// The connection's.
    pub async fn read(
        &mut self,
        conn: &mut Connection,
        bytes_max: usize,
    ) -> io::Result<Option<Vec<Result<String, TooLong>>>> {
        let mut bytes = [0; READ_BYTES];
        let count = conn.read(&mut bytes).await?;
        Ok((count > 0).then(|| self.split(&bytes[..count], bytes_max)))
    }

    fn split(&mut self, bytes: &[u8], bytes_max: usize) -> Vec<Result<String, TooLong>> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (piece, has_ended) = match piece.strip_suffix(b"\n") {
                Some(piece) => (piece, true),
                None => (piece, false),
            };
            if !self.is_too_long {
                self.begun.extend_from_slice(piece);
            }
            // One byte more, for a CR that may belong to the end.
            self.is_too_long |= self.begun.len() > bytes_max.saturating_add(1);
            if self.is_too_long {
                self.begun = Vec::new();
            }
            if has_ended {
                lines.push(self.take(bytes_max));
            }
        }
        lines
    }

    fn take(&mut self, bytes_max: usize) -> Result<String, TooLong> {
        let mut line = std::mem::take(&mut self.begun);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if std::mem::take(&mut self.is_too_long) || line.len() > bytes_max {
            return Err(TooLong);
        }
        Ok(String::from_utf8(line)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_wherever_the_input_is_cut() {
        let input = b"one\r\n\n\r\ntwo\rthree\n12345678\n12345678\r\n123456789\n\xff\nhalf";
        let expected = [
            Ok("one"),
            Ok(""),
            Ok(""),
            Err(TooLong),
            Ok("12345678"),
            Ok("12345678"),
            Err(TooLong),
            Ok("\u{fffd}"),
        ];
        for cut in 0..=input.len() {
            for other in cut..=input.len() {
                let mut lines = Lines::default();
                let mut got = Vec::new();
                for piece in [&input[..cut], &input[cut..other], &input[other..]] {
                    got.extend(lines.split(piece, 8));
                }
                let got: Vec<_> =
                    got.iter().map(|line| line.as_deref().map_err(|long| *long)).collect();
                assert_eq!(got, expected, "cut at {cut} and {other}");
                assert_eq!(lines, Lines { begun: b"half".to_vec(), is_too_long: false });
            }
        }
    }
}
