//! Sockets: listeners, connections, and names.
//!
//! All of it lives on the loop's thread. Nothing here knows who serves a connection; it is told, for the monitor to show.

pub mod address;
pub mod connection;
pub mod connections;
pub mod listener;
pub mod resolve;

mod closing;
mod connect;
mod entry;
mod hangup;
mod stream;

#[cfg(test)]
mod tests;
