//! Files, opened beneath a root and read without blocking the loop.

use abi_stable::StableAbi;

use crate::data::{Handle, Slice};

/// Opens for reading.
pub const OPEN_READ: u32 = 1;
/// Opens for writing.
pub const OPEN_WRITE: u32 = 2;
/// Makes the file if it is not there.
pub const OPEN_CREATE: u32 = 4;
/// Cuts the file to nothing.
pub const OPEN_TRUNCATE: u32 = 8;
/// Fails if the file is there already.
pub const OPEN_EXCLUSIVE: u32 = 16;
/// Opens a directory, to be listed with `dir_next`.
pub const OPEN_DIRECTORY: u32 = 32;
/// Fails with `ELOOP` if any part of the path is a symbolic link. Without it, links are followed as long as they stay
/// beneath the root.
pub const OPEN_NO_SYMLINKS: u32 = 64;

/// Asks for a file beneath a root. The path is relative, `/`-separated, and may not lead out of the root by any means.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct OpenSpec {
    /// From `root_open`.
    pub root: Handle,
    /// Bytes without NUL. Empty names the root itself.
    pub path: Slice,
    /// `OPEN_*` together.
    pub flags: u32,
    /// Permission bits of a file that is made.
    pub mode: u32,
    pub spare: [u64; 2],
}

/// A regular file.
pub const KIND_FILE: u32 = 1;
/// A directory.
pub const KIND_DIRECTORY: u32 = 2;
/// A symbolic link; only from `dir_next`.
pub const KIND_SYMLINK: u32 = 3;
/// Anything else: a device, a socket, a pipe.
pub const KIND_OTHER: u32 = 4;

/// What `stat` says of a file.
#[derive(StableAbi, Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct FileInfo {
    /// `KIND_*`.
    pub kind: u32,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since 1970, of the content.
    pub modified_ns: i64,
    /// Nanoseconds since 1970, of content or attributes.
    pub changed_ns: i64,
    pub device: u64,
    pub inode: u64,
    pub user: u32,
    pub group: u32,
    pub links: u64,
    pub spare: [u64; 2],
}
