//! Sessions that go over from one generation to another: their records, and the first turn where they go on.

use std::rc::Rc;

use medusa_abi::{
    code,
    data::{Handle, Slice},
};

use crate::plugin::{frame, serve::Service, sink};

use super::{Session, Sessions, Wake};

/// How many sessions are told of their hand-over before the loop turns.
const RESUMED_PER_TURN: usize = 64;

impl Sessions {
    /// Writes the record of a session that has parked. `false` if the plugin keeps nothing of it, for it has had no turn yet.
    ///
    /// # Errors
    /// Why the plugin does not.
    pub fn export(&self, session: &Session, record: &mut Vec<u8>) -> Result<bool, String> {
        let (generation, object) = (session.generation(), &session.service.object);
        let to = sink::into_vec(record);
        let code = frame::enter(generation, || {
            // SAFETY: As in `begin_turn`; the sink is valid for the call.
            unsafe { self.hooks.get() }.map_or(code::INVALID, |hooks| unsafe {
                (hooks.export)(object.data(), session.handle, to)
            })
        });
        if code == code::STALE {
            return Ok(false);
        }
        generation.outcome("the export of a session", code).map(|()| true)
    }

    /// Has the plugin read a record for the session that will be `handle`'s.
    ///
    /// # Errors
    /// Why it does not.
    pub fn import(
        &self,
        service: &Service,
        handle: Handle,
        version: u32,
        record: &[u8],
    ) -> Result<(), String> {
        let generation = service.object.generation();
        let code = frame::enter(generation, || {
            // SAFETY: As in `begin_turn`; the record is borrowed for the call.
            unsafe { self.hooks.get() }.map_or(code::INVALID, |hooks| unsafe {
                (hooks.import)(service.object.data(), handle, version, Slice::new(record))
            })
        });
        generation.outcome("the import of a session", code)
    }

    /// A session is not to be here: nothing of it is kept, least of all its connection.
    pub fn disregard(&self, service: &Service, handle: Handle) {
        self.forget(service, handle);
        drop(service.object.generation().handles.remove(handle));
    }

    /// A session has gone over to another generation: nothing of it is kept here, and its connection is not touched.
    pub fn leave(&self, session: &Session) {
        if self.remove(session.handle).is_none() {
            return;
        }
        self.disregard(&session.service, session.handle);
    }

    /// Goes on with a session of another generation, whose connection is `handle` here and whose record was imported. One that does not
    /// rest has a turn soon; one that rests waits for [`Sessions::resume`].
    pub fn take_over(
        &self,
        service: &Rc<Service>,
        handle: Handle,
        old: &Session,
        is_resting: bool,
    ) {
        let session = Session::new(service, handle, old.connection.clone());
        session.connection.set_owner(session.generation().owner().clone());
        session.posts.set(old.posts.take());
        session.is_resting.set(is_resting);
        session.is_resumed.set(is_resting);
        self.insert(session.clone());
        if !is_resting {
            session.turn_soon(Wake::Resumed);
        }
    }

    /// Tells sessions that they were handed over, a few at a time. Every other turn waits until all have been told, so that what one
    /// of them does reaches those that were there before.
    pub fn resume(service: &Rc<Service>, resting: Vec<Handle>) {
        let Some(sessions) = service.sessions().filter(|_| !resting.is_empty()) else { return };
        sessions.held_back.borrow_mut().get_or_insert_default();
        let service = service.clone();
        tokio::task::spawn_local(async move {
            let Some(sessions) = service.sessions() else { return };
            for some in resting.chunks(RESUMED_PER_TURN) {
                for handle in some {
                    // If one panics, the others are spared it.
                    sessions.settled().await;
                    if let Some(session) = sessions.find(*handle) {
                        session.rise();
                        session.is_resumed.set(false);
                        session.turn(sessions, Wake::Resumed);
                    }
                }
                tokio::task::yield_now().await;
            }
            sessions.settled().await;
            if !sessions.is_frozen.get() {
                sessions.let_turn();
            }
        });
    }

    /// Has those have their turns who were held back.
    pub(super) fn let_turn(&self) {
        for (handle, wake) in self.held_back.take().into_iter().flatten() {
            if let Some(session) = self.find(handle) {
                session.turn(self, wake);
            }
        }
    }
}
