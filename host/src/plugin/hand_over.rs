//! Handing sessions over: those that rest go to the new generation in the switch, the others each at its next park.
//!
//! A connection that goes over stays where it is: in the parking lot, or out of it. What changes is who attends to it, and under which
//! handle; what was kept of it in the old generation is written there as a record, and read in the new one.

use std::rc::Rc;

use medusa_abi::data::Handle;

use crate::plugin::{
    generation::{Generation, Phase},
    serve::Service,
    session::{Record, Session, Sessions},
};

/// Sessions of the old generation whose records the new one has read. Nothing has changed for the old one yet; if this is dropped,
/// nothing does, and the new one forgets what it has read.
pub struct HandOver {
    /// `None` if no session goes over.
    between: Option<(Rc<Service>, Rc<Service>)>,
    moves: Vec<Move>,
}

/// A session that goes over.
struct Move {
    /// The old one's.
    session: Rc<Session>,
    /// The new one's.
    handle: Handle,
    /// What was read for it, if the new one is on probation.
    record: Option<Record>,
}

impl HandOver {
    /// Has the new generation read the records of all sessions that rest.
    ///
    /// # Errors
    /// One of them cannot be written, or read.
    pub fn prepare(old: &Generation, new: &Generation) -> Result<HandOver, String> {
        let (Some(from), Some(to)) = (sessions_of(old), sessions_of(new)) else {
            return Ok(HandOver::none());
        };
        let resting = sessions(&from).resting();
        HandOver::of(from, to, resting)
    }

    /// Has a version that was there before read the records of all sessions that rest, and of those that have panicked in their first
    /// turn: as the one on probation writes them, or else as they were when they came to it, if nothing has been said since. One of which
    /// neither can be read stays.
    pub fn prepare_back(from: &Generation, to: &Generation) -> HandOver {
        let (Some(of_from), Some(of_to)) = (sessions_of(from), sessions_of(to)) else {
            return HandOver::none();
        };
        let version = readable(from, to).is_ok().then(|| record_version(from));
        let leaving = sessions(&of_from).movable();
        let moves = leaving.into_iter().filter_map(|session| {
            session.begin_leaving();
            let written = version.and_then(|version| write(&of_from, &session, version));
            let kept = sessions(&of_from).kept_record(&session);
            let read = |record: &Record| read(&of_to, &session, record);
            let handle = written.as_ref().and_then(read).or_else(|| kept.as_ref().and_then(read));
            if handle.is_none() {
                session.stay();
            }
            Some(Move { handle: handle?, session, record: None })
        });
        let moves = moves.collect();
        HandOver { between: Some((of_from, of_to)), moves }
    }

    /// Of no session.
    pub fn none() -> HandOver {
        HandOver { between: None, moves: Vec::new() }
    }

    fn of(
        from: Rc<Service>,
        to: Rc<Service>,
        leaving: Vec<Rc<Session>>,
    ) -> Result<HandOver, String> {
        let version = record_version(from.object.generation());
        let new = to.object.generation();
        let moves = Vec::with_capacity(leaving.len());
        let mut this = HandOver { between: Some((from.clone(), to.clone())), moves };
        let mut record = Vec::new();
        for session in leaving {
            record.clear();
            let handle = new.handles.insert(session.connection().clone(), u64::MAX);
            let handle = handle.map_err(|code| format!("the new version takes nothing: {code}"))?;
            // Before anything is written or read: what is amiss with one must leave nothing of it either.
            this.moves.push(Move { session: session.clone(), handle, record: None });
            session.begin_leaving();
            if !sessions(&from).export(&session, &mut record)? {
                return Err("the plugin keeps nothing of a session that rests".to_owned());
            }
            sessions(&to).import(&to, handle, version, &record)?;
            if sessions(&to).keeps_records()
                && let Some(last) = this.moves.last_mut()
            {
                last.record = Some(Record { version, bytes: record.as_slice().into() });
            }
        }
        Ok(this)
    }

    /// The sessions are the new generation's from now on. Each of those that rested has a turn soon that tells it so, before any other
    /// session of that generation has one. Answers how many there are.
    pub fn commit(mut self) -> u64 {
        let Some((from, to)) = self.between.take() else { return 0 };
        let moves = std::mem::take(&mut self.moves);
        let count = moves.len() as u64;
        let mut resuming = Vec::with_capacity(moves.len());
        for Move { session, handle, record } in moves {
            let is_resting = session.is_resting();
            if let Some(record) = record {
                sessions(&to).keep_record(handle, session.connection(), record);
            }
            sessions(&from).leave(&session);
            sessions(&to).take_over(&to, handle, &session, is_resting);
            if is_resting {
                resuming.push(handle);
            }
        }
        Sessions::resume(&to, resuming);
        count
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        let Some((_, to)) = &self.between else { return };
        for Move { session, handle, .. } in &self.moves {
            sessions(to).disregard(to, *handle);
            session.stay();
        }
    }
}

