//! Ranges: every part lies in the file, none is empty, and no two touch.

use crate::range::{self, Selection, Span};

/// One field, for a file of that size.
///
/// # Panics
/// The promise above is broken.
pub fn check(size: u64, value: &[u8]) {
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
}
