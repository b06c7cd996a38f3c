//! The end of a connection: the last response must arrive, and a reset would destroy it on its way. So the writing half is
//! closed first, and what the client still sends is read for a while (RFC 9112 section 9.6).

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, SystemTime},
};

use http::{HeaderValue, StatusCode};
use medusa_plugin_api::{Result, sleep};

use crate::{page, refusal::Refusal, watch::Watch};

/// How long what a client still sends is read. No settings, this and the next: they are for what is under way when the
/// response goes out, which depends on networks and not on sites.
const LINGER_TIME_MAX: Duration = Duration::from_secs(2);

/// How much of it.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Answers with a page of our own, then closes.
pub(crate) async fn refuse(watch: &Rc<Watch>, refusal: Refusal) -> Result<()> {
    let server = &watch.server;
    server.metrics.bad_request();
    tracing::debug!(connection = watch.info.id, "{}", refusal.sentence());
    let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
    server.metrics.response(status);
    let page = page::html(status, refusal.sentence());
    let mut response = head(status, page.len(), server.name.as_ref());
    let body = if watch.framing.borrow().is_for_head() { &b""[..] } else { &page };
    response.extend_from_slice(body);
    watch.report_unread(status, body.len() as u64);
    if write_in_time(watch, &response).await.is_ok() {
        return close(watch).await;
    }
    watch.abort();
    Ok(())
}

/// Writes all of `bytes` while the client reads as fast as it has to.
pub(crate) async fn write_in_time(watch: &Watch, bytes: &[u8]) -> io::Result<()> {
    let mut writing = pin!(watch.write_all(bytes));
    let mut late = pin!(sleep(watch.server.timeouts.send));
    poll_fn(|context| match writing.as_mut().poll(context) {
        Poll::Pending => late.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into())),
        written => written,
    })
    .await
}

/// Closes with nothing to be lost.
pub(crate) async fn close_idle(watch: &Rc<Watch>) -> Result<()> {
    // The peer may have gone; that is what is wanted.
    let _ = watch.shutdown().await;
    Ok(())
}

/// Closes the writing half, and reads until the client has closed too, for a while.
pub(crate) async fn close(watch: &Rc<Watch>) -> Result<()> {
    if watch.shutdown().await.is_err() {
        return Ok(());
    }
    let mut left = LINGER_BYTES_MAX;
    let mut late = pin!(sleep(LINGER_TIME_MAX));
    poll_fn(|context| {
        if late.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut scratch = watch.server.scratch.borrow_mut();
        loop {
            match watch.poll_read(context, &mut scratch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(count)) if count > 0 && count < left => left -= count,
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
    })
    .await;
    Ok(())
}

/// The head of a response of HTTP/1.1 with a page, as hyper would write it.
fn head(status: StatusCode, page_length: usize, server: Option<&HeaderValue>) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or("Error");
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut head = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {page_length}\r\n\
         connection: close\r\ndate: {date}\r\n",
        status.as_str()
    )
    .into_bytes();
    if let Some(name) = server {
        head.extend_from_slice(b"server: ");
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