/// A session as its plugin has written it, of a session that can be exported.
fn write(from: &Service, session: &Session, version: u32) -> Option<Record> {
    let mut bytes = Vec::new();
    let is_whole = !sessions(from).is_stranded(session);
    let written = is_whole && sessions(from).export(session, &mut bytes).is_ok();
    written.then(|| Record { version, bytes: bytes.into() })
}

/// The handle under which a session's record was read.
fn read(to: &Service, session: &Session, record: &Record) -> Option<Handle> {
    let handles = &to.object.generation().handles;
    let handle = handles.insert(session.connection().clone(), u64::MAX).ok()?;
    if let Err(reason) = sessions(to).import(to, handle, record.version, &record.bytes) {
        let connection = session.connection().id();
        tracing::warn!(
            instance = to.object.generation().name(),
            connection,
            "cannot go back: {reason}"
        );
        sessions(to).disregard(to, handle);
        return None;
    }
    Some(handle)
}

/// Sessions of a generation that do not go over to the one that has taken its place, now or later.
pub fn left(old: &Generation, new: &Generation) -> u64 {
    let Some(of_old) = sessions_of(old) else { return 0 };
    let all = sessions(&of_old);
    let left = if readable(old, new).is_ok() { all.movable().len() } else { all.count() };
    left as u64
}

/// A generation is on probation from its first session on: it keeps the records of those that come to it.
pub fn keep_records(new: &Generation) {
    if let Some(service) = sessions_of(new) {
        sessions(&service).keep_records();
    }
}

/// The probation of a generation is over: the records go, and so do sessions that waited for the way back.
pub fn drop_records(generation: &Generation) {
    if let Some(service) = sessions_of(generation) {
        sessions(&service).drop_records();
    }
}

/// Whether a session of the generation has panicked in its first turn there, and waits for the way back.
pub fn is_stranded(generation: &Generation) -> bool {
    sessions_of(generation).is_some_and(|service| sessions(&service).has_stranded())
}

/// Has a session that was about to rest go over to the generation that has taken its own's place. `false` if there is none, or if it
/// cannot be.
pub fn go_over(session: &Rc<Session>) -> bool {
    let old = session.service().object.generation();
    let Some(to) = successor(old) else { return false };
    match HandOver::of(session.service().clone(), to, vec![session.clone()]) {
        Ok(hand_over) => hand_over.commit() > 0,
        Err(reason) => {
            tracing::warn!(
                instance = old.name(),
                generation = old.number,
                connection = session.connection().id(),
                "a session stays, and drains: {reason}"
            );
            false
        }
    }
}

/// Whether the new generation can read what the old one writes of its state and its sessions; asked before anything is touched.
///
/// # Errors
/// Which versions do not go together.
pub fn readable(old: &Generation, new: &Generation) -> Result<(), String> {
    let Some(written) = old.manifest.state.as_ref().map(|state| state.writes) else {
        return Ok(());
    };
    let read = new.manifest.state.as_ref().map(|state| state.reads.clone()).unwrap_or_default();
    if read.contains(&written) {
        return Ok(());
    }
    Err(format!(
        "{} keeps state in version {written}, and {} reads {}; upgrade by way of a version that reads both",
        old.manifest.version,
        new.manifest.version,
        if read.is_empty() { "none".to_owned() } else { format!("{read:?}") }
    ))
}

/// Whether sessions of a generation are still to go over.
pub fn has_sessions(generation: &Generation) -> bool {
    sessions_of(generation).is_some_and(|service| !sessions(&service).is_empty())
}

/// Who has taken a generation's place, and can take its sessions.
fn successor(old: &Generation) -> Option<Rc<Service>> {
    if old.phase.get() != Phase::Draining {
        return None;
    }
    let current = old.instance.current()?;
    let is_fit = current.id != old.id
        && current.phase.get() == Phase::Running
        && readable(old, &current).is_ok();
    sessions_of(&current).filter(|_| is_fit)
}

fn sessions_of(generation: &Generation) -> Option<Rc<Service>> {
    generation.service.borrow().clone().filter(|service| service.sessions().is_some())
}

/// Those of a service that is known to have them.
fn sessions(service: &Service) -> &Sessions {
    service.sessions().expect("it was asked before whether it serves sessions")
}

/// The version of records that a generation writes: that of its state.
fn record_version(generation: &Generation) -> u32 {
    generation.manifest.state.as_ref().map_or(0, |state| state.writes)
}
