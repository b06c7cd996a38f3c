//! Sizes and durations as people write them: `64 KiB`, `30 s`.

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1000),
    ("MB", 1000 * 1000),
    ("GB", 1000 * 1000 * 1000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("min", 60 * 1000), ("h", 3600 * 1000), ("d", 24 * 3600 * 1000)];

/// What to write instead of a size that was not understood.
pub const SIZE_HELP: &str = "write bytes as a number, or as text with a unit: \"64 KiB\" (B, kB, MB, GB, KiB, MiB, GiB, TiB)";

/// What to write instead of a duration that was not understood.
pub const DURATION_HELP: &str =
    "write milliseconds as a number, or as text with a unit: \"30 s\" (ms, s, min, h, d)";

/// Bytes, from text such as `64 KiB`; at most `i64::MAX`.
pub fn size(text: &str) -> Option<u64> {
    with_unit(text, SIZES)
}

/// Milliseconds, from text such as `30 s`; at most `i64::MAX`.
pub fn duration(text: &str) -> Option<u64> {
    with_unit(text, DURATIONS)
}

/// A size in the largest unit that it is a whole number of.
pub fn show_size(bytes: u64) -> String {
    shown(bytes, &[SIZES[7], SIZES[6], SIZES[5], SIZES[4], SIZES[0]])
}

/// A duration in the largest unit that it is a whole number of.
pub fn show_duration(ms: u64) -> String {
    shown(ms, &[DURATIONS[4], DURATIONS[3], DURATIONS[2], DURATIONS[1], DURATIONS[0]])
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    let number = number.parse::<u64>().ok()?.checked_mul(*factor)?;
    i64::try_from(number).is_ok().then_some(number)
}

fn shown(number: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| number > 0 && number.is_multiple_of(*factor);
    let (name, factor) = units.iter().find(fits).unwrap_or(&units[units.len() - 1]);
    format!("{} {name}", number / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |text, expected| assert_eq!(size(text), expected, "{text:?}");
        check("0 B", Some(0));
        check("64 KiB", Some(65536));
        check("64KiB", Some(65536));
        check(" 1 MiB ", Some(1 << 20));
        check("2 GB", Some(2_000_000_000));
        check("64", None);
        check("", None);
        check("KiB", None);
        check("-1 KiB", None);
        check("1.5 MiB", None);
        check("64 kib", None);
        check("64 KiB x", None);
        check("99999999999 TiB", None);
        check("9223372036854775808 B", None);
        check("９ B", None);
    }

    #[test]
    fn durations() {
        let check = |text, expected| assert_eq!(duration(text), expected, "{text:?}");
        check("5 ms", Some(5));
        check("30 s", Some(30_000));
        check("2min", Some(120_000));
        check("1 h", Some(3_600_000));
        check("1 d", Some(86_400_000));
        check("30", None);
        check("30 sec", None);
        check("s", None);
    }

    #[test]
    fn shown_as_they_are_written() {
        assert_eq!(show_size(65536), "64 KiB");
        assert_eq!(show_size(65537), "65537 B");
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_duration(90_000), "90 s");
        assert_eq!(show_duration(1500), "1500 ms");
    }
}
