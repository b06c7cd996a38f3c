//! The framing of requests: the same verdict however the bytes are cut, and no head let through that the parser behind it
//! would end elsewhere.

use crate::{
    framing::{Framing, Limits},
    refusal,
};

const LIMITS: Limits =
    Limits { head_bytes_max: 300, target_bytes_max: 60, fields_max: 10, body_bytes_max: 500 };

fn judge(input: &[u8], step: usize) -> Result<u64, (usize, refusal::Refusal)> {
    let mut framing = Framing::new(LIMITS);
    for (index, mut bytes) in input.chunks(step).enumerate() {
        let mut before = index * step;
        while !bytes.is_empty() {
            if let Err(refused) = framing.judge(bytes) {
                let at = if refused.in_body { before + refused.at } else { 0 };
                return Err((at, refused.refusal));
            }
            // What is held back behind a request for another protocol is taken for HTTP's.
            let used = framing.held().unwrap_or(bytes.len());
            (bytes, before) = (&bytes[used..], before + used);
        }
    }
    Ok(framing.heads())
}

/// One connection, in one piece and in steps.
///
/// # Panics
/// The promise above is broken.
pub fn check(step: u8, input: &[u8]) {
    let whole = judge(input, input.len().max(1));
    let cut = judge(input, usize::from(step).max(1));
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut),
        // Which limit is met first may depend on how much has come.
        (Err(whole), Err(cut)) => assert!(whole == cut || (whole.0 == 0 && cut.0 == 0)),
        (whole, cut) => panic!("{whole:?} in one piece, {cut:?} in steps of {step}"),
    }
    // A first head that is let through ends where the parser ends it, if the parser accepts it at all.
    let mut framing = Framing::new(LIMITS);
    let end = (1..=input.len())
        .find(|end| framing.judge(&input[end - 1..*end]).is_err() || framing.heads() > 0);
    if let Some(end) = end.filter(|_| framing.heads() > 0) {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut fields);
        if let Ok(status) = request.parse(input) {
            assert_eq!(status, httparse::Status::Complete(end));
        }
    }
}
