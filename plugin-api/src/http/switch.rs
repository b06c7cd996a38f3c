//! Other protocols on HTTP's connections (RFC 9110 section 7.8): what a handler that answered 101 does with the connection.

// Asks for the connection of an exchange.
#![allow(unsafe_code)]

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use medusa_abi::{code, data::Handle};

use crate::{
    connection::Connection,
    error::{Result, io_error},
    handle::Owned,
    host::{fail_with, host},
    http::Response,
    local::{LoopCell, Resident, Slab},
    spawn::spawn_task,
    waker,
};

/// What is done with a connection once it is the handler's.
pub(crate) struct Serve(Box<dyn FnOnce(Connection) -> Serving>);

type Serving = Pin<Box<dyn Future<Output = Result<()>>>>;

/// What travels with a response: it can be sent, where what it stands for stays.
#[derive(Clone)]
struct Attached(Arc<Mutex<Option<Resident<Serve>>>>);

static SERVES: LoopCell<Slab<Serve>> = LoopCell::new(Slab::new());

/// Drops what responses that were never given would have done.
pub(crate) fn clear_switches() {
    if let Some(serves) = SERVES.get() {
        serves.clear();
    }
}

/// Has `response` carry what is to be done with the connection.
pub(crate) fn attach(
    response: &mut Response,
    serve: impl AsyncFnOnce(Connection) -> Result<()> + 'static,
) {
    let serve = Serve(Box::new(move |conn| Box::pin(serve(conn))));
    let resident = Resident::new(&SERVES, serve);
    response.extensions_mut().insert(Attached(Arc::new(Mutex::new(resident))));
}

/// Takes it out of a response.
pub(crate) fn detach(response: &mut Response) -> Option<Serve> {
    let attached = response.extensions_mut().remove::<Attached>()?;
    let resident = attached.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    resident.into_inner()
}

/// Serves the connection of an exchange that was answered 101, as soon as it comes. The exchange's handle is this one's from now on: for
/// as long as it has it, it counts as work that is in flight.
pub(crate) fn go_on(exchange: Handle, Serve(serve): Serve) {
    let exchange = Owned::new(exchange);
    let serving = async move {
        let Some(conn) = switched(&exchange).await else { return code::READY };
        match serve(conn).await {
            Ok(()) => code::READY,
            Err(error) => fail_with(&error),
        }
    };
    if let Err(code) = spawn_task("switched connection", serving) {
        tracing::error!("cannot serve a connection that was switched: {}", io_error(code));
    }
}

/// The connection; `None` if it never comes, for its client has gone before.
async fn switched(exchange: &Owned) -> Option<Connection> {
    poll_fn(|context| {
        let (host, waker) = (host(), waker::for_call(context));
        // SAFETY: Numbers, and a waker that is borrowed for the call.
        match unsafe { (host.http.exchange_upgrade)(host.instance, exchange.get(), waker) } {
            code::PENDING => Poll::Pending,
            code if code > 0 => Poll::Ready(Some(Connection::from_handle(code as Handle))),
            _ => Poll::Ready(None),
        }
    })
    .await
}
