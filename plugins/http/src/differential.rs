//! What the framing lets through is what hyper reads: the same end of each body, for bodies that look random and are the
//! same in each run.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};

use crate::{chunked::Chunked, framing::Limits, reply::Reply};

const LIMITS: Limits =
    Limits { head_bytes_max: 400, target_bytes_max: 60, fields_max: 8, body_bytes_max: 5_000 };

const HEAD: &[u8] = b"POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";

/// What bodies are spoilt with.
const BYTES: &[u8] = b"\r\n \t;:=\"\\0159afAFxg-+.\0\x7f\x80\xff";

/// Numbers that look random (xorshift64*), the same in each run; not from 0.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % end as u64) as usize
    }

    pub(crate) fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// Input in pieces; output goes nowhere.
struct Wire {
    input: Vec<u8>,
    at: usize,
    step: usize,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.step.min(self.input.len() - self.at).min(buffer.remaining());
        buffer.put_slice(&self.input[self.at..self.at + count]);
        self.at += count;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What `read` makes of each request that hyper finds in `input`, which comes in steps.
pub(crate) fn requests<T>(
    input: Vec<u8>,
    step: usize,
    read: impl AsyncFn(Request<Incoming>) -> T,
) -> Vec<T> {
    let found = RefCell::new(Vec::new());
    {
        let (found, read) = (&found, &read);
        let service = service_fn(move |request: Request<Incoming>| async move {
            let it = read(request).await;
            found.borrow_mut().push(it);
            Ok::<_, Infallible>(Response::new(Reply::Empty))
        });
        let connection = http1::Builder::new()
            .half_close(true)
            .serve_connection(Wire { input, at: 0, step }, service);
        let mut connection = pin!(connection);
        let mut context = Context::from_waker(Waker::noop());
        let is_over = (0..100_000).any(|_| connection.as_mut().poll(&mut context).is_ready());
        assert!(is_over, "the input ends, so the connection does");
    }
    found.into_inner()
}

/// The path of a request with its body, if that is good.
async fn path_and_body(request: Request<Incoming>) -> (String, Option<Vec<u8>>) {
    (request.uri().path().to_owned(), collect(request.into_body()).await)
}

async fn collect(mut body: Incoming) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    while let Some(frame) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        let piece: Option<Bytes> = frame.ok()?.into_data().ok();
        data.extend(piece.unwrap_or_default());
    }
    Some(data)
}

/// A good body, and its data.
fn body(random: &mut Random) -> (Vec<u8>, Vec<u8>) {
    let extensions = ["", "", ";a", "; a=b", " ;a = \"b c\"", ";a=\"\\\"\u{e4}\";b"];
    let trailers = ["", "", "X: y\r\n", "A:\r\nB: c \r\n", "X: \u{e4}\r\n"];
    let (mut wire, mut data) = (Vec::new(), Vec::new());
    for _ in 0..random.below(4) {
        let length = 1 + random.below(40);
        let piece: Vec<u8> = (0..length).map(|_| b"\r\n0;aZ "[random.below(7)]).collect();
        let size = random.one(&["", "0", "00"]);
        wire.extend(format!("{size}{length:x}{}\r\n", random.one(&extensions)).bytes());
        wire.extend(&piece);
        wire.extend(b"\r\n");
        data.extend(piece);
    }
    wire.extend(format!("0{}\r\n{}\r\n", random.one(&extensions), random.one(&trailers)).bytes());
    (wire, data)
}

/// Where the framing sees the end of a body, read in steps.
fn end(wire: &[u8], step: usize) -> Option<usize> {
    let mut chunked = Chunked::new(&LIMITS);
    for (index, bytes) in wire.chunks(step).enumerate() {
        if let Some(used) = chunked.judge(bytes).ok()? {
            return Some(index * step + used);
        }
    }
    None
}

#[test]
fn good_bodies_are_good_to_both() {
    let random = &mut Random(1);
    for _ in 0..2_000 {
        let (wire, data) = body(random);
        assert_eq!(end(&wire, 1 + random.below(50)), Some(wire.len()), "{}", wire.escape_ascii());
        let found = requests([HEAD, &wire, NEXT].concat(), 1 + random.below(50), path_and_body);
        let expected =
            [("/chunked".to_owned(), Some(data)), ("/next".to_owned(), Some(Vec::new()))];
        assert_eq!(found, expected, "{}", wire.escape_ascii());
    }
}

#[test]
fn what_is_let_through_ends_where_hyper_ends_it() {
    let random = &mut Random(2);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let (mut wire, _) = body(random);
        for _ in 0..=random.below(3) {
            let at = random.below(wire.len());
            let byte = BYTES[random.below(BYTES.len())];
            match random.below(3) {
                0 => wire[at] = byte,
                1 => wire.insert(at, byte),
                _ => drop(wire.remove(at)),
            }
            if wire.is_empty() {
                break;
            }
        }
        wire.push(b'\n');
        let (whole, cut) = (end(&wire, wire.len()), end(&wire, 1 + random.below(9)));
        assert_eq!(whole, cut, "{}", wire.escape_ascii());
        let Some(end) = whole else { continue };
        accepted += 1;
        let found =
            requests([HEAD, &wire[..end], NEXT].concat(), 1 + random.below(50), path_and_body);
        let is_good = matches!(&found[..], [(_, Some(_)), (next, _)] if next == "/next");
        assert!(is_good, "{}: {found:?}", wire.escape_ascii());
    }
    assert!(accepted > 1_000, "{accepted} of them were let through");
}
