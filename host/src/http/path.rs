//! Request paths in normal form (RFC 3986 section 6.2.2), so that every plugin sees the same name for the same thing.
//!
//! Nothing that is percent-encoded for a reason is decoded here: `%2F` stays `%2F`, for it is not a separator.

use std::{borrow::Cow, fmt};

/// Why a path has no normal form. The request that has it is a bad one (400).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// It does not begin with `/`, and is not `*`.
    Relative,
    /// It holds a control character, `?` or `#` as such.
    Character(u8),
    /// It holds a NUL, encoded.
    Nul,
    /// A `%` is not followed by two hexadecimal digits.
    Percent,
}

/// The normal form of a request's path: percent-encoded unreserved characters are decoded, the other encodings are in upper
/// case, characters that may not stand in a path are encoded, and dot segments are removed, encoded ones too (RFC 3986
/// sections 6.2.2.1 to 6.2.2.3). Empty segments stay. Borrowed where nothing is to be done.
///
/// # Errors
/// The path begins with something other than `/` and is not `*`, or holds what no path may hold.
pub fn normalize(path: &[u8]) -> Result<Cow<'_, str>, PathError> {
    if path == b"*" {
        return Ok(Cow::Borrowed("*"));
    }
    if path.first() != Some(&b'/') {
        return Err(PathError::Relative);
    }
    if is_normal(path)? {
        let path = std::str::from_utf8(path).expect("a path in normal form is ASCII");
        return Ok(Cow::Borrowed(path));
    }
    Ok(Cow::Owned(without_dot_segments(&normal_octets(path)?)))
}

/// Whether `path` lies at or beneath `mount`, by whole segments; `mount` has no `/` at its end, and is empty for the root.
#[must_use]
pub fn is_beneath(path: &str, mount: &str) -> bool {
    let below = match path.strip_prefix(mount) {
        Some(below) => below,
        None => return false,
    };
    mount.is_empty() || below.is_empty() || below.starts_with('/')
}

/// Where something mounted at `path` of something mounted at `mount` is. Both begin with `/`, or are in the form of
/// [`mount_point`].
#[must_use]
pub fn join(mount: &str, path: &str) -> String {
    format!("{}{path}", mount.trim_end_matches('/'))
}

/// The form in which a place to mount at is kept: normal, without `/` at its end, so empty for the root.
///
/// # Errors
/// As [`normalize`]; `*` is no place.
pub fn mount_point(path: &str) -> Result<String, PathError> {
    if path == "*" {
        return Err(PathError::Relative);
    }
    Ok(normalize(path.as_bytes())?.trim_end_matches('/').to_owned())
}

/// One look over the whole path; an error only where [`normal_octets`] would find it too.
fn is_normal(path: &[u8]) -> Result<bool, PathError> {
    let mut at = 0;
    while at < path.len() {
        match path[at] {
            b'/' if begins_dot_segment(&path[at + 1..]) => return Ok(false),
            b'%' => {
                let octet = encoded_octet(&path[at..])?;
                let is_upper =
                    !path[at + 1].is_ascii_lowercase() && !path[at + 2].is_ascii_lowercase();
                if is_unreserved(octet) || !is_upper {
                    return Ok(false);
                }
                at += 2;
            }
            byte if is_refused(byte) => return Err(PathError::Character(byte)),
            byte if needs_encoding(byte) => return Ok(false),
            _ => {}
        }
        at += 1;
    }
    Ok(true)
}

/// Whether a `.` or `..` stands before the next `/` or the end.
fn begins_dot_segment(rest: &[u8]) -> bool {
    matches!(rest, [b'.'] | [b'.', b'/', ..] | [b'.', b'.'] | [b'.', b'.', b'/', ..])
}

fn normal_octets(path: &[u8]) -> Result<String, PathError> {
    let mut normal = String::with_capacity(path.len() + 8);
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        if byte == b'%' {
            let octet = encoded_octet(&path[at..])?;
            push_octet(&mut normal, octet, is_unreserved(octet));
            at += 3;
            continue;
        }
        if is_refused(byte) {
            return Err(PathError::Character(byte));
        }
        push_octet(&mut normal, byte, !needs_encoding(byte));
        at += 1;
    }
    Ok(normal)
}

fn push_octet(normal: &mut String, octet: u8, is_plain: bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    if is_plain {
        normal.push(octet as char);
    } else {
        let [high, low] = [octet >> 4, octet & 15].map(|digit| DIGITS[usize::from(digit)] as char);
        normal.extend(['%', high, low]);
    }
}

