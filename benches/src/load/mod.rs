//! The loads: wrk for what is counted in requests per second, and our own for many idle connections and for latencies.

pub(crate) mod exchange;
mod headers;
pub(crate) mod held;
mod paced;
mod wrk;

pub(crate) use self::{headers::Headers, wrk::Load};
