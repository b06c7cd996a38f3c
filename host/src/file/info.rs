//! What `stat` says of a file, in the form in which plugins see it.

use medusa_abi::file::{FileInfo, KIND_DIRECTORY, KIND_FILE, KIND_OTHER, KIND_SYMLINK};
use rustix::fs::{FileType, Stat};

/// The permission bits of `st_mode`, with those for set-user-id, set-group-id and sticky.
const PERMISSIONS: u32 = 0o7777;

/// What a plugin is told.
#[allow(clippy::unnecessary_cast, reason = "the widths differ between architectures")]
#[must_use]
pub fn from_stat(stat: &Stat) -> FileInfo {
    FileInfo {
        kind: match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => KIND_FILE,
            FileType::Directory => KIND_DIRECTORY,
            FileType::Symlink => KIND_SYMLINK,
            _ => KIND_OTHER,
        },
        mode: stat.st_mode & PERMISSIONS,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified_ns: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        changed_ns: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        user: stat.st_uid,
        group: stat.st_gid,
        links: stat.st_nlink as u64,
        spare: [0; 2],
    }
}

/// Since 1970; what lies centuries away is cut off.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
