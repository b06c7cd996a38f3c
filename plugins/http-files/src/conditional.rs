//! Conditional requests (RFC 9110 section 13): what a request's preconditions say of a file.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, Method, header};

use crate::etag::{self, Comparison};

/// What a file is known by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validators<'a> {
    /// The strong entity tag, with its quotes.
    pub(crate) etag: &'a str,
    /// When it was changed last, in whole seconds.
    pub(crate) modified: SystemTime,
    /// Which is yet to come, by our clock: no client can have seen that state of the file.
    pub(crate) is_in_future: bool,
}

/// What the preconditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answer as if there were none.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// The time of a file in the seconds that HTTP knows.
pub(crate) fn whole_seconds(modified_ns: i64) -> SystemTime {
    // Times before 1970 cannot be written as an HTTP date by most; they count as 1970.
    UNIX_EPOCH + Duration::from_secs(u64::try_from(modified_ns / 1_000_000_000).unwrap_or(0))
}

/// Evaluates the preconditions in the order of RFC 9110 section 13.2.2, but for `If-Range`.
pub(crate) fn evaluate(method: &Method, fields: &HeaderMap, file: Validators<'_>) -> Outcome {
    if fields.contains_key(header::IF_MATCH) {
        if !lists_match(fields, header::IF_MATCH, file.etag, Comparison::Strong) {
            return Outcome::Failed;
        }
    } else if let Some(date) = date(fields, header::IF_UNMODIFIED_SINCE)
        && file.modified > date
    {
        return Outcome::Failed;
    }
    let safe = method == Method::GET || method == Method::HEAD;
    if fields.contains_key(header::IF_NONE_MATCH) {
        return match lists_match(fields, header::IF_NONE_MATCH, file.etag, Comparison::Weak) {
            false => Outcome::Proceed,
            true if safe => Outcome::NotModified,
            true => Outcome::Failed,
        };
    }
    match date(fields, header::IF_MODIFIED_SINCE) {
        Some(date) if safe && file.modified <= date && !file.is_in_future => Outcome::NotModified,
        _ => Outcome::Proceed,
    }
}

/// Whether `Range` is to be looked at: there is no `If-Range`, or it names this very file (RFC 9110 section 13.1.5).
pub(crate) fn range_counts(fields: &HeaderMap, file: Validators<'_>, now: SystemTime) -> bool {
    let Some(value) = fields.get(header::IF_RANGE) else { return true };
    let value = value.as_bytes().trim_ascii();
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return etag::matches(value, file.etag, Comparison::Strong);
    }
    // A date is a strong validator only once the second that it names is over (RFC 9110 section 8.8.2.2).
    let is_over = now.duration_since(file.modified).is_ok_and(|age| age >= Duration::from_secs(1));
    is_over && date(fields, header::IF_RANGE) == Some(file.modified)
}

fn lists_match(fields: &HeaderMap, name: HeaderName, tag: &str, comparison: Comparison) -> bool {
    let mut values = fields.get_all(name).iter();
    values.any(|value| etag::list_matches(value.as_bytes(), tag, comparison))
}

