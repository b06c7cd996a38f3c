//! Conditions: any fields at all, and a list that names the file's tag is found to.

use std::time::UNIX_EPOCH;

use http::{HeaderMap, HeaderValue, Method, header};

use crate::conditional::{self, Outcome, Validators};

/// One set of five fields.
///
/// # Panics
/// The promise above is broken.
pub fn check(values: [&[u8]; 5]) {
    let names = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
    ];
    let file = Validators { etag: "\"tag\"", modified: UNIX_EPOCH, is_in_future: false };
    let mut fields = HeaderMap::new();
    for (name, value) in names.into_iter().zip(values) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            fields.insert(name, value);
        }
    }
    conditional::evaluate(&Method::PUT, &fields, file);
    conditional::range_counts(&fields, file, UNIX_EPOCH);
    fields.remove(header::IF_MATCH);
    fields.remove(header::IF_UNMODIFIED_SINCE);
    fields.append(header::IF_NONE_MATCH, HeaderValue::from_static("\"other\", W/\"tag\""));
    assert_eq!(conditional::evaluate(&Method::GET, &fields, file), Outcome::NotModified);
}
