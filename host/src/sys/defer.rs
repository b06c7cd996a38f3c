//! Listeners that tell of a connection only once its client has said something.

// The kernel is handed a pointer to the option's value.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

/// How long a client may be silent before it is accepted all the same. The kernel counts in its own retransmissions, of which the first
/// comes after a second.
const SILENCE_SECONDS: libc::c_int = 1;

/// Has a listener's queue hold back clients that are silent, for about a second at the most (TCP_DEFER_ACCEPT, tcp(7)); or not.
///
/// # Errors
/// It is no socket of TCP.
pub fn set_deferred(listener: BorrowedFd<'_>, is_deferred: bool) -> io::Result<()> {
    let seconds = if is_deferred { SILENCE_SECONDS } else { 0 };
    // SAFETY: The value is alive for the call, and as long as it is said to be.
    let answer = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            ptr::from_ref(&seconds).cast(),
            mem::size_of_val(&seconds) as libc::socklen_t,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