/// The date in a field that is there once and is a date; others are to be ignored.
fn date(fields: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    let mut values = fields.get_all(name).iter();
    let value = values.next()?;
    match values.next() {
        None => httpdate::parse_http_date(value.to_str().ok()?.trim()).ok(),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const TAG: &str = "\"t\"";
    /// When the file was changed, a second before, and a second after.
    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn file() -> Validators<'static> {
        let modified = httpdate::parse_http_date(AT).unwrap();
        Validators { etag: TAG, modified, is_in_future: false }
    }

    fn fields(text: &str) -> HeaderMap {
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let parse = |(name, value): (&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut fields = HeaderMap::new();
        for (name, value) in lines.map(parse) {
            fields.append(name, value);
        }
        fields
    }

    fn check(text: &str, expected: Outcome) {
        assert_eq!(evaluate(&Method::GET, &fields(text), file()), expected, "{text}");
    }

    #[test]
    fn each_precondition_by_itself() {
        check("", Outcome::Proceed);
        check("if-match: \"t\"", Outcome::Proceed);
        check("if-match: *", Outcome::Proceed);
        check("if-match: W/\"t\"", Outcome::Failed);
        check("if-match: \"x\"", Outcome::Failed);
        check("if-match: \"x\"\nif-match: \"t\"", Outcome::Proceed);
        check("if-none-match: \"t\"", Outcome::NotModified);
        check("if-none-match: W/\"t\"", Outcome::NotModified);
        check("if-none-match: *", Outcome::NotModified);
        check("if-none-match: \"x\", \"y\"", Outcome::Proceed);
        check(&format!("if-modified-since: {AT}"), Outcome::NotModified);
        check(&format!("if-modified-since: {AFTER}"), Outcome::NotModified);
        check(&format!("if-modified-since: {BEFORE}"), Outcome::Proceed);
        check("if-modified-since: yesterday", Outcome::Proceed);
        check(&format!("if-modified-since: {AT}\nif-modified-since: {AT}"), Outcome::Proceed);
        check(&format!("if-unmodified-since: {AT}"), Outcome::Proceed);
        check(&format!("if-unmodified-since: {BEFORE}"), Outcome::Failed);
        check("if-unmodified-since: yesterday", Outcome::Proceed);
        check("if-modified-since: Sunday, 06-Nov-94 08:49:37 GMT", Outcome::NotModified);
        check("if-modified-since: Sun Nov  6 08:49:37 1994", Outcome::NotModified);
    }

    #[test]
    fn the_order_is_that_of_the_rfc() {
        check(&format!("if-match: \"t\"\nif-unmodified-since: {BEFORE}"), Outcome::Proceed);
        check(&format!("if-none-match: \"x\"\nif-modified-since: {AFTER}"), Outcome::Proceed);
        check("if-match: \"x\"\nif-none-match: \"t\"", Outcome::Failed);
        check("if-match: \"t\"\nif-none-match: \"t\"", Outcome::NotModified);
        check(&format!("if-unmodified-since: {AT}\nif-none-match: \"t\""), Outcome::NotModified);
    }

    #[test]
    fn a_time_to_come_proves_nothing() {
        let file = Validators { is_in_future: true, ..file() };
        let outcome = |text: &str| evaluate(&Method::GET, &fields(text), file);
        assert_eq!(outcome(&format!("if-modified-since: {AFTER}")), Outcome::Proceed);
        assert_eq!(outcome("if-none-match: \"t\""), Outcome::NotModified);
    }

    #[test]
    fn other_methods_fail_instead() {
        let post = |text: &str| evaluate(&Method::POST, &fields(text), file());
        assert_eq!(post("if-none-match: \"t\""), Outcome::Failed);
        assert_eq!(post(&format!("if-modified-since: {AT}")), Outcome::Proceed);
        assert_eq!(
            evaluate(&Method::HEAD, &fields("if-none-match: \"t\""), file()),
            Outcome::NotModified
        );
    }

    #[test]
    fn if_range_is_strong() {
        let now = file().modified + Duration::from_secs(10);
        let counts = |text: &str| range_counts(&fields(text), file(), now);
        assert!(counts(""));
        assert!(counts("if-range: \"t\""));
        assert!(!counts("if-range: W/\"t\""));
        assert!(!counts("if-range: \"x\""));
        assert!(!counts("if-range: *"));
        assert!(counts(&format!("if-range: {AT}")));
        assert!(!counts(&format!("if-range: {AFTER}")));
        assert!(!counts(&format!("if-range: {BEFORE}")));
        assert!(!counts("if-range: nonsense"));
        assert!(!range_counts(&fields(&format!("if-range: {AT}")), file(), file().modified));
    }

    #[test]
    fn times_are_cut_to_seconds() {
        assert_eq!(whole_seconds(1_999_999_999), UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!(whole_seconds(-1), UNIX_EPOCH);
    }
}
