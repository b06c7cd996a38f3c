//! Sizes and durations as text: `64 KiB`, `30 s`.

/// A number of bytes. In the file an integer, or text with a unit: `"64 KiB"`, `"10 MB"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

impl Size {
    /// `bytes` bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Size {
        Size(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The number of bytes, as a length in memory; the greatest one if it is more than that.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

const SIZES: &[(&str, u64)] = &[
    ("", 1),
    ("B", 1),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const DURATIONS: &[(&str, u64)] = &[
    ("", 1),
    ("ms", 1),
    ("s", 1000),
    ("min", 60_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// `text` in bytes.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    parse(text, SIZES)
}

/// `text` in milliseconds.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    parse(text, DURATIONS)
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_with_their_units() {
        assert_eq!(parse_size("64 KiB"), Some(65_536));
        assert_eq!(parse_size("10MB"), Some(10_000_000));
        assert_eq!(parse_size("7"), Some(7));
        assert_eq!(parse_duration("30 s"), Some(30_000));
        assert_eq!(parse_duration("2h"), Some(7_200_000));
        for wrong in ["", "KiB", "1 KiBs", "-1", "99999999999 TiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