/// RFC 3986 section 5.2.4, for a path that begins with `/`.
fn without_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // What is left is a folder: `/a/.` and `/a/b/..` are `/a/`.
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut joined = String::with_capacity(path.len());
    for segment in kept {
        joined.push('/');
        joined.push_str(segment);
    }
    joined
}

/// The octet that `%XY` at the beginning of `rest` stands for.
fn encoded_octet(rest: &[u8]) -> Result<u8, PathError> {
    let digit = |at: usize| rest.get(at).and_then(|digit| (*digit as char).to_digit(16));
    let (Some(high), Some(low)) = (digit(1), digit(2)) else { return Err(PathError::Percent) };
    match (high << 4 | low) as u8 {
        0 => Err(PathError::Nul),
        octet => Ok(octet),
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
}

fn is_refused(byte: u8) -> bool {
    byte.is_ascii_control() || matches!(byte, b'?' | b'#')
}

/// Not in a path by RFC 3986 section 3.3, but sent by some. `\` and the like stay: encoding them changes nothing, and plugins
/// that give them a meaning must look for both forms anyway.
fn needs_encoding(byte: u8) -> bool {
    byte == b' ' || !byte.is_ascii()
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathError::Relative => f.write_str("the path does not begin with `/`"),
            PathError::Character(byte) => {
                write!(f, "the path holds the character {byte:#04x}, which must be percent-encoded")
            }
            PathError::Nul => f.write_str("the path holds a NUL"),
            PathError::Percent => {
                f.write_str("a `%` in the path is not followed by two hexadecimal digits")
            }
        }
    }
}

