//! The monitor: commands over a Unix socket.
