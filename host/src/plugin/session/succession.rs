//! Sessions that go over to another image of the host: all of them are held where they park, written down, and go on there.

use std::{collections::HashMap, rc::Rc};

use medusa_abi::data::Handle;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    net::{connection::Connection, succession::ConnectionRecord},
    plugin::serve::Service,
};

use super::{Session, Sessions, Wake, resting::RestingRecords};

/// What another image of the host needs to go on with a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its connection.
    pub connection: ConnectionRecord,
    /// What the plugin has written of it; nothing if it has had no turn.
    pub state: Option<ByteBuf>,
    /// What was posted to it.
    pub posts: Vec<ByteBuf>,
    /// There is no state, and it has had turns all the same.
    #[serde(default)]
    pub is_as_new: bool,
}

/// A session of another image, whose state, if there is any, the plugin has imported under this handle.
pub struct Inherited {
    /// In the generation that goes on with it.
    pub handle: Handle,
    /// Its connection.
    pub connection: Rc<Connection>,
    /// What was posted to it.
    pub posts: Vec<ByteBuf>,
    /// It has had no turn.
    pub is_new: bool,
}

/// How many sessions are written down before the loop turns.
const PREPARED_PER_TURN: usize = 64;

impl Sessions {
    /// Writes down those that rest as good as new, a few at a time, and lets others have their turns in between: of one that has none before
    /// [`Sessions::records`] that need not be done in the pause.
    pub async fn prepare(&self) {
        self.notes.take();
        let mut state = Vec::new();
        for some in self.list().chunks(PREPARED_PER_TURN) {
            for session in some {
                state.clear();
                // One that fails is asked again, and then heeded.
                if session.is_as_new_at_rest()
                    && !session.service.object.is_given_back()
                    && self.export(session, &mut state).is_ok_and(|has_state| has_state)
                {
                    let record = session.connection.record();
                    let _ = self.notes.borrow_mut().push(session.handle, &record, &state);
                }
            }
            // It is tried again.
            let _ = self.notes.borrow_mut().flush();
            tokio::task::yield_now().await;
        }
    }

    /// Begins no turn any more, and has none be followed by another, until [`Sessions::thaw`].
    pub fn freeze(&self) {
        self.is_frozen.set(true);
        self.held_back.borrow_mut().get_or_insert_default();
    }

    /// Goes on where it was frozen.
    pub fn thaw(&self) {
        self.is_frozen.set(false);
        self.notes.take();
        for session in self.list().into_iter().filter(|session| session.is_held.take()) {
            if let Some(next) = session.go_on(self) {
                session.turn_soon(next);
            }
        }
        self.let_turn();
    }

    /// How many are in a turn.
    pub fn busy(&self) -> usize {
        let (all, held_back) = (self.all.borrow(), self.held_back());
        let is_busy = |it: &&Rc<Session>| !it.is_still() && !held_back.contains_key(&it.handle);
        all.iter().flatten().filter(is_busy).count()
    }

    /// What another image of the host needs to go on with each session that is in no turn. Those that are in one are left out.
    ///
    /// # Errors
    /// Why one of them cannot be written down.
    pub fn records(&self) -> Result<(Vec<SessionRecord>, RestingRecords), String> {
        let mut held_back = self.held_back();
        let (mut records, mut resting) = (Vec::new(), RestingRecords::default());
        let mut state = Vec::new();
        let cannot = |error: std::io::Error| format!("sessions cannot be written down: {error}");
        for session in self.list() {
            // It rests still.
            if self.notes.borrow().confirm(session.handle, &mut resting) {
                continue;
            }
            let waiting = held_back.remove(&session.handle);
            if !session.is_still() && waiting.is_none() {
                continue;
            }
            state.clear();
            let has_state = self.export(&session, &mut state)?;
            if has_state && waiting.is_none() && session.is_as_new_at_rest() {
                let mut notes = self.notes.borrow_mut();
                let record = session.connection.record();
                notes.push(session.handle, &record, &state).map_err(cannot)?;
                notes.confirm(session.handle, &mut resting);
                continue;
            }
            let state = has_state.then(|| ByteBuf::from(std::mem::take(&mut state)));
            let mut posts = waiting.unwrap_or_default();
            let queued = session.posts.take();
            posts.extend(queued.iter().flat_map(|queue| queue.iter().cloned().map(ByteBuf::from)));
            session.posts.set(queued);
            records.push(SessionRecord {
                connection: session.connection.record(),
                state,
                posts,
                is_as_new: false,
            });
        }
        let mut notes = self.notes.borrow_mut();
        notes.flush().map_err(cannot)?;
        if resting.count() > 0 {
            notes.show(&mut resting);
        }
        Ok((records, resting))
    }

    /// Those that [`Sessions::records`] has written down are another process's now: nothing of them is kept here, and their connections
    /// are not touched.
    pub fn leave_recorded(&self) {
        let held_back = self.held_back();
        for session in self.list() {
            if session.is_still() || held_back.contains_key(&session.handle) {
                session.connection.leave();
                self.leave(&session);
            }
        }
    }

    /// Those that are to have a turn when the service is not frozen any more, and what was posted to them.
    fn held_back(&self) -> HashMap<Handle, Vec<ByteBuf>> {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for (handle, wake) in self.held_back.borrow().iter().flatten() {
            let posts = all.entry(*handle).or_default();
            if let Wake::Posted(bytes) = wake {
                posts.push(ByteBuf::from(bytes.clone()));
            }
        }
        all
    }

    /// Goes on with sessions of another image of the host: those whose state was imported are told first, then the new ones have their
    /// first turn.
    pub fn inherit(service: &Rc<Service>, all: Vec<Inherited>) {
        let Some(sessions) = service.sessions() else { return };
        let (mut resuming, mut new) = (Vec::new(), Vec::new());
        for Inherited { handle, connection, posts, is_new } in all {
            let session = Session::new(service, handle, connection);
            let posts = posts.into_iter().map(ByteBuf::into_vec).collect::<Vec<_>>();
            session.posts.set((!posts.is_empty()).then(|| Box::new(posts.into())));
            session.is_resumed.set(!is_new);
            sessions.insert(session.clone());
            if is_new { new.push(session) } else { resuming.push(handle) }
        }
        Sessions::resume(service, resuming);
        new.iter().for_each(|session| session.have_turn(sessions, Wake::Readable));
    }

    /// Goes on with one that was as good as new when it rested: its first turn is as that of one which was handed over.
    pub fn arrive(service: &Rc<Service>, handle: Handle, connection: Rc<Connection>) {
        let Some(sessions) = service.sessions() else { return };
        let session = Session::new(service, handle, connection);
        sessions.insert(session.clone());
        session.have_turn(sessions, Wake::Resumed);
    }
}

impl Session {
    /// Whether it rests, is as good as new, and nothing waits for it.
    fn is_as_new_at_rest(&self) -> bool {
        let posts = self.posts.take();
        let is_posted_to = posts.is_some();
        self.posts.set(posts);
        self.is_as_new.get() && self.is_resting() && !self.is_resumed.get() && !is_posted_to
    }

    /// Whether it is in no turn.
    fn is_still(&self) -> bool {
        self.is_resting() || self.is_held.get()
    }
}
