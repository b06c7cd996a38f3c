//! Work that may block, as seen by those who have it done: some pool takes it, a ticket answers.
//!
//! The pool itself lies higher up, for it also cleans up after plugins.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

/// Whoever runs blocking work on threads of its own.
pub trait Blocking {
    /// Runs `job` once, on another thread, or drops it when the pool stops.
    ///
    /// # Errors
    /// As much waits as may wait.
    fn start(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), Busy>;
}

/// As many jobs wait for a thread as may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// The job panicked, or the pool stopped before its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

/// A job's result. Dropping it forgets the result and lets the job run.
#[derive(Debug)]
#[must_use = "the job's result is in here"]
pub struct Ticket<T>(oneshot::Receiver<T>);

/// Has `job` run by `pool`.
///
/// # Errors
/// As much waits as may wait.
pub fn run<T: Send + 'static>(
    pool: &dyn Blocking,
    job: impl FnOnce() -> T + Send + 'static,
) -> Result<Ticket<T>, Busy> {
    let (sender, receiver) = oneshot::channel();
    pool.start(Box::new(move || {
        // Nobody waits any more: the result is dropped here.
        let _ = sender.send(job());
    }))?;
    Ok(Ticket(receiver))
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, NoAnswer>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| NoAnswer)
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as many blocking jobs wait as may wait; try again later")
    }
}

impl std::error::Error for Busy {}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the blocking job panicked, or was dropped because the host stops")
    }
}

impl std::error::Error for NoAnswer {}

impl From<Busy> for std::io::Error {
    fn from(busy: Busy) -> Self {
        std::io::Error::new(std::io::ErrorKind::ResourceBusy, busy)
    }
}

impl From<NoAnswer> for std::io::Error {
    fn from(none: NoAnswer) -> Self {
        std::io::Error::other(none)
    }
}
