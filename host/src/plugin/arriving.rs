//! Sessions of another image of the host with which it goes on while it serves already, a few at a time: they were at rest, and as good as
//! new, so that none of them can keep the others from going on.

use std::rc::Rc;

use crate::{
    net::{Connection, connections::Place, succession::ConnectionRecord},
    plugin::{
        generation::Generation,
        session::{Read, RestingRecords, Sessions},
    },
    sys::{crash, exec},
};

/// After so many the loop turns.
const AT_A_TIME: usize = 32;

/// Sessions of one generation that have not arrived yet. What comes for one meanwhile waits in its socket.
pub struct Arriving {
    generation: Rc<Generation>,
    version: u32,
    records: RestingRecords,
    read: Option<Read>,
    /// The number of the next.
    next: usize,
    /// One for each: nobody who comes meanwhile gets them.
    places: Vec<Place>,
}

impl Arriving {
    /// Those of `generation`, whose states are written in a version.
    ///
    /// # Errors
    /// There is no room for them. Their descriptors are as they were.
    pub(super) fn new(
        generation: &Rc<Generation>,
        version: u32,
        records: RestingRecords,
    ) -> Result<Arriving, String> {
        let instance = &generation.instance;
        let places =
            (0..records.count()).map(|_| instance.registry.connections.place(&instance.quota));
        let places = places.collect::<Result<_, _>>().map_err(|full| full.to_string())?;
        // Nobody takes the generation for idle.
        generation.enter_flight();
        Ok(Arriving {
            generation: generation.clone(),
            version,
            records,
            read: None,
            next: 0,
            places,
        })
    }

    /// There is no way back any more: reads what is known of them. From now on a crash finds them, as long as they have not arrived.
    pub(super) fn begin(&mut self) {
        let read = match self.records.read() {
            Ok(read) => read,
            Err(error) => {
                let (instance, count) = (self.generation.name(), self.places.len());
                tracing::error!(instance, count, "connections that rested are closed: {error}");
                return self.places.clear();
            }
        };
        let connections = &self.generation.instance.registry.connections;
        for number in 0..self.records.count() {
            if let Some((connection, _)) = self.records.record(number, &read) {
                connection.keep_resting(self.generation.id, connections);
            }
        }
        self.read = Some(read);
    }

    /// Goes on with all of them, and lets others have their turns in between.
    pub async fn arrive(mut self) {
        while !self.places.is_empty() {
            self.some();
            tokio::task::yield_now().await;
        }
    }

    fn some(&mut self) {
        for _ in 0..AT_A_TIME {
            let Some(place) = self.places.pop() else { return };
            let number = self.next;
            let record = self.read.as_ref().and_then(|read| self.records.record(number, read));
            let Some((connection, state)) = record else { return self.places.clear() };
            self.next += 1;
            if let Err(reason) = self.one(&connection, state, place) {
                crash::rise(connection.descriptor);
                tracing::debug!(
                    instance = self.generation.name(),
                    connection = connection.id,
                    "it is over: {reason}"
                );
            }
        }
    }

    /// Goes on with one. Its socket is closed if that cannot be.
    fn one(&self, record: &ConnectionRecord, state: &[u8], place: Place) -> Result<(), String> {
        let generation = &self.generation;
        let socket = exec::take(record.descriptor).map_err(|error| error.to_string())?;
        let service = generation.service.borrow().clone();
        let service = service.filter(|it| !it.object.is_given_back());
        let Some((service, sessions)) = service.as_ref().and_then(|it| Some((it, it.sessions()?)))
        else {
            return Err("it serves no sessions".to_owned());
        };
        let connection = Connection::inherit(record, socket, generation.owner().clone(), place);
        let connection = Rc::new(connection.map_err(|(_, error)| error.to_string())?);
        let handle = generation.handles.insert(connection.clone(), u64::MAX);
        let handle = handle.map_err(|code| format!("it takes no connections: {code}"))?;
        if let Err(reason) = sessions.import(service, handle, self.version, state) {
            // It has no state that matters, says its plugin.
            tracing::warn!(
                instance = generation.name(),
                connection = record.id,
                "a session goes on as a new one: {reason}"
            );
        }
        Sessions::arrive(service, handle, connection);
        Ok(())
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        let left = (self.next..self.records.count()).filter_map(|it| self.records.descriptor(it));
        for descriptor in left {
            crash::rise(descriptor);
            drop(exec::take(descriptor));
        }
        self.generation.leave_flight();
    }
}
