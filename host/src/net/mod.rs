//! Sockets: listeners, connections, and names.
//!
//! All of it lives on the loop's thread. Nothing here knows who serves a connection; it is told, for the monitor to show.

pub mod address;
pub mod connection;
pub mod connections;
pub mod kept;
pub mod listener;
pub mod resolve;

mod closing;
mod connect;
mod entry;
mod hangup;
pub mod lot;
mod parked;
mod stream;
pub mod succession;
mod unread;
mod wheel;
mod writers;

// What the layers above speak of; the rest is named by its module.
pub use address::Address;
pub use connection::Connection;
pub use connections::{Connections, Owner, Quota};
pub use kept::KeptSockets;
pub use listener::{Accepting, Listener};
pub use resolve::{Lookup, Resolver};

#[cfg(test)]
mod tests;
