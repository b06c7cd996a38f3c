//! Echo (RFC 862) by sessions: sends every byte back, and while a connection says nothing, it rests in the host and costs
//! neither a task nor a buffer. It outlives a crash of the host then. `echo` is the simpler way to write the same.
use medusa_plugin_api::prelude::*;
use serde::{Deserialize, Serialize};

export_plugin!(load, kind = "service");

/// What is kept of a connection while it rests.
#[derive(Default, Serialize, Deserialize)]
struct Session {
    /// It has rested before, so that a turn is for bytes that have come.
    seen: bool,
}

fn load(registrar: &mut Registrar) -> Result<()> {
    registrar.durable_session(turn);
    Ok(())
}

/// One turn: reads once, and leaves what else there is to the next.
async fn turn(conn: &mut Connection, session: Session, wake: Wake) -> Result<Flow<Session>> {
    match wake {
        Wake::Readable if session.seen => {}
        // A new connection may well say nothing.
        Wake::Readable | Wake::Resumed => return Ok(Flow::Park(Session { seen: true }, None)),
        _ => return Ok(Flow::Close),
    }
    let mut buf = [0; 8 * 1024];
    match conn.read(&mut buf).await? {
        0 => Ok(Flow::Close),
        n => {
            conn.write_all(&buf[..n]).await?;
            Ok(Flow::Park(session, None))
        }
    }
}

#[cfg(test)]
mod tests {
    use medusa_plugin_api::testing::Host;

    use super::*;

    #[test]
    fn every_byte_comes_back_and_the_end_does_too() {
        let host = Host::new(load);
        let mut conn = host.connect();
        conn.send("hello");
        assert_eq!(conn.read(), b"hello");
        conn.send("again");
        assert_eq!(conn.read(), b"again");
        conn.shutdown();
        assert!(conn.is_closed());
    }
}
