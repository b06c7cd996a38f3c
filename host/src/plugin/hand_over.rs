//! Handing sessions over: those that rest go to the new generation in the switch, the others each at its next park.
//!
//! A connection that goes over stays where it is: in the parking lot, or out of it. What changes is who attends to it, and under which
//! handle; what was kept of it in the old generation is written there as a record, and read in the new one.

use std::rc::Rc;

use medusa_abi::data::Handle;

use crate::plugin::{
    generation::{Generation, Phase},
    serve::Service,
    session::{Session, Sessions},
};

/// Sessions of the old generation whose records the new one has read. Nothing has changed for the old one yet; if this is dropped,
/// nothing does, and the new one forgets what it has read.
pub struct HandOver {
    /// `None` if no session goes over.
    between: Option<(Rc<Service>, Rc<Service>)>,
    /// The old one's, and the new handle of each.
    moves: Vec<(Rc<Session>, Handle)>,
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
            this.moves.push((session.clone(), handle));
            session.begin_leaving();
            sessions(&from).export(&session, &mut record)?;
            sessions(&to).import(&to, handle, version, &record)?;
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
        for (session, handle) in moves {
            let is_resting = session.is_resting();
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
        for (session, handle) in &self.moves {
            sessions(to).disregard(to, *handle);
            session.stay();
        }
    }
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
