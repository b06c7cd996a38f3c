//! Instances that go on where another image of the host left off.
//!
//! All that can fail comes before anybody is served: the library is the same bytes, is prepared and started, reads its state and its
//! sessions. Then [`Restored::begin`] has it serve.

use std::{
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
    rc::Rc,
};

use crate::{
    config,
    net::Connection,
    plugin::{
        generation::Generation,
        instance::{Bind, Counts, Instance},
        library::Original,
        lifecycle::{self, Refused, bounded},
        quarantine,
        registry::Registry,
        session::{Inherited, SessionRecord, Sessions},
    },
    sys::exec,
};

/// What another image of the host has left of an instance.
pub struct Legacy {
    /// Where its library was read from.
    pub path: PathBuf,
    /// The bytes that it runs from.
    pub library: OwnedFd,
    /// What it has counted.
    pub counts: Counts,
    /// Why it gets no new work, if it does not.
    pub quarantined: Option<String>,
    /// The version that its state and its sessions are written in; 0 if it has none.
    pub version: u32,
    /// Its kept state.
    pub state: Option<Vec<u8>>,
    /// Its addresses as they were configured, and their sockets.
    pub listeners: Vec<(String, RawFd)>,
    /// Its sessions.
    pub sessions: Vec<SessionRecord>,
}

/// An instance that could begin where another image of the host left off.
pub struct Restored {
    generation: Rc<Generation>,
    listeners: Vec<Bind>,
    sessions: Vec<Inherited>,
    /// Sockets whose peers have gone. They are closed once there is no way back any more.
    gone: Vec<OwnedFd>,
    quarantined: Option<String>,
}

impl Restored {
    /// It serves from now on.
    pub async fn begin(self) {
        drop(self.gone);
        self.generation.freeze(false);
        let instance = &self.generation.instance;
        let spec = instance.spec.borrow().clone();
        if let Some(reason) = self.quarantined {
            quarantine::quarantine(&self.generation, reason);
        }
        instance.quota.set_max(lifecycle::quota_of(&spec));
        let service = self.generation.service.borrow().clone();
        if let Some(service) = &service {
            Sessions::inherit(service, self.sessions);
        }
        instance.listen(&spec.listen, self.listeners).await;
    }
}

/// Loads an instance to go on where another image of the host left off. Nobody is served before [`Restored::begin`].
///
/// # Errors
/// Why it cannot.
pub async fn restore(
    registry: &Rc<Registry>,
    spec: config::Instance,
    legacy: Legacy,
) -> Result<Restored, Refused> {
    let name = spec.name.clone();
    let cannot = |reason: String| Refused(format!("cannot go on with `{name}`: {reason}"));
    let generation = prepare(registry, spec, &legacy).await?;
    lifecycle::begin(&generation, &legacy.path).await?;
    if !generation.manifest.exclusive.is_empty() {
        bounded(&generation, "acquire", generation.acquire()).await.map_err(cannot)?;
    }
    if let Some(state) = &legacy.state {
        generation.import_state(legacy.version, state).map_err(cannot)?;
    }
    let mut gone = Vec::new();
    let sessions = sessions(&generation, legacy.version, legacy.sessions, &mut gone);
    let sessions = sessions.map_err(|reason| {
        std::mem::forget(std::mem::take(&mut gone));
        cannot(reason)
    })?;
    lifecycle::activate(&generation, None).map_err(cannot)?;
    // Last, so that nothing that fails closes them: who goes on then finds them where they were.
    let listeners = listeners(&generation.instance, &legacy.listeners)?;
    Ok(Restored { generation, listeners, sessions, gone, quarantined: legacy.quarantined })
}

/// Has a plugin do of [`restore`] what touches nothing outside of it: it is prepared, and reads its state. Its sessions can only be read
/// by one that was started.
///
/// # Errors
/// Why it cannot.
pub async fn rehearse(
    registry: &Rc<Registry>,
    spec: config::Instance,
    legacy: Legacy,
) -> Result<(), Refused> {
    let name = spec.name.clone();
    let cannot = |reason: String| Refused(format!("cannot go on with `{name}`: {reason}"));
    let generation = prepare(registry, spec, &legacy).await?;
    if let Some(state) = &legacy.state {
        generation.import_state(legacy.version, state).map_err(cannot)?;
    }
    Ok(())
}

