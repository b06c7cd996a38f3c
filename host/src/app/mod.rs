//! The composition root: start, serve, drain, stop.

pub mod cli;
pub mod host;

mod apply;
pub mod serve;
pub mod watchdog;

mod check;
mod passwd;
