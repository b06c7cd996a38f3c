//! The medusa host: one process, one event loop, every part of it replaceable while it runs.
//!
//! The host knows sockets, timers, tasks, files, plugins and the monitor; it knows no protocol.

pub mod app;
pub mod config;
pub mod file;
pub mod http;
pub mod log;
pub mod monitor;
pub mod net;
pub mod plugin;
pub mod status;
pub mod sys;
