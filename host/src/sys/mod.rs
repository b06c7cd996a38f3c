//! The system calls that the rest of the host wants in a safe form: sealed memory files, files beneath a root, raw socket
//! transfers and options, how long a connection is idle, the mapping list, what the process holds and was given, and messages to the
//! service manager.
//!
//! Nothing here knows plugins, connections or the configuration.

pub mod beneath;
pub mod blocking;
pub mod clock;
pub mod crash;
pub mod defer;
pub mod exec;
pub mod fault;
pub mod idle;
pub mod images;
pub mod inherit;
pub mod maps;
pub mod memfd;
pub mod notify;
pub mod pages;
pub mod process;
pub mod reactor;
pub mod transfer;
