//! Made-up inputs, the same in every run: pieces that the parsers know, cut, doubled and spoilt. It finds what breaks at once; the
//! fuzzer finds the rest.

use crate::{http_files_conditions, http_files_path, http_files_range, http_framing};

const INPUTS: usize = 4000;

const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a HTTP/1.1\r\n",
    "GET /",
    " HTTP/1.0\r\n",
    "Host: a\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 05, 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n",
    "X: ",
    "\r\n",
    "\n",
    "\r",
    "hello",
    "5\r\nhello\r\n",
    "0\r\n\r\n",
    "ffffffffffffffff\r\n",
    ";a=\"b\"",
    ":",
    " ",
    "\t",
    "\0",
    "\u{ff}",
];
const PATHS: &[&str] = &[
    "/",
    "a",
    ".",
    "..",
    "%2e",
    "%2E%2e",
    "%2f",
    "%00",
    "%",
    "%f",
    "%ff",
    ".well-known",
    ".git",
    "?",
    "#",
    "\\",
    "//",
    "\u{e4}",
    " ",
];
const RANGES: &[&str] = &[
    "bytes=",
    "0-",
    "-5",
    "5-9",
    "9-5",
    "0-0",
    ",",
    " ",
    "\t",
    "18446744073709551615",
    "-",
    "1",
    "bytes",
    "lines=",
    "=",
];
const CONDITIONS: &[&str] = &[
    "\"tag\"",
    "W/\"tag\"",
    "*",
    ",",
    " ",
    "\"",
    "W/",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Thu, 01 Jan",
    "tag",
    "\u{ff}",
];

/// Numbers that look random (xorshift, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn text(&mut self, pieces: &[&str]) -> String {
        let count = self.below(14);
        let mut text: String = (0..count).map(|_| pieces[self.below(pieces.len())]).collect();
        if self.below(4) == 0 {
            let cut = self.below(text.len() + 1);
            text.truncate(text.floor_char_boundary(cut));
        }
        text
    }
}

fn each(mut check: impl FnMut(&mut Numbers)) {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    (0..INPUTS).for_each(|_| check(&mut numbers));
}

#[test]
fn framing() {
    each(|numbers| {
        let (step, text) = (numbers.below(256) as u8, numbers.text(HEADS));
        http_framing::check(step % 7, text.as_bytes());
        http_framing::check(step, format!("GET / HTTP/1.1\r\nHost: a\r\n{text}").as_bytes());
    });
}

#[test]
fn paths() {
    each(|numbers| {
        let text = numbers.text(PATHS);
        http_files_path::check(&text);
        http_files_path::check(&format!("/{text}"));
    });
}

#[test]
fn ranges() {
    each(|numbers| {
        let size = [0, 1, 10, 1000, u64::MAX][numbers.below(5)];
        let text = numbers.text(RANGES);
        http_files_range::check(size, text.as_bytes());
        http_files_range::check(size, format!("bytes={text}").as_bytes());
    });
}

#[test]
fn conditions() {
    each(|numbers| {
        let texts: [String; 5] = std::array::from_fn(|_| numbers.text(CONDITIONS));
        http_files_conditions::check(texts.each_ref().map(|text| text.as_bytes()));
    });
}
