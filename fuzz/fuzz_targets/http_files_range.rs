//! Ranges: every part lies in the file, none is empty, and no two touch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medusa_fuzz_bodies::http_files_range;

fuzz_target!(|data: (u64, &[u8])| http_files_range::check(data.0, data.1));
