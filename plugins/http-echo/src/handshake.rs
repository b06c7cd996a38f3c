//! The opening handshake of a WebSocket (RFC 6455 section 4.2).

use medusa_plugin_api::prelude::*;
use tungstenite::{
    error::{Error as WebSocketError, ProtocolError},
    handshake::server::create_response_with_body,
};

use crate::socket::Socket;

/// Whether the client asks for a WebSocket, in good form or not.
pub(crate) fn is_wanted(request: &Request) -> bool {
    let is_websocket = |protocol: &str| protocol.trim().eq_ignore_ascii_case("websocket");
    request.method_str() == "GET"
        && request.header("upgrade").is_some_and(|value| value.split(',').any(is_websocket))
}

/// Answers with 101, and has the connection rest as a WebSocket; or says what is wrong.
pub(crate) fn answer(request: &Request, sockets: Sessions<Socket>) -> Result<Response> {
    let answered = match create_response_with_body(request, || ()) {
        Ok(_) if !request.takes_switch() => {
            return Ok(refuse("This server switches no protocols."));
        }
        Ok(answered) => answered,
        // Section 4.2.2: the version that the server speaks.
        Err(WebSocketError::Protocol(ProtocolError::MissingSecWebSocketVersionHeader)) => {
            return refuse("Only version 13 of WebSockets is spoken here.")
                .with_status(StatusCode::UPGRADE_REQUIRED)
                .with_header("upgrade", "websocket")?
                .with_header("sec-websocket-version", "13");
        }
        Err(error) => return Ok(refuse(&error.to_string())),
    };
    let mut response = Response::switching("websocket", async move |conn: Connection| {
        // A client that is gone without a word would be kept for ever.
        conn.set_keepalive(true)?;
        sockets.adopt(conn, Socket::default(), None)
    })?;
    let fields = answered.headers().iter().filter(|(name, _)| name.as_str().starts_with("sec-"));
    response.headers_mut().extend(fields.map(|(name, value)| (name.clone(), value.clone())));
    Ok(response)
}

fn refuse(why: &str) -> Response {
    Response::text(format!("{why}\n")).with_status(StatusCode::BAD_REQUEST)
}
