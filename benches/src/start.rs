//! From the start of a server's process to its first answer.

use crate::{
    Result,
    options::Options,
    report::median,
    servers::{Kind, Server},
    site::Site,
    trial::{Figure, Figures},
};

/// Starts the server several times, and answers the median.
pub(crate) fn measure(kind: Kind, options: &Options, site: &Site) -> Result<Figures> {
    let mut starts_ms = Vec::new();
    for _ in 0..=options.seconds {
        let server = Server::start_ready(kind, site)?;
        starts_ms.push(server.started.elapsed().as_secs_f64() * 1e3);
    }
    // The first reads what the others find in memory.
    starts_ms.remove(0);
    Ok(vec![(Figure::StartMs, median(&mut starts_ms))])
}
