//! What the fuzz targets check, apart from the fuzzer: it needs a nightly compiler and C++, this is compiled and run with all tests.
//!
//! The parsers are the plugins' own files.
#![allow(dead_code, reason = "the modules are the plugins' own, of which this uses a part")]

pub mod http_files_conditions;
pub mod http_files_path;
pub mod http_files_range;
pub mod http_framing;

#[path = "../../../plugins/http/src/chunked.rs"]
mod chunked;
#[path = "../../../plugins/http-files/src/conditional.rs"]
mod conditional;
#[path = "../../../plugins/http-files/src/etag.rs"]
mod etag;
#[path = "../../../plugins/http/src/framing.rs"]
mod framing;
#[path = "../../../plugins/http-files/src/path.rs"]
mod path;
#[path = "../../../plugins/http-files/src/range.rs"]
mod range;
#[path = "../../../plugins/http/src/refusal.rs"]
mod refusal;

#[cfg(test)]
mod made_up;
