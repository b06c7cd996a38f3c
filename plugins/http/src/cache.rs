//! Answers that may be given again: rendered once, by leave of whoever gave them, and void with it.

use std::{cell::Cell, rc::Rc, time::Duration};

use http::StatusCode;
use lru::LruCache;
use medusa_plugin_api::{File, Instant, server::Reuse};

use crate::{plain::Plain, render::DATE_BYTES};

/// What one answer takes besides its bytes, roughly.
const OVERHEAD_BYTES: usize = 512;

/// An answer depends on no more of a request's fields than this, values included, in bytes.
const VALUES_BYTES_MAX: usize = 4096;

/// The answers of one instance. What was not used for longest goes first when there is no more room.
pub(crate) struct Cache {
    answers: LruCache<Box<[u8]>, Rc<Answer>>,
    /// By target: the fields that its answers depend on.
    targets: LruCache<Box<[u8]>, Rc<Dependencies>>,
    bytes: usize,
    bytes_max: usize,
    key: Vec<u8>,
}

struct Dependencies(Vec<Box<[u8]>>);

/// An answer, as it is sent.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The head, and the body unless that is a file's.
    pub(crate) wire: Box<[u8]>,
    /// Where in it the date stands.
    pub(crate) date_at: Option<usize>,
    /// How many bytes of it are the body.
    pub(crate) body_bytes: usize,
    /// The body: a file, the offset in it, and how many bytes.
    pub(crate) file: Option<(Rc<File>, u64, u64)>,
    pub(crate) reuse: Reuse,
    /// When it was found last.
    pub(crate) used_at: Cell<Instant>,
}

impl Cache {
    /// An empty one for so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Cache {
        Cache {
            answers: LruCache::unbounded(),
            targets: LruCache::unbounded(),
            bytes: 0,
            bytes_max,
            key: Vec::new(),
        }
    }

    /// The answer that a request may be given without asking anybody but its giver.
    pub(crate) fn find(&mut self, plain: &Plain, bytes: &[u8], now: Instant) -> Option<Rc<Answer>> {
        if self.answers.is_empty() {
            return None;
        }
        self.key.clear();
        write_target(&mut self.key, plain, bytes);
        let dependencies = self.targets.get(&*self.key)?;
        write_values(&mut self.key, dependencies, plain, bytes)?;
        let answer = self.answers.get(&*self.key)?;
        answer.used_at.set(now);
        Some(answer.clone())
    }

    /// Keeps the answer to a request.
    pub(crate) fn keep(&mut self, plain: &Plain, bytes: &[u8], answer: Answer) {
        let mut key = Vec::new();
        write_target(&mut key, plain, bytes);
        let names = Vec::from_iter(answer.reuse.depends_on().map(Box::from));
        let target = key.clone().into_boxed_slice();
        let dependencies = Rc::new(Dependencies(names));
        if write_values(&mut key, &dependencies, plain, bytes).is_none() {
            return;
        }
        let wanted = size(&key, &answer);
        if wanted > self.bytes_max / 4 {
            return;
        }
        self.targets.put(target, dependencies);
        if let Some(old) = self.answers.pop(&*key) {
            self.bytes -= size(&key, &old);
        }
        while self.bytes + wanted > self.bytes_max {
            let Some((key, old)) = self.answers.pop_lru() else { break };
            self.bytes -= size(&key, &old);
        }
        // A target without answers is found by nobody; there are not more of them than there may be answers.
        while self.targets.len() > self.bytes_max / OVERHEAD_BYTES {
            self.targets.pop_lru();
        }
        self.bytes += wanted;
        self.answers.put(key.into(), Rc::new(answer));
    }

    /// Drops the answer to a request, which is void.
    pub(crate) fn forget(&mut self, answer: &Rc<Answer>) {
        // The key of the last find is that of the answer which it found.
        let Some(old) = self.answers.peek(&*self.key) else { return };
        if Rc::ptr_eq(old, answer) {
            self.bytes -= size(&self.key, old);
            self.answers.pop(&*self.key);
        }
    }

    /// Drops what was not used for so long: it may keep a file that is gone from its folder.
    pub(crate) fn drop_unused(&mut self, duration: Duration, now: Instant) {
        while let Some((_, answer)) = self.answers.peek_lru()
            && answer.used_at.get() + duration < now
        {
            if let Some((key, old)) = self.answers.pop_lru() {
                self.bytes -= size(&key, &old);
            }
        }
        if self.answers.is_empty() {
            self.targets.clear();
        }
    }

    /// Drops all of them.
    pub(crate) fn clear(&mut self) {
        self.answers.clear();
        self.targets.clear();
        self.bytes = 0;
    }
}

/// What an answer takes, roughly: its key is there as a target too.
fn size(key: &[u8], answer: &Answer) -> usize {
    2 * key.len() + answer.wire.len() + OVERHEAD_BYTES
}

impl Answer {
    /// Bytes of its body.
    pub(crate) fn length(&self) -> u64 {
        self.body_bytes as u64 + self.file.as_ref().map_or(0, |(_, _, length)| *length)
    }

    /// Writes it with the date of now.
    pub(crate) fn write(&self, out: &mut Vec<u8>, date: &[u8; DATE_BYTES]) {
        let before = out.len();
        out.extend_from_slice(&self.wire);
        if let Some(at) = self.date_at {
            out[before + at..before + at + DATE_BYTES].copy_from_slice(date);
        }
    }
}

/// Host, path and query as they came; none of them has a blank or a line end in it.
fn write_target(key: &mut Vec<u8>, plain: &Plain, bytes: &[u8]) {
    key.extend_from_slice(plain.host(bytes).unwrap_or_default().as_bytes());
    key.push(b' ');
    key.extend_from_slice(plain.target(bytes));
}

/// The values of the fields that the answer depends on. `None` if there is more than is worth keeping.
fn write_values(
    key: &mut Vec<u8>,
    dependencies: &Dependencies,
    plain: &Plain,
    bytes: &[u8],
) -> Option<()> {
    let before = key.len();
    for (index, name) in dependencies.0.iter().enumerate() {
        for (_, value) in plain.fields(bytes).filter(|(field, _)| *field == &**name) {
            // A value has no line end in it.
            key.extend_from_slice(&[b'\n', index as u8]);
            key.extend_from_slice(value);
        }
    }
    (key.len() - before <= VALUES_BYTES_MAX).then_some(())
}
