//! The composition root: start, serve, drain, stop.
