//! Entity tags (RFC 9110 section 8.8.3): made from a file's size, time and inode, and looked for in a request's lists.

use std::fmt::Write as _;

/// How two tags are compared (RFC 9110 section 8.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Equal, and neither weak.
    Strong,
    /// Equal but for weakness.
    Weak,
}

/// The strong tag of a file, with its quotes.
///
/// A file that is rewritten in place within one tick of the file system's clock, to the same size, keeps its tag; tools
/// that replace files give them a new inode.
pub(crate) fn make(size: u64, modified_ns: i64, inode: u64) -> String {
    let mut tag = String::with_capacity(52);
    // Writing to a String cannot fail.
    let _ = write!(tag, "\"{size:x}-{modified_ns:x}-{inode:x}\"");
    tag
}

/// Whether a list of tags (the value of `If-Match` or `If-None-Match`) is `*` or holds `tag`. What comes after the first
/// thing that is no tag does not count.
pub(crate) fn list_matches(list: &[u8], tag: &str, comparison: Comparison) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let mut rest = list;
    while let Some((found, after)) = next_tag(rest) {
        if matches(found, tag, comparison) {
            return true;
        }
        rest = after;
    }
    false
}

/// Whether `value` is one tag, and equal to `tag`.
pub(crate) fn matches(value: &[u8], tag: &str, comparison: Comparison) -> bool {
    match (value.strip_prefix(b"W/"), comparison) {
        (Some(_), Comparison::Strong) => false,
        (Some(opaque), Comparison::Weak) => opaque == tag.as_bytes(),
        (None, _) => value == tag.as_bytes(),
    }
}

/// The first tag of a list, and what comes after it.
fn next_tag(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b',');
    let start = list.iter().position(|byte| !blank(byte))?;
    let list = &list[start..];
    let prefix = if list.starts_with(b"W/") { 2 } else { 0 };
    let opaque = list[prefix..].strip_prefix(b"\"")?;
    let length = opaque.iter().position(|byte| !matches!(byte, 0x21 | 0x23..=0x7e | 0x80..))?;
    if opaque[length] != b'"' {
        return None;
    }
    let (tag, after) = list.split_at(prefix + length + 2);
    let follows = after.trim_ascii_start().first();
    matches!(follows, None | Some(b',')).then_some((tag, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, strong: bool, weak: bool) {
        let tag = "\"a,b\"";
        assert_eq!(list_matches(list.as_bytes(), tag, Comparison::Strong), strong, "{list}");
        assert_eq!(list_matches(list.as_bytes(), tag, Comparison::Weak), weak, "{list}");
    }

    #[test]
    fn lists_are_searched() {
        check("*", true, true);
        check(" * ", true, true);
        check("\"a,b\"", true, true);
        check("W/\"a,b\"", false, true);
        check("\"x\", \"a,b\"", true, true);
        check("\"x\",W/\"y\" ,\t\"a,b\",\"z\"", true, true);
        check(", ,\"a,b\"", true, true);
        check("\"\", \"a,b\"", true, true);
        check("\"a\"", false, false);
        check("", false, false);
        check("a,b", false, false);
        check("\"a,b", false, false);
        check("w/\"a,b\"", false, false);
        check("\"x\" \"a,b\"", false, false);
        check("\"x\", *", false, false);
        check("nonsense, \"a,b\"", false, false);
    }

    #[test]
    fn tags_differ_by_each_part() {
        let tag = make(10, -5, 7);
        assert!(tag.starts_with('"') && tag.ends_with('"'));
        assert!(matches(tag.as_bytes(), &tag, Comparison::Strong));
        for other in [make(11, -5, 7), make(10, -6, 7), make(10, 5, 7), make(10, -5, 8)] {
            assert_ne!(tag, other);
        }
    }
}
