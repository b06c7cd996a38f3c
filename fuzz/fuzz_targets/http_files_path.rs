//! Paths of requests: whatever is let through names something beneath the root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medusa_fuzz_bodies::http_files_path;

fuzz_target!(|input: &str| http_files_path::check(input));
