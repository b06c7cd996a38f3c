//! Instances that go on where another image of the host left off.
//!
//! All that can fail comes before anybody is served: the library is the same bytes, is prepared and started, reads its state and its
//! sessions. Then [`Restored::begin`] has it serve.

use std::{
    mem::ManuallyDrop,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
    rc::Rc,
};

use medusa_abi::data::Handle;

use crate::{
    config,
    net::Connection,
    plugin::{
        arriving::Arriving,
        generation::Generation,
        instance::{Bind, Counts, Instance},
        library::Original,
        lifecycle::{self, Refused, bounded},
        quarantine,
        registry::Registry,
        session::{Inherited, RestingRecords, SessionRecord, Sessions},
    },
    sys::{crash, exec},
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
    /// Those that are as good as new.
    pub resting: RestingRecords,
    /// It has to go on with what can be: a session that cannot is closed.
    pub is_rest: bool,
}

/// An instance that could begin where another image of the host left off.
pub struct Restored {
    generation: Rc<Generation>,
    listeners: Vec<Bind>,
    sessions: Vec<Inherited>,
    arriving: Option<Arriving>,
    /// Sockets whose peers have gone. They are closed once there is no way back any more.
    gone: Vec<OwnedFd>,
    quarantined: Option<String>,
}

impl Restored {
    /// It serves from now on. Answers those of its sessions that are yet to arrive.
    pub async fn begin(mut self) -> Option<Arriving> {
        drop(self.gone);
        if let Some(arriving) = &mut self.arriving {
            arriving.begin();
        }
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
        self.arriving
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
    if legacy.is_rest {
        // In this order, so that nothing fails with sockets that somebody has: whoever has called closes them.
        lifecycle::activate(&generation, None).map_err(cannot)?;
        let listeners = listeners(&generation.instance, &legacy.listeners, Back::Closed)?;
        let sessions = what_can_be(&generation, legacy.version, legacy.sessions);
        return Ok(Restored {
            generation,
            listeners,
            sessions,
            arriving: None,
            gone: Vec::new(),
            quarantined: None,
        });
    }
    // Whoever goes on after a failure finds them where they were.
    let mut gone = ManuallyDrop::new(Vec::new());
    let sessions = sessions(&generation, legacy.version, legacy.sessions, &mut gone);
    let sessions = sessions.map_err(cannot)?;
    lifecycle::activate(&generation, None).map_err(cannot)?;
    let arriving = Arriving::new(&generation, legacy.version, legacy.resting).map_err(cannot)?;
    let arriving = ManuallyDrop::new(arriving);
    // Last, so that nothing that fails closes them.
    let listeners = listeners(&generation.instance, &legacy.listeners, Back::Open)?;
    let arriving = Some(ManuallyDrop::into_inner(arriving));
    let (gone, quarantined) = (ManuallyDrop::into_inner(gone), legacy.quarantined);
    Ok(Restored { generation, listeners, sessions, arriving, gone, quarantined })
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
    let instance = enter(registry, spec, &legacy.counts);
    let library = legacy.library.try_clone().map_err(|error| Refused(error.to_string()))?;
    let original = Original::inherited(legacy.path.clone(), library);
    lifecycle::prepare_staged(&instance, &legacy.path, move || original.into_staged()).await
}

/// An instance that is in the registry, and has nothing yet but what was counted.
pub(super) fn enter(
    registry: &Rc<Registry>,
    spec: config::Instance,
    counts: &Counts,
) -> Rc<Instance> {
    let instance = Instance::new(registry, Rc::new(spec));
    instance.set_counts(counts);
    registry.insert(instance.clone());
    instance
}

/// Whether another image may go back to what was left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Back {
    /// It may: sockets stay open over another exec. `arrived` ends that.
    Open,
    /// It may not.
    Closed,
}

/// Takes the sockets of an instance. An address that had none, which an earlier configuration may have left so, is bound.
///
/// # Errors
/// Why one cannot be. All that were left are open then, whoever has them.
pub(super) fn listeners(
    instance: &Instance,
    left: &[(String, RawFd)],
    back: Back,
) -> Result<Vec<Bind>, Refused> {
    let mut listeners = Vec::new();
    match take_listeners(instance, left, back, &mut listeners) {
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
    back: Back,
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
        let kept = exec::set_inherited(*descriptor, back == Back::Open);
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
    let mut inherited = Vec::with_capacity(records.len());
    for record in records {
        inherited.extend(session(generation, version, record, gone).map_err(|failed| failed.1)?);
    }
    Ok(inherited)
}

/// As [`sessions`], without those that cannot be gone on with, which are closed.
fn what_can_be(
    generation: &Rc<Generation>,
    version: u32,
    records: Vec<SessionRecord>,
) -> Vec<Inherited> {
    let mut all = Vec::with_capacity(records.len());
    for record in records {
        let (id, descriptor) = (record.connection.id, record.connection.descriptor);
        let mut gone = Vec::new();
        match session(generation, version, record, &mut gone) {
            Ok(Some(one)) => all.push(one),
            Ok(None) => crash::rise(descriptor),
            Err((there, reason)) => {
                crash::rise(descriptor);
                match there {
                    Some(handle) => drop(generation.handles.remove(handle)),
                    None => drop(exec::take(descriptor)),
                }
                tracing::warn!(
                    instance = generation.name(),
                    connection = id,
                    "a session that was kept is closed: {reason}"
                );
            }
        }
    }
    all
}

/// Has a generation read the record of one session; none if its peer has gone. A failure says which handle has the socket; if none does,
/// it is as it was.
fn session(
    generation: &Rc<Generation>,
    version: u32,
    record: SessionRecord,
    gone: &mut Vec<OwnedFd>,
) -> Result<Option<Inherited>, (Option<Handle>, String)> {
    let SessionRecord { connection: record, state, posts, is_as_new } = record;
    let service = generation.service.borrow().clone();
    let Some((service, sessions)) = service.as_ref().and_then(|it| Some((it, it.sessions()?)))
    else {
        return Err((None, "it serves no sessions".to_owned()));
    };
    let instance = &generation.instance;
    let place = instance.registry.connections.place(&instance.quota);
    let place = place.map_err(|full| (None, full.to_string()))?;
    let socket = exec::take(record.descriptor).map_err(|error| (None, error.to_string()))?;
    let owner = generation.owner().clone();
    let connection = match Connection::inherit(&record, socket, owner, place) {
        Ok(connection) => Rc::new(connection),
        Err((socket, error)) => {
            tracing::debug!(connection = record.id, "it is over: {error}");
            gone.push(socket);
            return Ok(None);
        }
    };
    let handle = match generation.handles.insert(connection.clone(), u64::MAX) {
        Ok(handle) => handle,
        Err(code) => {
            // As it was, for whoever goes on with it, or closes it.
            std::mem::forget(connection);
            return Err((None, format!("it takes no connections: {code}")));
        }
    };
    if let Some(state) = &state {
        let imported = sessions.import(service, handle, version, state);
        imported.map_err(|reason| (Some(handle), reason))?;
    }
    Ok(Some(Inherited { handle, connection, posts, is_new: state.is_none() && !is_as_new }))
}
