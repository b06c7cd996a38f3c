//! Files beneath a root, without waiting for a disk on the loop.
//!
//! What the kernel can answer from memory is answered inline; the rest goes to the pool. No name leads out of a root, and no kind of
//! file (a pipe that nobody writes to, a device) holds anybody up.

pub mod info;
mod listing;
pub mod open_file;
pub mod root;

// What the layers above speak of.
pub use open_file::File;
pub use root::Root;

#[cfg(test)]
mod tests;
