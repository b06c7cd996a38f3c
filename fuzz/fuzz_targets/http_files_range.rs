//! Ranges: every part lies in the file, none is empty, and no two touch.
#![no_main]

#[path = "../../plugins/http-files/src/range.rs"]
mod range;

use libfuzzer_sys::fuzz_target;
use range::{Selection, Span};

fuzz_target!(|data: (u64, &[u8])| {
    let (size, value) = data;
    let good = |span: &Span| span.length > 0 && span.end() <= size;
    match range::select(value, size, 8) {
        Selection::One(span) => assert!(good(&span)),
        Selection::Many(mut spans) => {
            assert!(spans.len() > 1 && spans.len() <= 8 && spans.iter().all(good));
            spans.sort_by_key(|span| span.start);
            assert!(spans.windows(2).all(|pair| pair[0].end() < pair[1].start));
        }
        Selection::Whole | Selection::Unsatisfiable => {}
    }
});
