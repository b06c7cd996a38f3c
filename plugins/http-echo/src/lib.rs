//! Answers every request with the body that it got, and echoes WebSockets (RFC 6455): for trying out clients and proxies, and an example of
//! bodies that stream both ways and of a connection that leaves HTTP.
mod body;
mod config;
mod handshake;
mod socket;

use std::{rc::Rc, time::Duration};

use medusa_plugin_api::prelude::*;

use crate::{
    config::Settings,
    socket::{Limits, Reply, Socket},
};

export_plugin!(load, config = Settings, kind = "http-extension");

/// How long a client has to answer our close frame.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

fn load(registrar: &mut Registrar) -> Result<()> {
    let limits = Rc::new(Limits::new(&registrar.config::<Settings>()?));
    let sockets = registrar.session(async move |conn: &mut Connection, socket, wake| {
        turn(conn, socket, wake, &limits).await
    });
    registrar.http("/", move |request: Request| {
        let sockets = sockets.clone();
        async move {
            if handshake::is_wanted(&request) {
                return handshake::answer(&request, sockets);
            }
            body::echo(request).await
        }
    });
    Ok(())
}

/// One turn of a WebSocket: reads once, answers what is whole, and leaves the rest to the next.
async fn turn(
    conn: &mut Connection,
    mut socket: Socket,
    wake: Wake,
    limits: &Limits,
) -> Result<Flow<Socket>> {
    let reply = match wake {
        Wake::Readable | Wake::Resumed => {
            let mut buf = [0; 8 * 1024];
            match conn.read(&mut buf).await? {
                0 => return Ok(Flow::Close),
                n => socket.receive(&buf[..n], limits),
            }
        }
        Wake::Drain => socket.go_away(limits),
        Wake::Posted(_) => Reply::default(),
        Wake::Hangup | Wake::Deadline => return Ok(Flow::Close),
    };
    conn.write_all(&reply.bytes).await?;
    if reply.is_last {
        return Ok(Flow::Close);
    }
    let deadline = socket.is_closing().then(|| Instant::now() + CLOSE_WAIT);
    Ok(Flow::Park(socket, deadline))
}
