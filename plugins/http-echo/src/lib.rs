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
        Wake::Readable => {
            let mut buf = [0; 8 * 1024];
            match conn.read(&mut buf).await? {
                0 => return Ok(Flow::Close),
                n => socket.receive(&buf[..n], limits),
            }
        }
        Wake::Drain => socket.go_away(limits),
        // It goes on to rest; what there is to read wakes it.
        Wake::Resumed | Wake::Posted(_) => Reply::default(),
        Wake::Hangup | Wake::Deadline => return Ok(Flow::Close),
    };
    conn.write_all(&reply.bytes).await?;
    if reply.is_last {
        return Ok(Flow::Close);
    }
    let deadline = socket.is_closing().then(|| Instant::now() + CLOSE_WAIT);
    Ok(Flow::Park(socket, deadline))
}

#[cfg(test)]
mod tests {
    use medusa_plugin_api::testing::{Host, TestConnection};

    use super::*;

    fn open(host: &Host) -> TestConnection {
        let mut request = http::Request::get("/");
        for (name, value) in [
            ("host", "a"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            request = request.header(name, value);
        }
        let (response, conn) = host.switch(request.body(()).expect("a sound request"));
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        conn.expect("the protocol is switched")
    }

    /// A client's frame, with a mask that changes nothing.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn a_body_comes_back_with_its_type() {
        let host = Host::new(load);
        let request = http::Request::put("/any/thing").header("content-type", "text/x-any");
        let response = host.request(request.body("hello").expect("a sound request"));
        assert_eq!(response.headers()["content-type"], "text/x-any");
        assert_eq!(response.body(), "hello");
        assert_eq!(host.get("/").body(), "");
    }

    #[test]
    fn a_socket_goes_on_in_the_next_image_wherever_it_is() {
        let host = Host::new(load);
        let mut conn = open(&host);
        let all = [frame(0x01, b"one "), frame(0x00, b"two "), frame(0x80, b"three")].concat();
        for byte in &all {
            conn.send([*byte]);
            host.upgrade(load).expect("it is the same plugin");
        }
        assert_eq!(conn.read(), b"\x81\x0done two three");
        conn.send(frame(0x89, b"ping"));
        assert_eq!(conn.read(), b"\x8a\x04ping");
    }

    #[test]
    fn a_socket_that_is_closing_still_is_in_the_next_image() {
        let host = Host::new(load);
        let mut conn = open(&host);
        host.drain(CLOSE_WAIT);
        assert_eq!(conn.read()[..4], [0x88, 22, 0x03, 0xe9]);
        host.upgrade(load).expect("it is the same plugin");
        conn.send(frame(0x81, b"late"));
        assert_eq!(conn.read(), b"");
        conn.send(frame(0x88, &1001_u16.to_be_bytes()));
        assert!(conn.is_closed());
    }
}
