//! The two shapes of a service over connections: a task for each, or sessions that park between their turns.

#![allow(unsafe_code)] // Calls the hooks of services.

use std::rc::Rc;

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Table},
    net::{ParkSpec, ServiceHooks, SessionHooks},
    task::Task,
};

use crate::{
    net::connection::Connection,
    plugin::{
        frame, future::PluginFuture, generation::Generation, owned::Owned, session::Sessions,
    },
};

/// Who serves an instance's connections.
pub struct Service {
    /// The plugin's object.
    pub object: Owned,
    kind: Kind,
}

/// The shape of a service, as the plugin registers it.
#[derive(Clone, Copy)]
pub enum Shape {
    /// A task for each connection.
    Task(Table<ServiceHooks>),
    /// A turn for each wake.
    Session(Table<SessionHooks>),
}

enum Kind {
    Tasks(Table<ServiceHooks>),
    Sessions(Sessions),
}

impl Service {
    /// A service of the plugin's.
    pub fn new(object: Owned, shape: Shape) -> Rc<Service> {
        let kind = match shape {
            Shape::Task(hooks) => Kind::Tasks(hooks),
            Shape::Session(hooks) => Kind::Sessions(Sessions::new(hooks)),
        };
        Rc::new(Service { object, kind })
    }

    /// Its sessions, if that is its shape.
    pub fn sessions(&self) -> Option<&Sessions> {
        match &self.kind {
            Kind::Tasks(_) => None,
            Kind::Sessions(sessions) => Some(sessions),
        }
    }

    /// Serves one connection from now to its end.
    pub fn serve(self: &Rc<Self>, connection: Rc<Connection>) {
        let generation = self.object.generation().clone();
        let max = generation.limits.connections_per_instance_max;
        let handle = match generation.handles.insert(connection.clone(), max) {
            Ok(handle) => handle,
            Err(code) => {
                tracing::debug!(instance = generation.name(), code, "a connection was not taken");
                return;
            }
        };
        match &self.kind {
            Kind::Tasks(hooks) => self.serve_by_task(&generation, handle, *hooks),
            Kind::Sessions(sessions) => sessions.begin(self, handle, connection),
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

    /// `conn_park`; see [`Sessions::park`]. A connection that is no session's yet becomes one: one that the plugin has accepted or made
    /// itself, or was handed over.
    pub fn park(self: &Rc<Self>, handle: Handle, spec: &ParkSpec) -> Code {
        let Some(sessions) = self.sessions() else { return code::INVALID };
        if sessions.park(handle, spec) {
            return code::READY;
        }
        match self.object.generation().handles.get::<Connection>(handle) {
            Ok(connection) => {
                sessions.adopt(self, handle, connection, spec);
                code::READY
            }
            Err(code) => code,
        }
    }

    /// `conn_post`; see [`Sessions::post`].
    pub fn post(&self, connection: Handle, bytes: &[u8]) -> Code {
        self.sessions().map_or(code::STALE, |sessions| sessions.post(connection, bytes))
    }

    /// Has every session take a turn that is told of the draining.
    pub fn stir(&self) {
        if let Some(sessions) = self.sessions() {
            sessions.stir();
        }
    }

    /// Ends every session, and gives the plugin's object back. Called when no code of the plugin is on the stack.
    pub fn end(&self) {
        if let Some(sessions) = self.sessions() {
            sessions.end();
        }
        self.object.give_back();
    }
}