/// Makes a generation of the bytes that were left, which is prepared.
async fn prepare(
    registry: &Rc<Registry>,
    spec: config::Instance,
    legacy: &Legacy,
) -> Result<Rc<Generation>, Refused> {
    let instance = Instance::new(registry, Rc::new(spec));
    instance.set_counts(&legacy.counts);
    registry.insert(instance.clone());
    let library = legacy.library.try_clone().map_err(|error| Refused(error.to_string()))?;
    let original = Original::inherited(legacy.path.clone(), library);
    lifecycle::prepare_staged(&instance, &legacy.path, move || original.into_staged()).await
}

/// Takes the sockets of an instance. An address that had none, which an earlier configuration may have left so, is bound.
fn listeners(instance: &Instance, left: &[(String, RawFd)]) -> Result<Vec<Bind>, Refused> {
    let mut listeners = Vec::new();
    match take_listeners(instance, left, &mut listeners) {
        Ok(()) => Ok(listeners),
        Err(refused) => {
            // They are needed on the way back, with the files of those that have one.
            std::mem::forget(listeners);
            Err(refused)
        }
    }
}

fn take_listeners(
    instance: &Instance,
    left: &[(String, RawFd)],
    listeners: &mut Vec<Bind>,
) -> Result<(), Refused> {
    let spec = instance.spec.borrow().clone();
    let backlog = spec.limits.listen_backlog();
    let mut left: Vec<_> = left.iter().collect();
    for entry in &spec.listen {
        let configured = entry.address.to_string();
        let Some(at) = left.iter().position(|(address, _)| *address == configured) else {
            listeners.push(lifecycle::bind_one(&instance.registry, &spec, entry)?);
            continue;
        };
        let (_, descriptor) = left.remove(at);
        let adopted = exec::take(*descriptor)
            .and_then(|socket| instance.registry.sockets.inherit(socket, backlog));
        let listener = adopted.map_err(|error| {
            Refused(format!(
                "cannot go on with `{}`: it cannot listen on {configured}: {error}",
                spec.name
            ))
        })?;
        // As long as there is a way back, it has to stay open over it. `arrived` changes that.
        let kept = exec::set_inherited(*descriptor, true);
        kept.map_err(|error| Refused(format!("cannot go on with `{}`: {error}", spec.name)))?;
        listeners.push((entry.address.clone(), Rc::new(listener)));
    }
    Ok(())
}

/// Has a generation read the records of sessions. One whose peer has gone meanwhile is left out, and its socket is among `gone`.
fn sessions(
    generation: &Rc<Generation>,
    version: u32,
    records: Vec<SessionRecord>,
    gone: &mut Vec<OwnedFd>,
) -> Result<Vec<Inherited>, String> {
    let service = generation.service.borrow().clone();
    let Some((service, sessions)) = service.as_ref().and_then(|it| Some((it, it.sessions()?)))
    else {
        return no_sessions(records.len()).map(|()| Vec::new());
    };
    let instance = &generation.instance;
    let mut inherited = Vec::with_capacity(records.len());
    for SessionRecord { connection: record, state, posts } in records {
        let place = instance.registry.connections.place(&instance.quota);
        let place = place.map_err(|full| full.to_string())?;
        let socket = exec::take(record.descriptor).map_err(|error| error.to_string())?;
        let owner = generation.owner().clone();
        let connection = match Connection::inherit(&record, socket, owner, place) {
            Ok(connection) => Rc::new(connection),
            Err((socket, error)) => {
                tracing::debug!(connection = record.id, "it is over: {error}");
                gone.push(socket);
                continue;
            }
        };
        let handle = generation.handles.insert(connection.clone(), u64::MAX);
        let handle = handle.map_err(|code| format!("it takes no connections: {code}"))?;
        if let Some(state) = &state {
            sessions.import(service, handle, version, state)?;
        }
        inherited.push(Inherited { handle, connection, posts, is_new: state.is_none() });
    }
    Ok(inherited)
}

fn no_sessions(count: usize) -> Result<(), String> {
    match count {
        0 => Ok(()),
        _ => Err(format!("it serves no sessions, and there are {count} to go on with")),
    }
}
