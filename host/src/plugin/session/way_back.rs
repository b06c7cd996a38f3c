//! What a generation on probation keeps of the sessions that came to it, so that they can go back to the one before.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use medusa_abi::data::Handle;

use crate::net::connection::Connection;

use super::{Session, Sessions, Wake};

/// What is kept of sessions that were handed over to a generation on probation, so that they could go back.
#[derive(Default)]
pub(super) struct Probation {
    records: HashMap<Handle, Kept>,
    /// Those that panicked before anything had been said: their connections are as the records say.
    stranded: HashSet<Handle>,
}

/// A session as its plugin has written it.
pub struct Record {
    /// The version that it is written in.
    pub version: u32,
    /// What was written.
    pub bytes: Box<[u8]>,
}

/// A record, true as long as nothing has gone over the connection since.
struct Kept {
    record: Record,
    bytes_in: u64,
    bytes_out: u64,
}

impl Kept {
    fn is_true_of(&self, connection: &Connection) -> bool {
        (connection.bytes_in(), connection.bytes_out()) == (self.bytes_in, self.bytes_out)
    }
}

impl Sessions {
    /// Those that could go back to another generation at once: they rest, or would have a turn if the others had been told of their
    /// hand-over, or have panicked and wait for it.
    pub fn movable(&self) -> Vec<Rc<Session>> {
        let mut waiting = Vec::new();
        for (handle, wake) in self.held_back.borrow_mut().iter_mut().flatten() {
            let Some(session) = self.find(*handle).filter(|it| self.kept_record(it).is_some())
            else {
                continue;
            };
            // The next turn is the other generation's; what was posted goes along.
            if let Wake::Posted(bytes) = std::mem::replace(wake, Wake::Resumed) {
                let mut posts = session.posts.take().unwrap_or_default();
                posts.push_front(bytes);
                session.posts.set(Some(posts));
            }
            waiting.push(session);
        }
        let stranded = |it: &&Rc<Session>| it.is_resting() || self.is_stranded(it);
        waiting.extend(self.all.borrow().iter().flatten().filter(stranded).cloned());
        waiting
    }

    /// Keeps the records of sessions that are handed over, until [`Sessions::drop_records`].
    pub fn keep_records(&self) {
        self.probation.borrow_mut().get_or_insert_default();
    }

    /// Whether it does.
    pub fn keeps_records(&self) -> bool {
        self.probation.borrow().is_some()
    }

    /// Keeps the record from which a session is made.
    pub fn keep_record(&self, handle: Handle, connection: &Connection, record: Record) {
        let (bytes_in, bytes_out) = (connection.bytes_in(), connection.bytes_out());
        if let Some(probation) = &mut *self.probation.borrow_mut() {
            probation.records.insert(handle, Kept { record, bytes_in, bytes_out });
        }
    }

    /// The record from which a session was made, if it can be made from it once more.
    pub fn kept_record(&self, session: &Session) -> Option<Record> {
        let probation = self.probation.borrow();
        let kept = probation.as_ref()?.records.get(&session.handle)?;
        let Record { version, bytes } = &kept.record;
        let is_true = kept.is_true_of(&session.connection);
        is_true.then(|| Record { version: *version, bytes: bytes.clone() })
    }

    /// Ends what waited for the way back, and goes on with the others.
    pub fn drop_records(&self) {
        let Some(probation) = self.probation.take() else { return };
        for session in probation.stranded.into_iter().filter_map(|handle| self.find(handle)) {
            session.end(self);
        }
        self.settled.notify_waiters();
    }

    /// Whether any waits for the way back.
    pub fn has_stranded(&self) -> bool {
        self.probation.borrow().as_ref().is_some_and(|it| !it.stranded.is_empty())
    }

    /// Whether a session waits for the way back.
    pub fn is_stranded(&self, session: &Session) -> bool {
        let probation = self.probation.borrow();
        probation.as_ref().is_some_and(|it| it.stranded.contains(&session.handle))
    }

    /// A session has panicked. Whether it waits for the way back: what it was made from is still true, and somebody looks after it.
    pub(super) fn strand(&self, session: &Session) -> bool {
        let is_kept = session.generation().is_serving() && self.kept_record(session).is_some();
        if let Some(probation) = self.probation.borrow_mut().as_mut().filter(|_| is_kept) {
            probation.stranded.insert(session.handle);
        }
        is_kept
    }

    /// Waits until no session waits for the way back.
    pub(super) async fn settled(&self) {
        while self.has_stranded() {
            self.settled.notified().await;
        }
    }
}
