//! Content types by the extensions of names.

use std::{borrow::Cow, path::Path};

/// The content type of a file, or `default` if its extension says nothing.
pub(crate) fn content_type<'a>(name: &Path, default: &'a str) -> Cow<'a, str> {
    let Some(found) = mime_guess::from_path(name).first_raw() else {
        return Cow::Borrowed(default);
    };
    let is_text = found.starts_with("text/")
        || matches!(found, "application/javascript" | "application/json" | "image/svg+xml");
    match is_text && !found.contains("charset") && found != "application/json" {
        true => Cow::Owned(format!("{found}; charset=utf-8")),
        false => Cow::Borrowed(found),
    }
}

/// Whether `text` begins as a content type does: two tokens with a slash between them (RFC 9110 section 8.3.1).
pub(crate) fn is_type(text: &str) -> bool {
    let name = text.split(';').next().unwrap_or_default().trim();
    let is_token = |token: &str| token.parse::<http::HeaderName>().is_ok();
    name.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_two_parts() {
        for good in ["text/plain", "text/html; charset=utf-8", "Application/vnd.a+b"] {
            assert!(is_type(good), "{good}");
        }
        for bad in ["", "text", "text/", "/plain", "a/b/c", "text/pl ain", "; a/b"] {
            assert!(!is_type(bad), "{bad}");
        }
    }

    #[test]
    fn types_are_guessed() {
        let check = |name: &str, expected: &str| {
            assert_eq!(
                content_type(Path::new(name), "application/octet-stream"),
                expected,
                "{name}"
            );
        };
        check("a.html", "text/html; charset=utf-8");
        check("a.TXT", "text/plain; charset=utf-8");
        check("a.css", "text/css; charset=utf-8");
        check("a.js", "text/javascript; charset=utf-8");
        check("a.svg", "image/svg+xml; charset=utf-8");
        check("a.json", "application/json");
        check("a.png", "image/png");
        check("a.wasm", "application/wasm");
        check("a", "application/octet-stream");
        check("a.unheard-of", "application/octet-stream");
        check(".html", "application/octet-stream");
    }
}
