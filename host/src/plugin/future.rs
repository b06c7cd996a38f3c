//! A future of a plugin's, as the host polls it: at most one poll at a time, nothing but a drop after its answer.

#![allow(unsafe_code)] // Calls a task's hooks.

use std::{
    borrow::Cow,
    cell::{Cell, OnceCell, RefCell},
    future::poll_fn,
    ptr::NonNull,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use medusa_abi::{
    code::{self, Code},
    task::{self, Task},
};
use tokio::task::AbortHandle;

use crate::plugin::{
    failure::Failure,
    frame,
    generation::{Generation, InFlight},
    waker::WakerCell,
};

/// A task that the plugin gave to the host.
pub struct PluginFuture {
    generation: Rc<Generation>,
    task: Task,
    cell: NonNull<WakerCell>,
    state: Cell<State>,
    /// Its place in the generation's list.
    key: usize,
    /// Whoever waits for the end.
    waiter: RefCell<Option<Waker>>,
    /// The loop's task that polls this, if it has one of its own.
    driver: OnceCell<AbortHandle>,
    in_flight: RefCell<Option<InFlight>>,
    /// Why it failed, if it did.
    failure: RefCell<Option<Failure>>,
    /// Whether somebody else tells of a failure, so that the log need not.
    is_told: Cell<bool>,
    name: Cow<'static, str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Polling,
    /// Cancelled from within its own poll: dropped right after it.
    Cancelled,
    Done(Code),
}

impl PluginFuture {
    /// Takes a task over from the plugin. A task without hooks has nothing to wait for.
    pub fn new(
        generation: &Rc<Generation>,
        task: Task,
        name: impl Into<Cow<'static, str>>,
    ) -> Rc<PluginFuture> {
        let mut futures = generation.futures.borrow_mut();
        let entry = futures.vacant_entry();
        let state =
            if task.hooks.as_ptr().is_null() { State::Done(code::READY) } else { State::Idle };
        let this = Rc::new(PluginFuture {
            generation: generation.clone(),
            task,
            cell: generation.cells.take(),
            state: Cell::new(state),
            key: entry.key(),
            waiter: RefCell::default(),
            driver: OnceCell::new(),
            in_flight: RefCell::default(),
            failure: RefCell::default(),
            is_told: Cell::new(false),
            name: name.into(),
        });
        entry.insert(this.clone());
        drop(futures);
        if let State::Done(_) = state {
            this.release();
        }
        this
    }

    /// Counts it as work that a drain waits for, until it ends.
    pub fn in_flight(self: Rc<Self>) -> Rc<PluginFuture> {
        *self.in_flight.borrow_mut() = Some(InFlight::new(&self.generation));
        self
    }

    /// Leaves it to whoever waits for it to tell of a failure.
    pub fn told(self: Rc<Self>) -> Rc<PluginFuture> {
        self.is_told.set(true);
        self
    }

    /// Why it failed, if it did so by itself.
    pub fn failure(&self) -> Option<Failure> {
        self.failure.borrow().clone()
    }

    /// Whose it is.
    pub fn generation(&self) -> &Rc<Generation> {
        &self.generation
    }

    /// What the plugin calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Has the loop poll it by itself.
    pub fn spawn(self: &Rc<Self>) {
        let this = self.clone();
        let driver =
            tokio::task::spawn_local(async move { poll_fn(|context| this.poll(context)).await });
        let _ = self.driver.set(driver.abort_handle());
    }

    /// Polls it once. `CANCELLED` if somebody cancelled it.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<Code> {
        match self.state.get() {
            State::Done(code) => return Poll::Ready(code),
            State::Polling | State::Cancelled => return Poll::Ready(code::INVALID),
            State::Idle => self.state.set(State::Polling),
        }
        // SAFETY: The generation's cells live as long as it does.
        let cell = unsafe { self.cell.as_ref() };
        let code = frame::enter_polling(&self.generation, cell, context.waker(), || {
            let context = task::Context {
                waker: self.cell.as_ptr().cast(),
                now_ns: frame::began_ns(self.generation.instance.registry.clock),
                spare: [0; 2],
            };
            // SAFETY: The hooks are a static of the library, which stays mapped while its futures are in the list.
            let hooks = unsafe { self.task.hooks.get() }
                .expect("a future without hooks is done from the start");
            // SAFETY: The data is the plugin's and was not dropped, since the state was `Idle`; the context is borrowed.
            unsafe { (hooks.poll)(self.task.data, &context) }
        });
        if self.state.get() == State::Cancelled {
            self.finish(code::CANCELLED);
            return Poll::Ready(code::CANCELLED);
        }
        if code == code::PENDING {
            self.state.set(State::Idle);
            return Poll::Pending;
        }
        if let Some(failure) = Failure::of(&self.generation, code) {
            if !self.is_told.get() {
                failure.log(
                    &self.generation,
                    if self.name.is_empty() { "a task" } else { &self.name },
                );
            }
            *self.failure.borrow_mut() = Some(failure);
        } else if !means_something(code) {
            tracing::warn!(
                instance = self.generation.name(),
                task = %self.name,
                "the plugin answered {code} to a poll, which means nothing"
            );
        }
        self.finish(code);
        Poll::Ready(code)
    }

    /// `PENDING`, or the code that it ended with.
    pub fn poll_end(&self, waker: &Waker) -> Code {
        match self.state.get() {
            State::Done(code) => code,
            _ => {
                *self.waiter.borrow_mut() = Some(waker.clone());
                code::PENDING
            }
        }
    }

    /// Drops the plugin's object, now or, if it is being polled, right after.
    pub fn cancel(&self) {
        match self.state.get() {
            State::Idle => self.finish(code::CANCELLED),
            State::Polling => self.state.set(State::Cancelled),
            State::Cancelled | State::Done(_) => {}
        }
    }

    fn finish(&self, code: Code) {
        self.state.set(State::Done(code));
        frame::enter(&self.generation, || {
            // SAFETY: As in `poll`.
            if let Some(hooks) = unsafe { self.task.hooks.get() } {
                // SAFETY: The state was not `Done` before, so this is the one drop.
                unsafe { (hooks.drop)(self.task.data) };
            }
        });
        self.release();
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
    }

    fn release(&self) {
        self.generation.cells.give_back(self.cell);
        drop(self.generation.futures.borrow_mut().try_remove(self.key));
        drop(self.in_flight.take());
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

/// Whether a task that has not failed may end with this code.
fn means_something(code: Code) -> bool {
    code <= code::PASS
}
