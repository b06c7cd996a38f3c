//! Work off the loop: blocking jobs on the host's pool, and threads of the plugin's own.

// Implements the hooks of jobs and threads.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    future::poll_fn,
    marker::PhantomData,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    task::{Job, JobHooks, Thread, ThreadHooks},
};

use crate::{
    catch::guard,
    error::{Error, Result},
    handle::Owned,
    host::host,
    spawn::JoinError,
    waker,
};

/// Runs `work`, which may block or compute for long, on the host's pool, and waits for it.
///
/// If the wait is dropped, the work still runs to its end; the library stays loaded until then.
///
/// # Errors
/// When it panicked, and when the host's queue of jobs is full.
pub async fn blocking<F, T>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let output = Arc::new(Mutex::new(None));
    let slot = output.clone();
    let run = move || {
        let value = work();
        *lock(&slot) = Some(value);
    };
    let data = Box::into_raw(Box::new(Some(run)));
    let job = Job { data: data.cast(), hooks: job_hooks(data) };
    let host = host();
    // SAFETY: The job's data is what its hooks expect.
    let code = unsafe { (host.work.job_start)(host.instance, job, Slice::NONE) };
    if code <= 0 {
        // SAFETY: The host did not take the job, so this is the only pointer.
        unsafe { drop(Box::from_raw(data)) };
        return Err(JoinError(code));
    }
    let job = Owned::new(code as Handle);
    let code = poll_fn(|context| {
        // SAFETY: The waker is borrowed for the call.
        match unsafe { (host.work.job_poll)(host.instance, job.get(), waker::for_call(context)) } {
            code::PENDING => Poll::Pending,
            code => Poll::Ready(code),
        }
    })
    .await;
    lock(&output).take().ok_or(JoinError(code))
}

/// Starts a thread for something that needs a runtime or a loop of its own. `run` must return soon after `stop` is set:
/// the plugin cannot be unloaded before. Needs the capability `threads`.
///
/// The thread may log and [`post`](crate::post); everything else belongs to the loop.
///
/// # Errors
/// `PermissionDenied` without the capability; also when the host's limit of threads is reached.
pub fn thread<F>(name: &str, run: F) -> Result<ThreadHandle>
where
    F: FnOnce(StopSignal) + Send + 'static,
{
    let stop = StopSignal::default();
    let data =
        Box::into_raw(Box::new(ThreadBox { run: Mutex::new(Some(run)), stop: stop.clone() }));
    let thread = Thread { data: data.cast(), hooks: Table::new(&ThreadBox::<F>::HOOKS) };
    let host = host();
    // SAFETY: The thread's data is what its hooks expect, the name is borrowed for the call.
    let code =
        unsafe { (host.work.thread_start)(host.instance, thread, Slice::new(name.as_bytes())) };
    if code <= 0 {
        // SAFETY: The host did not take the thread, so this is the only pointer.
        unsafe { drop(Box::from_raw(data)) };
    }
    let handle = Error::check(code, &format!("cannot start the thread {name}"))?;
    Ok(ThreadHandle { handle: Owned::new(handle as Handle), stop })
}

/// A thread of the plugin's. Dropping it leaves the thread running until the plugin goes.
#[derive(Debug)]
pub struct ThreadHandle {
    handle: Owned,
    stop: StopSignal,
}

impl ThreadHandle {
    /// Asks the thread to stop.
    pub fn stop(&self) {
        self.stop.set();
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it panicked.
    pub async fn join(self) -> Result<(), JoinError> {
        let code = poll_fn(|context| {
            let host = host();
            let waker = waker::for_call(context);
            // SAFETY: The waker is borrowed for the call.
            match unsafe { (host.work.thread_poll)(host.instance, self.handle.get(), waker) } {
                code::PENDING => Poll::Pending,
                code => Poll::Ready(code),
            }
        })
        .await;
        if code < 0 { Err(JoinError(code)) } else { Ok(()) }
    }
}

/// Tells a thread that it is to end.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<(Mutex<bool>, Condvar)>);

impl StopSignal {
    /// Whether it is to end now.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *lock(&self.0.0)
    }

    /// Waits for at most `duration`; whether the thread is to end.
    #[must_use]
    pub fn wait(&self, duration: Duration) -> bool {
        let (set, changed) = &*self.0;
        let waited = changed.wait_timeout_while(lock(set), duration, |set| !*set);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn set(&self) {
        *lock(&self.0.0) = true;
        self.0.1.notify_all();
    }
}

struct JobBox<F>(PhantomData<F>);

impl<F: FnOnce() + Send + 'static> JobBox<F> {
    const HOOKS: JobHooks =
        JobHooks { size: size_of::<JobHooks>(), run: Self::run, drop: Self::drop };

    unsafe extern "C" fn run(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: `data` comes from `blocking`; nobody else touches it until the host drops the job.
            let work = unsafe { &mut *data.cast::<Option<F>>() };
            match work.take() {
                Some(work) => {
                    work();
                    code::READY
                }
                None => code::INVALID,
            }
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: The host gives the job back once, after it ran.
            unsafe { drop(Box::from_raw(data.cast::<Option<F>>())) };
            code::READY
        })
    }
}

fn job_hooks<F: FnOnce() + Send + 'static>(_: *mut Option<F>) -> Table<JobHooks> {
    Table::new(&JobBox::<F>::HOOKS)
}

struct ThreadBox<F> {
    run: Mutex<Option<F>>,
    stop: StopSignal,
}

impl<F: FnOnce(StopSignal) + Send + 'static> ThreadBox<F> {
    const HOOKS: ThreadHooks = ThreadHooks {
        size: size_of::<ThreadHooks>(),
        run: Self::run,
        stop: Self::stop,
        drop: Self::drop,
    };

    unsafe extern "C" fn run(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: `data` comes from `thread`; `stop` may look at it at the same time, so it is only shared.
            let this = unsafe { &*data.cast::<ThreadBox<F>>() };
            let run = lock(&this.run).take();
            match run {
                Some(run) => {
                    run(this.stop.clone());
                    code::READY
                }
                None => code::INVALID,
            }
        })
    }

    unsafe extern "C" fn stop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: As above.
            unsafe { &*data.cast::<ThreadBox<F>>() }.stop.set();
            code::READY
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: The host gives the thread back once, after it was joined.
            unsafe { drop(Box::from_raw(data.cast::<ThreadBox<F>>())) };
            code::READY
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
