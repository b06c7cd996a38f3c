//! The composition root: start, serve, drain, stop.

pub mod cli;
pub mod host;
pub mod moves_file;
mod plan;
pub mod routes;

mod apply;
mod crash_report;
mod status;

pub mod serve;
pub mod succession;
pub mod supervisor;
pub mod watchdog;

mod check;
mod figures;
mod passwd;
