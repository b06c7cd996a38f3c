//! The C library functions that the host takes over, so that a library can really be unmapped.
//!
//! A thread-local with a destructor registers that destructor with the C library, which then keeps the library mapped until the thread
//! ends; a pthread key with a destructor is worse, for nothing is kept and the thread's end calls into what is gone. So the host's own
//! `__cxa_thread_atexit_impl`, `pthread_key_create` and friends stand in front of the C library's: what belongs to a registered image is
//! kept in lists of ours (`tables`), can be run at any time on the thread that it belongs to (`clean`), and can be counted. What
//! belongs to nobody is passed on untouched.
//!
//! This takes the C library's own net away: an image that is closed before it is clean crashes. So `library` asks [`pending`]
//! first. Not seen are threads that the C library starts itself (`timer_create`, `getaddrinfo_a`, `thrd_create`), and what libraries
//! register that a plugin needs: those stay mapped on their own terms.

// Stands in for C functions, and calls what C code registered.
#![allow(unsafe_code)]

mod clean;
mod ends;
mod symbols;
mod tables;

use std::{ffi::CStr, fmt, ops::Range};

pub(super) use self::ends::announce;
use self::tables::lock;
pub use self::{
    clean::{Cleaned, clean_current_thread},
    ends::ThreadEnds,
    tables::IMAGES_MAX,
};
use crate::sys::process;

/// One loaded image: a number that this process never uses twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId(u64);

/// What stands between an image and its unmapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Destructors of thread-locals, on all threads.
    pub destructors: usize,
    /// Threads that are inside of a destructor of the image's now.
    pub running: usize,
    /// Values of pthread keys with a destructor, on all threads.
    pub keys_with_values: usize,
    /// Threads that the image started and that have not ended.
    pub live_threads: usize,
}

/// A thread that has to do with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadOf {
    /// The kernel's id; 0 until the thread runs.
    pub id: u32,
    /// Its name; empty once it has ended.
    pub name: String,
    /// Whether the image started it; else it is a thread of the host's that ran the image's code.
    pub started: bool,
    /// Destructors, of thread-locals and of keys, that wait for it to end or to be cleaned.
    pub destructors: usize,
}

/// Why an image cannot be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchError {
    /// The functions of this module are not the ones that libraries bind to.
    NotActive,
    /// [`IMAGES_MAX`] images are loaded.
    TooMany,
    /// The process has no pthread key left.
    NoKey,
}

/// Makes sure that this module is in the executable and in front of the C library; to be called first thing in `main`.
///
/// # Errors
/// Libraries would bind to the C library's own functions: the executable was linked without the exports of `build.rs`, or the C
/// library is not glibc. Then no library can be unmapped, and `library` does not try.
pub fn install() -> Result<(), WatchError> {
    if symbols::are_in_front() { Ok(()) } else { Err(WatchError::NotActive) }
}

/// A new image's number, from now on watched: whatever it registers while the dynamic linker runs its constructors is attributed to
/// it, by the name it is opened by (which must not be open already). [`register`] has to follow, or [`unregister`] if the open fails.
///
/// # Errors
/// Too many images, or no pthread key is left for this module's own.
pub fn begin_open(name: &CStr) -> Result<ImageId, WatchError> {
    ends::prepare();
    if !clean::prepare() {
        return Err(WatchError::NoKey);
    }
    lock().begin_open(name)
}

/// States where the image lies, once it is open.
pub fn register(image: ImageId, range: Range<usize>) {
    let mut tables = lock();
    tables.set_range(image, range);
    tables.end_open(image);
}

/// Forgets an image that is no longer mapped. What it still had registered is thrown away and never called; how much that was.
pub fn unregister(image: ImageId) -> usize {
    delete_keys(image);
    lock().remove(image)
}

/// What an image has registered, on all threads.
pub fn pending(image: ImageId) -> Pending {
    lock().pending(image)
}

/// The threads that an image started, or that hold something of it; at most 64.
pub fn threads(image: ImageId) -> Vec<ThreadOf> {
    // Names are read after the lock is gone.
    let found = lock().threads_of(image);
    let named = |thread: tables::Found| ThreadOf {
        id: thread.id,
        name: process::thread_name(thread.id).unwrap_or_default(),
        started: thread.started,
        destructors: thread.destructors,
    };
    found.into_iter().map(named).collect()
}

/// Gives the image's pthread keys back, of which there are 1,024 in a process; how many there were. Values that threads still have
/// under them are never destroyed.
pub fn delete_keys(image: ImageId) -> usize {
    let mut count = 0;
    loop {
        let key = lock().take_key(image);
        let Some(key) = key else { return count };
        symbols::delete_key(key);
        count += 1;
    }
}

impl ImageId {
    /// The number itself, for people and logs.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl Pending {
    /// Whether nothing stands in the way.
    pub fn is_empty(&self) -> bool {
        *self == Pending::default()
    }

    /// Whether no thread has anything of the image left to destroy, or is at it.
    pub fn is_clean(&self) -> bool {
        self.destructors + self.keys_with_values + self.running == 0
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.live_threads, "thread of its own still runs", "threads of its own still run"),
            (self.running, "thread is cleaning up after it", "threads are cleaning up after it"),
            (
                self.destructors,
                "thread-local was not destroyed",
                "thread-locals were not destroyed",
            ),
            (self.keys_with_values, "pthread key has a value", "pthread keys have values"),
        ];
        let mut first = true;
        for (count, one, many) in parts.into_iter().filter(|part| part.0 > 0) {
            let comma = if std::mem::take(&mut first) { "" } else { ", " };
            write!(f, "{comma}{count} {}", if count == 1 { one } else { many })?;
        }
        if first { f.write_str("nothing is pending") } else { Ok(()) }
    }
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchError::NotActive => f.write_str(
                "this executable does not stand in front of the C library, so no library can be unmapped: \
                 every unload pins; use a build for Linux with glibc that is linked with the exports of host/build.rs",
            ),
            WatchError::TooMany => write!(
                f,
                "{IMAGES_MAX} libraries are mapped already; unload some, or restart the host if they are pinned"
            ),
            WatchError::NoKey => f.write_str(
                "all pthread keys of the process are in use; restart the host",
            ),
        }
    }
}

impl std::error::Error for WatchError {}
