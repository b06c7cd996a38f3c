//! From the path of a request to the path of a file: percent-decoded exactly once, and only what can name a file beneath
//! the root. The host opens beneath the root whatever this says; this decides what is asked for at all.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// The one folder with a dot that is there to be served (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// What stays as it is in a segment of a path (RFC 3986 sections 2.3 and 3.3); `:` too, for links are absolute or begin
/// with `./`.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The path beneath the root, decoded, without a slash at either end. Empty for the root.
    pub(crate) path: Vec<u8>,
    /// The request's path ends in a slash: it asks for a directory.
    pub(crate) directory: bool,
}

/// Why a path names no file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoTarget {
    /// A `%` that two hexadecimal digits do not follow.
    Malformed,
    /// No file has such a name, or none that is shown.
    NotFound,
}

/// Whether names that begin with a dot are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DotFiles {
    Hidden,
    Served,
}

/// Reads the path of a request beneath the root, which begins with `/`; an empty one is that of the root without its slash.
///
/// # Errors
/// If it names no file that may be asked for.
pub(crate) fn target(path: &str, dot_files: DotFiles) -> Result<Target, NoTarget> {
    if path.is_empty() {
        return Ok(Target { path: Vec::new(), directory: false });
    }
    let path = path.strip_prefix('/').ok_or(NoTarget::NotFound)?;
    if !is_well_encoded(path.as_bytes()) {
        return Err(NoTarget::Malformed);
    }
    if path.is_empty() {
        return Ok(Target { path: Vec::new(), directory: true });
    }
    let directory = path.ends_with('/');
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut decoded = Vec::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            decoded.push(b'/');
        }
        let start = decoded.len();
        decoded.extend(percent_decode(segment.as_bytes()));
        if !is_name(&decoded[start..], index, dot_files) {
            return Err(NoTarget::NotFound);
        }
    }
    Ok(Target { path: decoded, directory })
}

/// Whether a file of this name is shown to clients, at this depth beneath the root.
pub(crate) fn is_shown(name: &[u8], depth: usize, dot_files: DotFiles) -> bool {
    !name.starts_with(b".") || dot_files == DotFiles::Served || (depth == 0 && name == WELL_KNOWN)
}

/// `name` as a segment of a URL's path.
pub(crate) fn encode(name: &[u8]) -> String {
    percent_encode(name, SEGMENT).to_string()
}

fn is_name(name: &[u8], depth: usize, dot_files: DotFiles) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
        && is_shown(name, depth, dot_files)
}

fn is_well_encoded(path: &[u8]) -> bool {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'%').all(|(at, _)| {
        path.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<(&[u8], bool), NoTarget>) {
        let expected = expected.map(|(path, directory)| Target { path: path.into(), directory });
        assert_eq!(target(path, DotFiles::Hidden), expected, "{path}");
    }

    #[test]
    fn paths_are_decoded_once() {
        check("/", Ok((b"", true)));
        check("", Ok((b"", false)));
        check("/a", Ok((b"a", false)));
        check("/a/", Ok((b"a", true)));
        check("/a/b.html", Ok((b"a/b.html", false)));
        check("/a%20b+c", Ok((b"a b+c", false)));
        check("/%61", Ok((b"a", false)));
        check("/%2561", Ok((b"%61", false)));
        check("/%252e%252e/x", Ok((b"%2e%2e/x", false)));
        check("/%ff%fe", Ok((b"\xff\xfe", false)));
        check("/%C3%A4", Ok(("\u{e4}".as_bytes(), false)));
        check("/a%0d%0ab", Ok((b"a\r\nb", false)));
        check("/a%5cb", Ok((b"a\\b", false)));
        check("/a...", Ok((b"a...", false)));
    }

    #[test]
    fn what_leads_out_or_nowhere_is_not_found() {
        for path in [
            "a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/..",
            "/../a",
            "/%2e%2e/a",
            "/%2E./a",
            "/a/%2e%2e",
            "/a%2fb",
            "/%2f",
            "/a%00",
            "/%00",
            "/a%00.html",
            "/..%2f",
            "/%2e%2e%2fa",
        ] {
            check(path, Err(NoTarget::NotFound));
        }
        for path in ["/%", "/%4", "/a%zz", "/%%41", "/%u0041", "/%+1"] {
            check(path, Err(NoTarget::Malformed));
        }
    }

    #[test]
    fn dot_files_are_hidden_but_for_well_known() {
        check("/.git/config", Err(NoTarget::NotFound));
        check("/a/.htaccess", Err(NoTarget::NotFound));
        check("/%2egit", Err(NoTarget::NotFound));
        check("/.well-known/acme", Ok((b".well-known/acme", false)));
        check("/a/.well-known/acme", Err(NoTarget::NotFound));
        check("/.well-known/.secret", Err(NoTarget::NotFound));
        check("/.well-known2", Err(NoTarget::NotFound));
        let served = target("/.git/config", DotFiles::Served);
        assert_eq!(served, Ok(Target { path: b".git/config".into(), directory: false }));
        assert_eq!(target("/a/..", DotFiles::Served), Err(NoTarget::NotFound));
    }

    #[test]
    fn names_are_encoded_so_that_they_come_back() {
        for name in ["a b", "%41", "\u{e4}<>&\"'#?[]", "a:b", "\r\n"] {
            let again = target(&format!("/{}", encode(name.as_bytes())), DotFiles::Hidden);
            assert_eq!(again.unwrap().path, name.as_bytes(), "{name}");
        }
        assert_eq!(encode(b"a b\xff&'.txt"), "a%20b%FF%26%27.txt");
    }
}
