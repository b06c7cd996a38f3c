//! Descriptors that tokio knows no type for, in its reactor.

// tokio asks for a promise about the descriptor that an owner of it can always give.
#![allow(unsafe_code)]

use std::{io, os::fd::OwnedFd};

use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};

use tokio::io::{Interest, unix::AsyncFd};

/// Has the reactor say when `descriptor` is readable. Must be called on the loop.
///
/// # Errors
/// It is a descriptor that cannot be waited for, a regular file say.
///
/// # Panics
/// There is no loop.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: An `OwnedFd` is open and the same until it is dropped, which the `AsyncFd` does last.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// Waits until a child process has ended, and takes note of its end, without which it would stay in the system's table. Must be called
/// on the loop.
///
/// # Errors
/// There is no such child.
pub async fn child_ended(child: u32) -> io::Result<()> {
    let child = i32::try_from(child).ok().and_then(Pid::from_raw);
    let child = child.ok_or(io::ErrorKind::InvalidInput)?;
    let ended = readable(pidfd_open(child, PidfdFlags::empty())?)?;
    drop(ended.readable().await?);
    waitpid(Some(child), WaitOptions::NOHANG)?;
    Ok(())
}
