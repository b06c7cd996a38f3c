//! Conditions: any fields at all, and a list that names the file's tag is found to.
#![no_main]
#![allow(dead_code, reason = "the modules are the plugin's own, of which this uses a part")]

#[path = "../../plugins/http-files/src/conditional.rs"]
mod conditional;
#[path = "../../plugins/http-files/src/etag.rs"]
mod etag;

use std::time::UNIX_EPOCH;

use conditional::{Outcome, Validators};
use http::{HeaderMap, HeaderValue, Method, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|values: [&[u8]; 5]| {
    let names = [
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
    ];
    let file = Validators { etag: "\"tag\"", modified: UNIX_EPOCH };
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
});
