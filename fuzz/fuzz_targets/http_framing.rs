//! The framing of requests: the same verdict however the bytes are cut, and no head let through that the parser behind it
//! would end elsewhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use medusa_fuzz_bodies::http_framing;

fuzz_target!(|data: (u8, Vec<u8>)| http_framing::check(data.0, &data.1));
