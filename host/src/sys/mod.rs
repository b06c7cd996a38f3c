//! The system calls that need unsafe: memfd, openat2, mapping lists, signals.

pub mod blocking;
