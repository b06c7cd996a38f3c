//! Files beneath a root, without waiting for a disk on the loop.
