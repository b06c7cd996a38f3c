//! What must stay level while plugins come and go: mappings, descriptors, threads, memory.

use std::collections::BTreeSet;

use crate::{Mapping, Process};

/// An image of a library in memory: device and inode of its sealed copy.
pub type Image = ((u32, u32), u64);

/// How much a process has of what it could leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// Lines of the mapping list.
    pub mappings: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident memory.
    pub rss_bytes: u64,
}

impl Levels {
    /// As it is now.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    #[must_use]
    #[track_caller]
    pub fn of(process: Process) -> Self {
        Self {
            mappings: process.mappings().len(),
            descriptors: process.descriptors().len(),
            threads: process.threads().len(),
            rss_bytes: process.rss_bytes(),
        }
    }
}

/// The images of plugins that are mapped.
///
/// # Panics
///
/// When the process is gone.
#[must_use]
#[track_caller]
pub fn images(process: Process) -> BTreeSet<Image> {
    // A copy that is not in memory is a file that never had a name: `/tmp/#42 (deleted)`.
    let is_image = |mapping: &&Mapping| {
        mapping.path.starts_with("/memfd:")
            || (mapping.path.contains("/#") && mapping.path.ends_with(" (deleted)"))
    };
    // The host's own memory files have no code in them.
    let mappings = process.mappings();
    let code = mappings.iter().filter(|mapping| mapping.permissions.contains('x'));
    code.filter(is_image).map(|it| (it.device, it.inode)).collect()
}

/// Those of `images` of which anything is still mapped, under whatever name.
///
/// # Panics
///
/// When the process is gone.
#[must_use]
#[track_caller]
pub fn still_mapped(process: Process, images: &BTreeSet<Image>) -> Vec<Mapping> {
    let is_of = |it: &Mapping| images.contains(&(it.device, it.inode));
    process.mappings().into_iter().filter(is_of).collect()
}
