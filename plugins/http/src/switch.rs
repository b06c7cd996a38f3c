//! The end of HTTP on a connection that is to speak another protocol (RFC 9110 section 7.8): 101 is sent, and the connection is whoever's
//! answered so. Nothing of it is left here.

use std::rc::Rc;

use http::StatusCode;
use medusa_plugin_api::{Instant, Result};

use crate::{linger::write_in_time, render, watch::Watch};

/// Sends the 101 that an extension has given, and lets go of the connection.
///
/// # Errors
/// The extension has gone meanwhile.
pub(crate) async fn switch(watch: &Rc<Watch>) -> Result<()> {
    let Some(response) = watch.switched.take() else { return Ok(()) };
    let server = &watch.server;
    let mut head = Vec::new();
    server.date.borrow_mut().refresh(Instant::now());
    render::switching(&mut head, server, &response.headers);
    server.metrics.response(StatusCode::SWITCHING_PROTOCOLS);
    if write_in_time(watch, &head).await.is_err() {
        watch.abort();
        return Ok(());
    }
    let Some(conn) = watch.take() else { return Ok(()) };
    let unread = watch.ahead.take().into_bytes();
    response.body.hand_over(conn, &unread)
}
