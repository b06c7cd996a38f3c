//! The composition root: start, serve, drain, stop.

pub mod cli;
pub mod serve;

mod check;
mod passwd;
