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
        let much = vec![7; 200_000];
        conn.send(&much);
        assert_eq!(conn.read(), much);
        conn.shutdown();
        assert!(conn.is_closed());
    }

    #[test]
    fn connections_do_not_mix_and_a_hang_up_ends_only_one() {
        let host = Host::new(load);
        let (mut a, mut b) = (host.connect(), host.connect());
        a.send("a");
        b.send("b");
        assert_eq!((a.read(), b.read()), (b"a".to_vec(), b"b".to_vec()));
        a.close();
        b.send("c");
        assert_eq!(b.read(), b"c");
    }
}
