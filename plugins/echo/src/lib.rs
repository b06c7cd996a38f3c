//! Echo (RFC 862): sends every byte back.
use medusa_plugin_api::prelude::*;

export_plugin!(load);

fn load(registrar: &mut Registrar) -> Result<()> {
    registrar.serve(echo);
    Ok(())
}

async fn echo(mut conn: Connection) -> Result<()> {
    let mut buf = [0; 8 * 1024];
    loop {
        match conn.read(&mut buf).await? {
            0 => return Ok(()),
            n => conn.write_all(&buf[..n]).await?,
        }
    }
}
