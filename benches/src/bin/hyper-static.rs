//! The baseline: hyper linked in statically, answering every request with a greeting and its number.
//!
//! `hyper-static ADDRESS` serves there until it is killed.

use std::{cell::Cell, convert::Infallible, rc::Rc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime, task};

fn main() -> std::io::Result<()> {
    let options = runtime::LocalOptions::default();
    runtime::Builder::new_current_thread().enable_all().build_local(options)?.block_on(serve())
}

async fn serve() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    let served = Rc::new(Cell::new(0_u64));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let served = served.clone();
        let greet = service_fn(move |_: Request<Incoming>| {
            served.set(served.get() + 1);
            let text = format!("hello, number {}\n", served.get());
            async move {
                let mut response = Response::new(Full::new(Bytes::from(text)));
                let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, plain);
                Ok::<_, Infallible>(response)
            }
        });
        task::spawn_local(async move {
            // The client ends the connection; how is nothing to report.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), greet).await;
        });
    }
}
