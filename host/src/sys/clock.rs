//! The system's monotonic clock as a number: half of what `Instant` costs, which subtracts seconds and nanoseconds apart.

#![allow(unsafe_code)] // Asks the C library.

/// Nanoseconds on the clock that `Instant` reads too, since a moment that is the same for all of the process.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: The clock is one that every Linux has, and `now` is valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
