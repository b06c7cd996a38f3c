//! The two shapes of a service over connections: a task for each, or sessions that park between their turns.

#![allow(unsafe_code)] // Calls the hooks of services and sessions.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{HashMap, VecDeque},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    net::{
        ServiceHooks, SessionHooks, WAKE_DEADLINE, WAKE_DRAIN, WAKE_HANGUP, WAKE_POSTED,
        WAKE_READABLE,
    },
    task::Task,
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, coop},
};

use crate::{
    net::connection::Connection,
    plugin::{
        frame,
        future::PluginFuture,
        generation::{Generation, InFlight, Phase},
        owned::Owned,
    },
};

/// Posts that may wait for a parked connection.
const POSTS_WAITING_MAX: usize = 64;

/// Who serves an instance's connections.
pub struct Service {
    /// The plugin's object.
    pub object: Owned,
    /// Its shape.
    pub shape: Shape,
    parked: RefCell<HashMap<Handle, Rc<Parking>>>,
}

/// The shape of a service.
#[derive(Clone, Copy)]
pub enum Shape {
    /// A task for each connection.
    Task(Table<ServiceHooks>),
    /// A turn for each wake.
    Session(Table<SessionHooks>),
}

/// A session's connection, between turns and in them.
#[derive(Default)]
struct Parking {
    /// Set by `conn_park` during a turn.
    until_ns: Cell<Option<u64>>,
    posts: RefCell<VecDeque<Vec<u8>>>,
    /// It was told that its generation drains, once.
    is_told: Cell<bool>,
    stirred: Notify,
    /// The loop's task that has its turns.
    driver: OnceCell<AbortHandle>,
}

impl Service {
    /// A service of the plugin's.
    pub fn new(object: Owned, shape: Shape) -> Rc<Service> {
        Rc::new(Service { object, shape, parked: RefCell::default() })
    }

    /// Serves one connection from now to its end.
    pub fn serve(self: &Rc<Self>, connection: Rc<Connection>) {
        let generation = self.object.generation().clone();
        let max = generation.limits.connections_per_instance_max;
        let handle = match generation.handles.insert(connection, max) {
            Ok(handle) => handle,
            Err(code) => {
                tracing::debug!(instance = generation.name(), code, "a connection was not taken");
                return;
            }
        };
        match self.shape {
            Shape::Task(hooks) => self.serve_by_task(&generation, handle, hooks),
            Shape::Session(hooks) => {
                let parking = Rc::<Parking>::default();
                self.parked.borrow_mut().insert(handle, parking.clone());
                let (service, in_flight, at) =
                    (self.clone(), InFlight::new(&generation), parking.clone());
                let driver = tokio::task::spawn_local(async move {
                    service.serve_by_turns(&generation, handle, hooks, &at).await;
                    service.forget(handle, hooks);
                    drop(generation.handles.remove(handle));
                    drop(in_flight);
                });
                let _ = parking.driver.set(driver.abort_handle());
            }
        }
    }

    fn serve_by_task(
        &self,
        generation: &Rc<Generation>,
        handle: Handle,
        hooks: Table<ServiceHooks>,
    ) {
        let mut task = Task::NONE;
        let code = frame::enter(generation, || {
            // SAFETY: Hooks are statics of a library that is mapped while `object` lives; `task` outlives the call.
            unsafe { hooks.get() }.map_or(code::INVALID, |hooks| unsafe {
                (hooks.serve)(self.object.data(), handle, &mut task)
            })
        });
        if code < 0 {
            tracing::warn!(
                instance = generation.name(),
                code,
                "the plugin did not take a connection"
            );
            drop(generation.handles.remove(handle));
            return;
        }
        PluginFuture::new(generation, task, "connection".to_owned()).in_flight().spawn();
    }

    async fn serve_by_turns(
        &self,
        generation: &Rc<Generation>,
        handle: Handle,
        hooks: Table<SessionHooks>,
        parking: &Parking,
    ) {
        let (mut wake, mut posted) = (WAKE_READABLE, Vec::new());
        while self.turn(generation, handle, hooks, parking, wake, &posted).await {
            // Nothing can wake a session whose peer has gone, but its going.
            if wake == WAKE_HANGUP {
                return;
            }
            let Ok(connection) = generation.handles.get::<Connection>(handle) else { return };
            (wake, posted) = parking.wait(generation, &connection).await;
            coop::consume_budget().await;
        }
    }

