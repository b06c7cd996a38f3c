//! Figures and text as people read them.

use crate::figures::Unit;

/// A figure for people.
pub(crate) fn shown(value: u64, unit: Unit) -> String {
    match unit {
        Unit::Count | Unit::EpochSeconds => count(value),
        Unit::Bytes => bytes(value),
        Unit::Milliseconds => elapsed(value),
    }
}

/// `1 234 567`, with spaces that do not break.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// `1.5 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let exponent = (bytes.ilog2() / 10) as usize;
    let value = bytes as f64 / (1u64 << (10 * exponent)) as f64;
    format!("{value:.1} {}", UNITS[exponent - 1])
}

/// A time by its two largest units.
pub(crate) fn elapsed(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A short time, in nanoseconds: three digits or more, and a unit.
pub(crate) fn moment(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{:.1} µs", ns as f64 / 1e3),
        10_000..1_000_000 => format!("{} µs", ns / 1000),
        1_000_000..10_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => elapsed(ns / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        let check = |value, unit, expected: &str| {
            assert_eq!(shown(value, unit).replace('\u{202f}', "_"), expected);
        };
        check(0, Unit::Count, "0");
        check(999, Unit::Count, "999");
        check(1000, Unit::Count, "1_000");
        check(1_234_567, Unit::Count, "1_234_567");
        check(1023, Unit::Bytes, "1023 B");
        check(1536, Unit::Bytes, "1.5 KiB");
        check(u64::MAX, Unit::Bytes, "16.0 EiB");
        check(999, Unit::Milliseconds, "999 ms");
        check(61_000, Unit::Milliseconds, "1 min 1 s");
        check(90_000_000, Unit::Milliseconds, "1 d 1 h");
        let check = |ns, expected: &str| assert_eq!(moment(ns), expected);
        check(1234, "1.2 µs");
        check(999_999, "999 µs");
        check(1_500_000, "1.5 ms");
        check(61_000_000_000, "1 min 1 s");
    }
}
