//! Sessions that go over to another image of the host: all of them are held where they park, written down, and go on there.

use std::{collections::HashMap, rc::Rc};

use medusa_abi::data::Handle;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    net::{connection::Connection, succession::ConnectionRecord},
    plugin::serve::Service,
};

use super::{Session, Sessions, Wake};

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

impl Sessions {
    /// Begins no turn any more, and has none be followed by another, until [`Sessions::thaw`].
    pub fn freeze(&self) {
        self.is_frozen.set(true);
        self.held_back.borrow_mut().get_or_insert_default();
    }

    /// Goes on where it was frozen.
    pub fn thaw(&self) {
        self.is_frozen.set(false);
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
    pub fn records(&self) -> Result<Vec<SessionRecord>, String> {
        let mut held_back = self.held_back();
        let mut records = Vec::new();
        for session in self.list() {
            let waiting = held_back.remove(&session.handle);
            if !session.is_still() && waiting.is_none() {
                continue;
            }
            let mut state = Vec::new();
            let state = self.export(&session, &mut state)?.then(|| ByteBuf::from(state));
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
        Ok(records)
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
}

impl Session {
    /// Whether it is in no turn.
    fn is_still(&self) -> bool {
        self.is_resting() || self.is_held.get()
    }
}
