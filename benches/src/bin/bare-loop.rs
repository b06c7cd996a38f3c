//! The floor: tokio's loop, and on each connection one read and one write for each request. It knows no HTTP: what the first request of
//! a connection is answered, all are.
//!
//! `bare-loop ADDRESS` serves there until it is killed.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime, task,
};

const OK: &[u8] =
    b"HTTP/1.1 200 OK\r\netag: \"400-18ec076ed9ce2443-9c8016\"\r\ncontent-length: 0\r\n\r\n";

/// As long as the one that medusa gives.
const NOT_MODIFIED: &[u8] = b"HTTP/1.1 304 Not Modified\r\n\
    etag: \"400-18ec076ed9ce2443-9c8016\"\r\n\
    last-modified: Fri, 27 Nov 2026 22:28:44 GMT\r\n\
    server: medusa\r\n\
    date: Sat, 28 Nov 2026 09:52:27 GMT\r\n\r\n";

fn main() -> std::io::Result<()> {
    let options = runtime::LocalOptions::default();
    runtime::Builder::new_current_thread().enable_all().build_local(options)?.block_on(serve())
}

async fn serve() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        task::spawn_local(async move {
            // The client ends the connection; how is nothing to report.
            let _ = answer(stream).await;
        });
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let mut length = stream.read(&mut request).await?;
    let condition = b"If-None-Match:";
    let has_it = request[..length].windows(condition.len()).any(|word| word == condition);
    let answer = if has_it { NOT_MODIFIED } else { OK };
    while length > 0 {
        stream.write_all(answer).await?;
        length = stream.read(&mut request).await?;
    }
    Ok(())
}
