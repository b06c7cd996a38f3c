//! What a process has from the one that started it: descriptors that were left open for it, and variables.

// Raw descriptors become owned, and the environment is changed.
#![allow(unsafe_code)]

use std::{
    env, io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

use crate::sys::process;

/// The first descriptor behind the standard ones, from which on others are passed (sd_listen_fds(3)).
pub const FIRST: RawFd = 3;

/// Takes the descriptors that were passed to this process, `count` from [`FIRST`] on, and closes them to programs that it starts. What is
/// not open is an error of its own. They can be taken once; later there are none. To be called by whoever knows that they are this
/// process's (`LISTEN_PID`), before anything else opens a descriptor.
pub fn descriptors(count: RawFd) -> Vec<io::Result<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    (FIRST..FIRST.saturating_add(count)).map(take).collect()
}

fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: It is looked at during this call only, and the kernel answers for one that is not open.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(descriptor)?;
    fcntl_setfd(descriptor, flags | FdFlags::CLOEXEC)?;
    // SAFETY: It is open, was opened for this process before it began, and is taken once: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Forgets variables of the environment, so that programs which this one starts do not see them. Nothing is done once there are
/// other threads, which could be reading them. Answers whether it was.
pub fn forget_variables(names: &[&str]) -> bool {
    if !process::thread_count().is_ok_and(|count| count == 1) {
        return false;
    }
    for name in names {
        // SAFETY: This is the only thread, so that nobody else reads or changes the environment meanwhile.
        unsafe { env::remove_var(name) };
    }
    true
}
