//! The configuration file: text to a checked, typed configuration.

pub mod schema;