    /// A session has ended, or is cut: the plugin drops what it keeps of it.
    fn forget(&self, handle: Handle, hooks: Table<SessionHooks>) {
        if self.parked.borrow_mut().remove(&handle).is_none() || self.object.is_given_back() {
            return;
        }
        frame::enter(self.object.generation(), || {
            // SAFETY: As in `serve_by_task`.
            unsafe { hooks.get() }
                .map(|hooks| unsafe { (hooks.forget)(self.object.data(), handle) })
        });
    }

    /// Ends every session, and gives the plugin's object back. Called when no code of the plugin is on the stack.
    pub fn end(&self) {
        if let Shape::Session(hooks) = self.shape {
            let handles: Vec<_> = self.parked.borrow().keys().copied().collect();
            for handle in handles {
                let driver =
                    self.parked.borrow().get(&handle).and_then(|it| it.driver.get().cloned());
                self.forget(handle, hooks);
                if let Some(driver) = driver {
                    driver.abort();
                }
            }
        }
        self.object.give_back();
    }

    /// One turn. Answers whether the connection was parked.
    async fn turn(
        &self,
        generation: &Rc<Generation>,
        handle: Handle,
        hooks: Table<SessionHooks>,
        parking: &Parking,
        wake: u32,
        posted: &[u8],
    ) -> bool {
        parking.until_ns.set(None);
        let mut task = Task::NONE;
        let code = frame::enter(generation, || {
            let posted = Slice::new(posted);
            // SAFETY: As in `serve_by_task`; the posted bytes are borrowed for the call.
            unsafe { hooks.get() }.map_or(code::INVALID, |hooks| unsafe {
                (hooks.turn)(self.object.data(), handle, wake, posted, &mut task)
            })
        });
        if code < 0 {
            return false;
        }
        let future = PluginFuture::new(generation, task, "session".to_owned());
        let code = poll_fn(|context| future.poll(context)).await;
        code == code::READY && parking.until_ns.get().is_some()
    }

    /// `conn_park`: the connection rests when its turn ends, until `deadline_ns` at the latest (0: for ever).
    pub fn park(&self, connection: Handle, deadline_ns: u64) -> Code {
        let parked = self.parked.borrow();
        let Some(parking) = parked.get(&connection) else { return code::INVALID };
        parking.until_ns.set(Some(deadline_ns));
        code::READY
    }

    /// `conn_post`: wakes a connection of this service with bytes.
    pub fn post(&self, connection: Handle, bytes: &[u8]) -> Code {
        let parked = self.parked.borrow();
        let Some(parking) = parked.get(&connection) else { return code::STALE };
        if parking.posts.borrow().len() >= POSTS_WAITING_MAX {
            return code::BUSY;
        }
        parking.posts.borrow_mut().push_back(bytes.to_vec());
        parking.stirred.notify_one();
        code::READY
    }

    /// Has every session take a turn with `WAKE_DRAIN`.
    pub fn stir(&self) {
        self.parked.borrow().values().for_each(|parking| parking.stirred.notify_one());
    }
}

impl Parking {
    async fn wait(&self, generation: &Generation, connection: &Connection) -> (u32, Vec<u8>) {
        let deadline_ns = self.until_ns.get().unwrap_or_default();
        let clock = &generation.instance.registry.clock;
        let mut deadline = pin!(async move {
            match deadline_ns {
                0 => std::future::pending().await,
                deadline_ns => tokio::time::sleep_until(clock.instant(deadline_ns)).await,
            }
        });
        loop {
            let mut stirred = pin!(self.stirred.notified());
            if let Some(posted) = self.posts.borrow_mut().pop_front() {
                return (WAKE_POSTED, posted);
            }
            if generation.phase.get() == Phase::Draining && !self.is_told.replace(true) {
                return (WAKE_DRAIN, Vec::new());
            }
            let wake = poll_fn(|context| {
                if connection.poll_hangup(context).is_ready() {
                    return Poll::Ready(WAKE_HANGUP);
                }
                if connection.poll_readable(context).is_ready() {
                    return Poll::Ready(WAKE_READABLE);
                }
                if deadline.as_mut().poll(context).is_ready() {
                    return Poll::Ready(WAKE_DEADLINE);
                }
                stirred.as_mut().poll(context).map(|()| WAKE_POSTED)
            });
            match wake.await {
                WAKE_POSTED => {}
                wake => return (wake, Vec::new()),
            }
        }
    }
}