impl std::error::Error for PathError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, normal: &str) {
        let first = normalize(path.as_bytes()).unwrap();
        assert_eq!(first, normal);
        assert!(
            matches!(normalize(first.as_bytes()).unwrap(), Cow::Borrowed(again) if again == first),
            "the normal form of {path} is not one"
        );
    }

    #[track_caller]
    fn refused(path: &[u8], error: PathError) {
        assert_eq!(normalize(path), Err(error));
    }

    #[test]
    fn what_is_normal_is_borrowed() {
        for path in [
            "/",
            "*",
            "/a/b.html",
            "/.well-known/x",
            "/..a/...",
            "/a//b/",
            "/a%20b%2F%5C",
            "/a\\b",
            "/~x",
        ] {
            assert!(matches!(normalize(path.as_bytes()), Ok(Cow::Borrowed(same)) if same == path));
        }
    }

    #[test]
    fn encodings_are_unified() {
        check("/%61%2D%2e%5F%7e", "/a-._~");
        check("/%2f%5c%c3%a4", "/%2F%5C%C3%A4");
        check("/%252e%252e/", "/%252e%252e/");
        check("/%25%32%65", "/%252e");
        check("/%3f%23%0a", "/%3F%23%0A");
        check("/a b\u{e4}", "/a%20b%C3%A4");
    }

    #[test]
    fn dot_segments_are_removed() {
        check("/a/./b", "/a/b");
        check("/a/../b", "/b");
        check("/a/b/..", "/a/");
        check("/a/.", "/a/");
        check("/.", "/");
        check("/..", "/");
        check("/../../etc/passwd", "/etc/passwd");
        check("/a/%2e%2E/b", "/b");
        check("/a/.%2e/%2e/b", "/b");
        check("/a//../b", "/a/b");
        check("/a/b/c/./../../g", "/a/g");
        check("//..", "/");
        check("/a/..%2fb", "/a/..%2Fb");
        check("/...", "/...");
    }

    #[test]
    fn what_no_path_may_hold_is_refused() {
        refused(b"", PathError::Relative);
        refused(b"a", PathError::Relative);
        refused(b"**", PathError::Relative);
        refused(b"/%00", PathError::Nul);
        refused(b"/../%00", PathError::Nul);
        refused(b"/\0", PathError::Character(0));
        refused(b"/a\n", PathError::Character(b'\n'));
        refused(b"/./\x7f", PathError::Character(0x7f));
        refused(b"/a?b", PathError::Character(b'?'));
        refused(b"/a#b", PathError::Character(b'#'));
        for path in [b"/%".as_slice(), b"/%4", b"/%4g", b"/%+1", b"/./%", b"/%%41"] {
            refused(path, PathError::Percent);
        }
    }

    #[test]
    fn whatever_comes_its_normal_form_is_one() {
        const ALPHABET: &[u8] = b"//..%%22eE5cCfF00aA \xff?\\";
        let mut seed = 1_u64;
        let mut next = |bound: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % bound
        };
        let mut accepted = 0;
        for _ in 0..100_000 {
            let mut path = vec![b'/'];
            path.extend((0..next(12)).map(|_| ALPHABET[next(ALPHABET.len())]));
            let Ok(normal) = normalize(&path) else { continue };
            accepted += 1;
            assert!(normal.starts_with('/') && normal.is_ascii(), "{path:?}");
            assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")), "{path:?}");
            assert!(
                matches!(normalize(normal.as_bytes()), Ok(Cow::Borrowed(again)) if again == normal),
                "{path:?}"
            );
        }
        assert!(accepted > 10_000);
    }

    #[test]
    fn mounts_match_whole_segments() {
        assert_eq!(mount_point("/").unwrap(), "");
        assert_eq!(mount_point("/dav/").unwrap(), "/dav");
        assert!(mount_point("dav").is_err() && mount_point("*").is_err());
        for (path, mount, expected) in [
            ("/", "", true),
            ("*", "", true),
            ("/dav", "/dav", true),
            ("/dav/", "/dav", true),
            ("/dav/a", "/dav", true),
            ("/davos", "/dav", false),
            ("/da", "/dav", false),
            ("/x/dav", "/dav", false),
        ] {
            assert_eq!(is_beneath(path, mount), expected, "{path} beneath {mount}");
        }
        assert_eq!(join(&mount_point("/a").unwrap(), &mount_point("/b/").unwrap()), "/a/b");
        assert_eq!(join("/", "/"), "/");
        assert_eq!(join("/a/", "/b"), "/a/b");
    }

    /// The same by the letter of RFC 3986, segment by segment, with no thought of speed.
    fn naive(path: &[u8]) -> Option<String> {
        let mut segments: Vec<String> = Vec::new();
        let mut is_open = false;
        for segment in path.strip_prefix(b"/")?.split(|byte| *byte == b'/') {
            let segment = naive_segment(segment)?;
            is_open = matches!(segment.as_str(), "." | "..");
            match segment.as_str() {
                "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        // What is in a folder that a dot segment names, is in it by its slash.
        if is_open {
            segments.push(String::new());
        }
        Some(format!("/{}", segments.join("/")))
    }

    fn naive_segment(mut rest: &[u8]) -> Option<String> {
        let mut normal = String::new();
        while let [byte, after @ ..] = rest {
            let is_encoded = *byte == b'%';
            let octet = if is_encoded {
                let digits = std::str::from_utf8(after.get(..2)?).ok()?;
                let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                is_hex.then(|| u8::from_str_radix(digits, 16).ok())?.filter(|octet| *octet > 0)?
            } else if *byte < b' ' || b"\x7f?#".contains(byte) {
                return None;
            } else {
                *byte
            };
            let is_plain = octet.is_ascii_alphanumeric() || b"-._~".contains(&octet);
            let stays = is_plain || (!is_encoded && octet.is_ascii() && octet != b' ');
            match stays {
                true => normal.push(char::from(octet)),
                false => normal.push_str(&format!("%{octet:02X}")),
            }
            rest = if is_encoded { &after[2..] } else { after };
        }
        Some(normal)
    }

    #[test]
    fn normal_forms_are_those_of_a_naive_reading() {
        const PARTS: [&[u8]; 22] = [
            b"/", b"/", b"/", b".", b".", b"..", b"a", b"B", b"~", b"%", b"%2e", b"%2E", b"%2f",
            b"%5C", b"%61", b"%00", b"%25", b"%zz", b" ", b"?", b"\xe4", b"\\",
        ];
        // xorshift64*: it looks random, and is the same in each run.
        let mut state = 1u64;
        let mut below = |end: usize| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) % end as u64) as usize
        };
        let mut good = 0;
        for _ in 0..50_000 {
            let path: Vec<u8> =
                (0..below(12)).flat_map(|_| PARTS[below(PARTS.len())]).copied().collect();
            let path = [b"/", &path[..]].concat();
            let normal = normalize(&path).ok().map(Cow::into_owned);
            assert_eq!(normal, naive(&path), "{}", path.escape_ascii());
            let Some(normal) = normal else { continue };
            good += 1;
            assert_eq!(
                normalize(normal.as_bytes()),
                Ok(Cow::Borrowed(normal.as_str())),
                "{normal}"
            );
            assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")), "{normal}");
        }
        assert!(good > 10_000, "{good} of them have a normal form");
    }
}
