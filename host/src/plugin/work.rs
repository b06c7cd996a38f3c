//! A plugin's timers, its blocking jobs, and the threads that it asked for.

#![allow(unsafe_code)] // Calls the hooks of jobs and threads.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    thread,
};

use medusa_abi::{
    code::{self, Code},
    data::Table,
    task::{self, JobHooks, ThreadHooks},
};
use tokio::{sync::oneshot, time::Sleep};

use crate::{
    plugin::{
        generation::{Generation, InFlight},
        owned::Owned,
    },
    sys::crash,
};

/// A timer on the loop's clock.
pub struct Timer(RefCell<Pin<Box<Sleep>>>);

impl Timer {
    /// A timer that is due at `deadline`.
    pub fn at(deadline: tokio::time::Instant) -> Timer {
        Timer(RefCell::new(Box::pin(tokio::time::sleep_until(deadline))))
    }

    /// Moves the deadline.
    pub fn reset(&self, deadline: tokio::time::Instant) {
        self.0.borrow_mut().as_mut().reset(deadline);
    }

    /// `READY` once it is due.
    pub fn poll(&self, waker: &Waker) -> Code {
        match self.0.borrow_mut().as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(()) => code::READY,
            Poll::Pending => code::PENDING,
        }
    }
}

/// Something that runs elsewhere, and ends.
#[derive(Default)]
struct End {
    code: Cell<Option<Code>>,
    waiter: RefCell<Option<Waker>>,
}

impl End {
    fn set(&self, code: Code) {
        self.code.set(Some(code));
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    fn poll(&self, waker: &Waker) -> Code {
        self.code.get().unwrap_or_else(|| {
            *self.waiter.borrow_mut() = Some(waker.clone());
            code::PENDING
        })
    }
}

/// A blocking job on the host's pool. The plugin's object lives until the job has run and nobody holds the handle.
pub struct Job {
    end: End,
    object: Rc<Owned>,
    /// What the plugin calls it.
    pub name: String,
}

/// A pointer on its way to another thread.
struct Carried<T>(*mut std::ffi::c_void, Table<T>);
// SAFETY: The ABI says that `run` is called on another thread, with this pointer.
unsafe impl<T> Send for Carried<T> {}

impl Job {
    /// Puts a job on the pool, at once or when fewer jobs of the same generation are there.
    ///
    /// # Errors
    /// `INVALID` without hooks; the job is still the plugin's then. When the pool's queue is full, the job ends with `LIMIT`.
    pub fn start(
        generation: &Rc<Generation>,
        job: task::Job,
        name: String,
    ) -> Result<Rc<Job>, Code> {
        // SAFETY: Hooks are statics of the library, which is mapped.
        let hooks = unsafe { job.hooks.get() }.ok_or(code::INVALID)?;
        let carried = Carried::<JobHooks>(job.data, job.hooks);
        let whose = generation.id;
        let run = move || {
            let carried = carried;
            crash::working_for(whose, || {
                // SAFETY: The library stays mapped while the job is in flight, by `jobs_running`.
                unsafe { carried.1.get() }
                    .map_or(code::INVALID, |hooks| unsafe { (hooks.run)(carried.0) })
            })
        };
        let this = Rc::new(Job {
            end: End::default(),
            object: Rc::new(Owned::new(generation, job.data, hooks.drop)),
            name,
        });
        let (job, in_flight) = (this.clone(), InFlight::new(generation));
        generation.jobs_running.set(generation.jobs_running.get() + 1);
        let generation = generation.clone();
        tokio::task::spawn_local(async move {
            let code = on_pool(&generation, run).await;
            generation.jobs_running.set(generation.jobs_running.get() - 1);
            job.end.set(if code < 0 { code } else { code::READY });
            drop(job);
            drop(in_flight);
            generation.stirred();
        });
        Ok(this)
    }

    /// `READY` once it has run.
    pub fn poll(&self, waker: &Waker) -> Code {
        self.end.poll(waker)
    }

    /// Whose it is.
    pub fn generation(&self) -> &Rc<Generation> {
        self.object.generation()
    }
}

async fn on_pool(generation: &Generation, run: impl FnOnce() -> Code + Send + 'static) -> Code {
    let permits = generation.job_permits.clone();
    // Closed where the generation is cut: what has not begun then does not begin.
    let Ok(_permit) = permits.acquire().await else { return code::CANCELLED };
    match generation.instance.registry.pool.submit(run) {
        Ok(ticket) => ticket.await.unwrap_or(code::PANICKED),
        Err(full) => {
            tracing::debug!(%full, "a job was refused");
            generation.limited("jobs_queued_max")
        }
    }
}

/// A thread that the host made for a plugin.
pub struct PluginThread {
    end: End,
    object: Owned,
    hooks: Table<ThreadHooks>,
    /// What the plugin calls it.
    pub name: String,
}

impl PluginThread {
    /// Makes the thread.
    ///
    /// # Errors
    /// `INVALID` without hooks, or the system's error; the object is still the plugin's then.
    pub fn start(
        generation: &Rc<Generation>,
        thread: task::Thread,
        name: String,
    ) -> Result<Rc<PluginThread>, Code> {
        // SAFETY: Hooks are statics of the library, which is mapped.
        let hooks = unsafe { thread.hooks.get() }.ok_or(code::INVALID)?;
        let carried = Carried::<ThreadHooks>(thread.data, thread.hooks);
        let whose = generation.id;
        let (ended, end) = oneshot::channel();
        let run = move || {
            let carried = carried;
            let code = crash::working_for(whose, || {
                // SAFETY: The library stays mapped while the thread runs, by `Generation::threads`.
                unsafe { carried.1.get() }
                    .map_or(code::INVALID, |hooks| unsafe { (hooks.run)(carried.0) })
            });
            let _ = ended.send(code);
        };
        let handle =
            thread::Builder::new().name(name.chars().take(15).collect()).spawn(run).map_err(
                |error: io::Error| code::from_errno(error.raw_os_error().unwrap_or(libc::EAGAIN)),
            )?;
        let object = Owned::new(generation, thread.data, hooks.drop);
        let this = Rc::new(PluginThread { end: End::default(), object, hooks: thread.hooks, name });
        // Here it is found and stopped at an unload, whoever has dropped its handle.
        generation.threads.borrow_mut().push(this.clone());
        let (thread, generation) = (this.clone(), generation.clone());
        tokio::task::spawn_local(async move {
            let code = end.await.unwrap_or(code::PANICKED);
            // Its thread-locals are dropped after `run`; only a joined thread has no code of the plugin left to run.
            if let Ok(joined) =
                generation.instance.registry.host_pool.submit(move || handle.join().is_ok())
            {
                let _ = joined.await;
            }
            generation.threads.borrow_mut().retain(|other| !Rc::ptr_eq(other, &thread));
            thread.end.set(if code < 0 { code } else { code::READY });
            drop(thread);
            generation.stirred();
        });
        Ok(this)
    }

    /// Asks it to end.
    pub fn stop(&self) {
        crate::plugin::frame::enter(self.object.generation(), || {
            // SAFETY: As in `start`; the object lives as long as this.
            unsafe { self.hooks.get() }.map(|hooks| unsafe { (hooks.stop)(self.object.data()) })
        });
    }

    /// `READY` once it has ended.
    pub fn poll(&self, waker: &Waker) -> Code {
        self.end.poll(waker)
    }
}
