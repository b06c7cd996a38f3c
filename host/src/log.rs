//! The log: tracing to standard error, and the last lines for the monitor.
