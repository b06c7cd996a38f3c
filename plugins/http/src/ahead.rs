//! Input that was read and is not looked at yet: what came while nobody could take it, and what belongs to the next request.

use bytes::Bytes;

/// Bytes in the order in which they came.
#[derive(Default)]
pub(crate) struct Ahead {
    bytes: Vec<u8>,
    /// Those before were taken.
    at: usize,
}

impl Ahead {
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Moves as many of them to `to` as there is room for, and answers how many those are.
    pub(crate) fn take(&mut self, to: &mut [u8]) -> usize {
        let count = self.len().min(to.len());
        to[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        count
    }

    /// Puts bytes before all others. Those that were just taken fit where they were, so that a long pipeline is not moved once for each
    /// of its requests.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        match self.at.checked_sub(bytes.len()) {
            Some(at) => {
                self.bytes[at..self.at].copy_from_slice(bytes);
                self.at = at;
            }
            None => {
                self.bytes.splice(..self.at, bytes.iter().copied());
                self.at = 0;
            }
        }
    }

    /// All of them, in a place of their own.
    pub(crate) fn into_bytes(mut self) -> Bytes {
        self.bytes.drain(..self.at);
        self.bytes.into()
    }

    /// Puts bytes behind all others.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::Ahead;

    #[test]
    fn bytes_come_out_as_they_came_in() {
        let (mut ahead, mut room) = (Ahead::default(), [0; 4]);
        ahead.push(b"defghi");
        assert_eq!((ahead.take(&mut room), &room), (4, b"defg"));
        ahead.put_back(b"fg");
        ahead.push(b"jk");
        assert_eq!((ahead.len(), ahead.take(&mut room), &room), (6, 4, b"fghi"));
        // More than was taken.
        ahead.put_back(b"cdefghi");
        assert_eq!((ahead.take(&mut room), &room), (4, b"cdef"));
        assert_eq!((ahead.take(&mut room), &room), (4, b"ghij"));
        assert_eq!((ahead.take(&mut room), ahead.is_empty()), (1, true));
        ahead.put_back(b"z");
        assert_eq!((ahead.take(&mut room), ahead.take(&mut room), ahead.is_empty()), (1, 0, true));
        assert_eq!(room[0], b'z');
    }
}
