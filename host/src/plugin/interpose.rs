//! The C library functions that the host takes over, so that a library can really be unmapped.
