//! Which hosts a route is for, and whether a request's is one of them. Names only: no lookups.

use std::fmt;

/// The hosts that a route is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// All of them, and requests that name none.
    Any,
    /// Those below a domain; kept with its leading dot, in lower case.
    Below(Box<str>),
    /// One; in lower case.
    Exact(Box<str>),
}

/// Why a pattern of hosts makes no sense; the pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostError(pub String);

impl HostPattern {
    /// Reads `example.org`, `*.example.org` or `*`. A port is not part of it.
    ///
    /// # Errors
    /// It is empty, or has a port, a blank, or a `*` elsewhere.
    pub fn parse(text: &str) -> Result<HostPattern, HostError> {
        let (is_below, name) = match text.strip_prefix('*') {
            Some("") => return Ok(HostPattern::Any),
            Some(below) => (true, below),
            None => (false, text),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let is_name =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        let is_literal = name.starts_with('[') && name.ends_with(']');
        match is_below {
            true if is_name && name.len() > 1 && name.starts_with('.') => {
                Ok(HostPattern::Below(name.into()))
            }
            false if (is_name || is_literal) && !name.is_empty() => {
                Ok(HostPattern::Exact(name.into()))
            }
            _ => Err(HostError(text.to_owned())),
        }
    }

    /// Whether `host`, as the client wrote it, port and all, is one of them.
    #[must_use]
    pub fn matches(&self, host: Option<&str>) -> bool {
        let host = || name_of(host.unwrap_or_default());
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => host().eq_ignore_ascii_case(name),
            HostPattern::Below(suffix) => {
                let host = host().as_bytes();
                host.len() > suffix.len()
                    && host[host.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
            }
        }
    }

    /// The pattern for hosts that are in both; none if there is none.
    #[must_use]
    pub fn narrow(&self, other: &HostPattern) -> Option<HostPattern> {
        use HostPattern::{Any, Below, Exact};
        let (narrower, wider) = if self > other { (self, other) } else { (other, self) };
        let fits = match (narrower, wider) {
            (_, Any) => true,
            (Exact(name), pattern) => pattern.matches(Some(name)),
            (Below(one), Below(two)) if one.ends_with(&**two) => true,
            (Below(one), Below(two)) if two.ends_with(&**one) => return Some(wider.clone()),
            _ => false,
        };
        fits.then(|| narrower.clone())
    }
}

/// The host without its port and without the dot of a full name (RFC 3986 section 3.2.2).
fn name_of(authority: &str) -> &str {
    let end = match authority.rfind(']') {
        Some(bracket) => bracket + 1,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let name = &authority[..end];
    name.strip_suffix('.').unwrap_or(name)
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Below(suffix) => write!(f, "*{suffix}"),
            HostPattern::Exact(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` names no hosts; write a name without port, such as `example.org`, `*.example.org` for those below it, or `*`",
            self.0
        )
    }
}

impl std::error::Error for HostError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, host: &str, expected: bool) {
        let pattern = HostPattern::parse(pattern).unwrap();
        assert_eq!(pattern.matches(Some(host)), expected, "{pattern} for {host}");
    }

    #[test]
    fn hosts_match_by_name_alone() {
        check("Example.org", "example.ORG", true);
        check("example.org", "example.org:8080", true);
        check("example.org.", "example.org", true);
        check("example.org", "example.org.", true);
        check("example.org", "www.example.org", false);
        check("*.example.org", "www.Example.org:80", true);
        check("*.example.org", "a.b.example.org", true);
        check("*.example.org", "example.org", false);
        check("*.example.org", ".example.org", false);
        check("*.example.org", "badexample.org", false);
        check("[::1]", "[::1]:80", true);
        check("*", "anything", true);
        check("example.org", "", false);
        assert!(HostPattern::Any.matches(None));
        assert!(!HostPattern::parse("a").unwrap().matches(None));
        check("*.org", "\u{e4}x.org", true);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a:80", "a b", "*a", "*.", "a.*", "**", "[::1"] {
            assert_eq!(HostPattern::parse(text), Err(HostError(text.to_owned())));
        }
    }

    #[test]
    fn patterns_are_narrowed() {
        let narrow = |one, two| {
            let [one, two] = [one, two].map(|text| HostPattern::parse(text).unwrap());
            assert_eq!(one.narrow(&two), two.narrow(&one));
            one.narrow(&two).map(|both| both.to_string())
        };
        assert_eq!(narrow("*", "a.org").as_deref(), Some("a.org"));
        assert_eq!(narrow("*.org", "a.org").as_deref(), Some("a.org"));
        assert_eq!(narrow("*.org", "*.a.org").as_deref(), Some("*.a.org"));
        assert_eq!(narrow("*.a.org", "a.org"), None);
        assert_eq!(narrow("a.org", "b.org"), None);
        assert_eq!(narrow("a.org", "a.org").as_deref(), Some("a.org"));
    }
}
