//! Tasks of the plugin on the loop.

// Calls the callbacks of tasks.
#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice},
    task::Task,
};

use crate::{
    error::io_error,
    handle::Owned,
    host::host,
    task::{drop_task, into_task},
    waker,
};

/// Runs `future` on the loop, beside what runs already. It need not be `Send`. It ends at the latest with the plugin.
///
/// Dropping the handle does not stop it; see [`JoinHandle::abort`].
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    spawn_named("", future)
}

/// As [`spawn`], with a name that the operator sees in the monitor.
pub fn spawn_named<F>(name: &str, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    let output = Rc::new(RefCell::new(None));
    let slot = output.clone();
    let task = into_task(async move {
        let value = future.await;
        *slot.borrow_mut() = Some(value);
        code::READY
    });
    let task = spawn_raw(name, task).inspect_err(|code| {
        tracing::error!("cannot spawn a task: {}", io_error(*code));
    });
    JoinHandle { task, output }
}

/// Runs a future whose code the host hears: it logs a failure as it does that of a connection.
pub(crate) fn spawn_task(
    name: &str,
    future: impl Future<Output = Code> + 'static,
) -> Result<(), Code> {
    spawn_raw(name, into_task(future)).map(drop)
}

fn spawn_raw(name: &str, task: Task) -> Result<Owned, Code> {
    let host = host();
    // SAFETY: The task is one of ours, the name is borrowed for the call.
    let code = unsafe { (host.work.task_spawn)(host.instance, task, Slice::new(name.as_bytes())) };
    if code <= 0 {
        drop_task(task);
        return Err(code);
    }
    Ok(Owned::new(code as Handle))
}

/// Waits for a task, or stops it.
#[derive(Debug)]
pub struct JoinHandle<T> {
    /// The code of a task that the host did not take.
    task: Result<Owned, Code>,
    output: Rc<RefCell<Option<T>>>,
}

impl<T> JoinHandle<T> {
    /// Drops the task's future: now or, if it is what runs, as soon as it yields.
    pub fn abort(&self) {
        if let Ok(task) = &self.task {
            let host = host();
            // SAFETY: Numbers only.
            unsafe { (host.work.task_abort)(host.instance, task.get()) };
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, JoinError>> {
        if let Some(output) = self.output.borrow_mut().take() {
            return Poll::Ready(Ok(output));
        }
        let task = match &self.task {
            Ok(task) => task.get(),
            Err(code) => return Poll::Ready(Err(JoinError(*code))),
        };
        let host = host();
        // SAFETY: The waker is borrowed for the call.
        let code = unsafe { (host.work.task_poll)(host.instance, task, waker::for_call(context)) };
        match code {
            code::PENDING => Poll::Pending,
            code => Poll::Ready(self.output.borrow_mut().take().ok_or(JoinError(code))),
        }
    }
}

/// Why there is no result: a panic, an abort, or a host that did not take the work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JoinError(pub(crate) Code);

impl JoinError {
    /// Whether it panicked.
    #[must_use]
    pub fn is_panic(self) -> bool {
        self.0 == code::PANICKED
    }

    /// Whether it was aborted.
    #[must_use]
    pub fn is_cancelled(self) -> bool {
        self.0 == code::CANCELLED
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            code::PANICKED => f.write_str("it panicked"),
            code::READY => f.write_str("its result was taken already"),
            code => write!(f, "{}", io_error(code)),
        }
    }
}

impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinError({self})")
    }
}

impl std::error::Error for JoinError {}

impl From<JoinError> for io::Error {
    fn from(error: JoinError) -> io::Error {
        io::Error::other(error)
    }
}
