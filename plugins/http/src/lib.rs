//! HTTP/1.1 (RFC 9110, RFC 9112) on hyper: the server that HTTP extensions attach to.
//!
//! It reads requests, has the host find who answers them, and writes the responses. It knows nothing of files, sites or
//! routes. [`framing`] refuses what hyper would let pass; [`connection`] decides how long a connection lives.

#[cfg(test)]
mod agreement;
mod ahead;
mod alarm;
mod cache;
mod chunked;
mod config;
mod connection;
#[cfg(test)]
mod differential;
mod framing;
mod front;
mod io;
mod linger;
mod metrics;
#[cfg(test)]
mod moves;
mod page;
mod plain;
mod refusal;
mod render;
mod repeat;
mod reply;
mod server;
mod service;
mod switch;
#[cfg(test)]
mod tests;
mod upload;
mod watch;

use std::time::Duration;

use medusa_plugin_api::{Registrar, Result, export_plugin, server::renewable_sessions};

use crate::{config::Settings, metrics::Metrics, server::Server};

/// An answer that may be given again is kept as long as somebody asks for it this often.
const UNUSED_MAX: Duration = Duration::from_secs(20);

export_plugin!(load, config = Settings, kind = "http-server");

fn load(registrar: &mut Registrar) -> Result<()> {
    let settings = registrar.config::<Settings>()?;
    let metrics = Metrics::new(registrar);
    let server = Server::new(&settings, metrics)?;
    let (draining, idling, moving) = (server.clone(), server.clone(), server.clone());
    registrar.every(UNUSED_MAX / 2, async move || {
        idling.drop_unused(UNUSED_MAX);
        Ok(())
    });
    let freezing = server.clone();
    registrar.on_freeze(move |is_frozen| freezing.freeze(is_frozen));
    registrar.on_hand_over(move || moving.hand_over());
    registrar.on_drain(move |_deadline| {
        // Connections that go on elsewhere are not told to end.
        if !draining.is_moving() {
            draining.drain();
        }
    });
    // Between two requests there is nothing to lose: those connections outlive a crash.
    renewable_sessions(registrar, async move |conn, resting, wake| {
        connection::turn(conn, resting, wake, &server).await
    });
    Ok(())
}
