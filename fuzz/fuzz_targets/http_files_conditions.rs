//! Conditions: any fields at all, and a list that names the file's tag is found to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medusa_fuzz_bodies::http_files_conditions;

fuzz_target!(|values: [&[u8]; 5]| http_files_conditions::check(values));
