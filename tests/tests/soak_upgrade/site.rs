//! The files that are served, each byte of which is known.

use std::sync::Arc;

use crate::random::Random;

/// Sizes around those of buffers and pipes.
const SIZES: [usize; 7] = [0, 1024, 8 * 1024 + 1, 65_535, 262_144, 1_048_579, 4_194_311];

#[derive(Clone)]
pub(crate) struct Site(Arc<Vec<File>>);

pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Site {
    pub(crate) fn new() -> Site {
        let file = |size: &usize| File {
            name: format!("{size}.bin"),
            bytes: Random::new(*size as u64 + 1).bytes(*size),
        };
        Site(Arc::new(SIZES.iter().map(file).collect()))
    }

    pub(crate) fn files(&self) -> &[File] {
        &self.0
    }

    /// Those whose transfer takes a slow reader a while.
    pub(crate) fn large(&self) -> &[File] {
        &self.0[SIZES.len() - 2..]
    }

    /// Those that are quickly sent.
    pub(crate) fn small(&self) -> &[File] {
        &self.0[..SIZES.len() - 1]
    }
}
