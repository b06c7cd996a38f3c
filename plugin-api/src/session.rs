//! The shape of a service that parks: between two turns of a session there is its state, and no task.

// Implements the hooks of a session.
#![allow(unsafe_code)]

use std::{cell::RefCell, collections::BTreeMap, ffi::c_void, fmt, marker::PhantomData, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, Slice, Table},
    net::{
        PARK_AS_NEW, PARK_RESUME, ParkSpec, Session, SessionHooks, WAKE_DEADLINE, WAKE_DRAIN,
        WAKE_HANGUP, WAKE_POSTED, WAKE_READABLE, WAKE_RESUMED,
    },
    task::Task,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catch::guard,
    connection::Connection,
    error::{Error, Result, io_error},
    handle::Owned,
    host::{bytes_of, fail, fail_with, host, write_sink},
    register::Registration,
    service::{from_cbor, to_cbor},
    state::{Migrate, OldState},
    task::into_task,
    time::Instant,
};

/// The plugin's sessions, as [`Registrar::session`](crate::Registrar::session) gives them: connections that came in by other ways can
/// become sessions too. A clone is the same.
pub struct Sessions<S>(Rc<Parked<S>>);

/// The states of parked sessions, by their connections' handles.
type Parked<S> = RefCell<BTreeMap<Handle, S>>;

impl<S: 'static> Sessions<S> {
    pub(crate) fn new() -> Sessions<S> {
        Sessions(Rc::default())
    }

    /// Makes a session of a connection that the plugin has accepted or made itself, or that was switched from HTTP
    /// ([`Response::switching`](crate::ResponseExt::switching)): it rests with `state` until there is something to read, or until the
    /// deadline, and has its turns as others do.
    ///
    /// # Errors
    /// When the host has closed the connection, or the plugin serves no sessions any more.
    pub fn adopt(&self, conn: Connection, state: S, deadline: Option<Instant>) -> Result<()> {
        park(&self.0, conn, state, deadline, None, 0)
    }
}

impl<S> Clone for Sessions<S> {
    fn clone(&self) -> Sessions<S> {
        Sessions(self.0.clone())
    }
}

impl<S> fmt::Debug for Sessions<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({} at rest)", self.0.borrow().len())
    }
}

/// Why a session has a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// There is something to read, or the connection is new.
    Readable,
    /// The deadline that it was parked with has passed.
    Deadline,
    /// The peer has hung up.
    Hangup,
    /// The plugin is about to go: come to an end soon.
    Drain,
    /// The connection was handed over to this generation of the plugin, or lived through a crash. All that rested when the plugin was
    /// upgraded have this turn before any of them, or a new one, has another; those of [`crate::server::renewable_sessions`] do not wait for
    /// one another when the host itself was.
    Resumed,
    /// Somebody posted these bytes; see [`Peer::post`](crate::Peer::post).
    Posted(Vec<u8>),
}

/// What a session does after its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow<S> {
    /// Rests with this state until there is something to read, or until the deadline.
    Park(S, Option<Instant>),
    /// Ends; the connection is closed in good order.
    Close,
}

/// What a turn may answer: a [`Flow`], or a `Result` with one.
pub trait IntoFlow<S> {
    #[doc(hidden)]
    fn into_flow(self) -> Result<Flow<S>>;
}

impl<S> IntoFlow<S> for Flow<S> {
    fn into_flow(self) -> Result<Flow<S>> {
        Ok(self)
    }
}

impl<S> IntoFlow<S> for Result<Flow<S>> {
    fn into_flow(self) -> Result<Flow<S>> {
        self
    }
}

/// What a turn that owns its connection leaves of it; see [`crate::server::sessions`].
#[derive(Debug)]
pub enum Rest<S> {
    /// The connection rests with this state until there is something to read, or until the deadline.
    Park(Connection, S, Option<Instant>),
    /// The state holds what was read and not served: the session has a turn with [`Wake::Resumed`] soon, in the newest generation.
    Resume(Connection, S),
    /// It has come to its end.
    Close,
}

/// Has a connection rest with `state`.
fn park<S>(
    parked: &Parked<S>,
    conn: Connection,
    state: S,
    deadline: Option<Instant>,
    record: Option<&[u8]>,
    flags: u32,
) -> Result<()> {
    let handle = conn.handle();
    parked.borrow_mut().insert(handle, state);
    // A deadline of 0 is none; one at the clock's very beginning has passed all the same.
    let spec = ParkSpec {
        deadline_ns: deadline.map_or(0, |deadline| deadline.as_ns().max(1)),
        record: record.map_or(Slice::NONE, Slice::new),
        record_version: 0,
        flags,
        spare: [0; 4],
    };
    let host = host();
    // SAFETY: The spec and its record are borrowed for the call.
    let code = unsafe { (host.net.conn_park)(host.instance, handle, &spec) };
    if code < 0 {
        let state = parked.borrow_mut().remove(&handle);
        drop(state);
        return Err(Error::from(io_error(code)).context("cannot park the connection"));
    }
    conn.into_raw();
    Ok(())
}

/// What outlives a crash of a session that rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Nothing.
    Nothing,
    /// Its connection, for there is no state that matters.
    NoState,
    /// The record of its state.
    Record,
}

/// How a session has its turns.
pub(crate) trait Turns<S>: 'static {
    async fn take(&self, conn: Connection, state: S, wake: Wake) -> Result<Rest<S>>;
}

/// Turns that are lent their connection.
struct Lent<F, R>(F, PhantomData<fn() -> R>);

impl<S, F, R> Turns<S> for Lent<F, R>
where
    F: AsyncFn(&mut Connection, S, Wake) -> R + 'static,
    R: IntoFlow<S> + 'static,
{
    async fn take(&self, mut conn: Connection, state: S, wake: Wake) -> Result<Rest<S>> {
        Ok(match (self.0)(&mut conn, state, wake).await.into_flow()? {
            Flow::Park(state, deadline) => Rest::Park(conn, state, deadline),
            Flow::Close => Rest::Close,
        })
    }
}

/// Turns that own it.
struct Owning<F>(F);

impl<S, F> Turns<S> for Owning<F>
where
    F: AsyncFn(Connection, S, Wake) -> Result<Rest<S>> + 'static,
{
    async fn take(&self, conn: Connection, state: S, wake: Wake) -> Result<Rest<S>> {
        (self.0)(conn, state, wake).await
    }
}

/// Registers sessions. `durable`: each park writes the state's record into the host's keeping.
pub(crate) fn add_session<S, F, R>(
    turn: F,
    durable: bool,
    sessions: Sessions<S>,
) -> Result<Registration>
where
    S: Serialize + DeserializeOwned + Default + 'static,
    F: AsyncFn(&mut Connection, S, Wake) -> R + 'static,
    R: IntoFlow<S> + 'static,
{
    let keeps = if durable { Keeps::Record } else { Keeps::Nothing };
    add(Lent(turn, PhantomData), keeps, sessions, None)
}

/// As [`add_session`], with a version of records, and what reads those of others.
pub(crate) fn add_migrating_session<S, F, R>(
    turn: F,
    migrate: (u32, Migrate<S>),
    sessions: Sessions<S>,
) -> Result<Registration>
where
    S: Serialize + DeserializeOwned + Default + 'static,
    F: AsyncFn(&mut Connection, S, Wake) -> R + 'static,
    R: IntoFlow<S> + 'static,
{
    add(Lent(turn, PhantomData), Keeps::Nothing, sessions, Some(migrate))
}

/// Registers sessions whose turns own their connections.
pub(crate) fn add_owning_session<S, F>(turn: F, keeps: Keeps) -> Result<Registration>
where
    S: Serialize + DeserializeOwned + Default + 'static,
    F: AsyncFn(Connection, S, Wake) -> Result<Rest<S>> + 'static,
{
    add(Owning(turn), keeps, Sessions::new(), None)
}

fn add<S, T>(
    turns: T,
    keeps: Keeps,
    sessions: Sessions<S>,
    migrate: Option<(u32, Migrate<S>)>,
) -> Result<Registration>
where
    S: Serialize + DeserializeOwned + Default + 'static,
    T: Turns<S>,
{
    let sessions = Turning::<S, T> { turns, keeps, migrate, parked: sessions.0 };
    let data = Rc::into_raw(Rc::new(sessions));
    let hooks = Table::new(&Turning::<S, T>::HOOKS);
    let session = Session { data: data.cast_mut().cast(), hooks };
    let host = host();
    // SAFETY: The session's data is what its hooks expect.
    let code = unsafe { (host.net.session_add)(host.instance, session) };
    if code < 0 {
        // SAFETY: The host did not take the session, so this is the only pointer.
        unsafe { drop(Rc::from_raw(data)) };
    }
    let handle = Error::check(code, "cannot serve sessions")?;
    Ok(Registration::new(Owned::new(handle as Handle)))
}

/// The sessions of a plugin as the host calls them.
struct Turning<S, T> {
    turns: T,
    keeps: Keeps,
    /// The version that records are written in, and what reads others.
    migrate: Option<(u32, Migrate<S>)>,
    parked: Rc<Parked<S>>,
}

impl<S, T> Turning<S, T>
where
    S: Serialize + DeserializeOwned + Default + 'static,
    T: Turns<S>,
{
    const HOOKS: SessionHooks = SessionHooks {
        size: size_of::<SessionHooks>(),
        turn: Self::turn,
        export: Self::export,
        import: Self::import,
        forget: Self::forget,
        drop: Self::drop,
    };

    /// One turn, and what the host is to do after it.
    async fn take_turn(self: Rc<Self>, conn: Connection, wake: Wake) -> Result<()> {
        let state = self.parked.borrow_mut().remove(&conn.handle()).unwrap_or_default();
        match self.turns.take(conn, state, wake).await? {
            Rest::Close => Ok(()),
            Rest::Park(conn, state, deadline) => self.park(conn, state, deadline, 0),
            Rest::Resume(conn, state) => self.park(conn, state, None, PARK_RESUME),
        }
    }

    fn park(
        &self,
        conn: Connection,
        state: S,
        deadline: Option<Instant>,
        flags: u32,
    ) -> Result<()> {
        let record = if self.keeps == Keeps::Record { Some(to_cbor(&state)?) } else { None };
        // One that takes something along to be served is not.
        let is_as_new = self.keeps == Keeps::NoState && flags & PARK_RESUME == 0;
        let flags = if is_as_new { flags | PARK_AS_NEW } else { flags };
        park(&self.parked, conn, state, deadline, record.as_deref(), flags)
    }

    unsafe extern "C" fn turn(
        data: *mut c_void,
        connection: Handle,
        wake: u32,
        posted: Slice,
        out: *mut Task,
    ) -> Code {
        guard(|| {
            let conn = Connection::from_handle(connection);
            // SAFETY: `data` comes from `add_session` and was not dropped; this is one more owner of it.
            let sessions = unsafe {
                Rc::increment_strong_count(data.cast::<Self>());
                Rc::from_raw(data.cast::<Self>())
            };
            let wake = match wake {
                WAKE_DEADLINE => Wake::Deadline,
                WAKE_HANGUP => Wake::Hangup,
                WAKE_DRAIN => Wake::Drain,
                WAKE_RESUMED => Wake::Resumed,
                // SAFETY: The slice is this hook's argument.
                WAKE_POSTED => Wake::Posted(unsafe { bytes_of(posted) }.to_vec()),
                WAKE_READABLE => Wake::Readable,
                // One that a newer host adds: a turn that finds nothing new does no harm.
                _ => Wake::Readable,
            };
            let task = into_task(async move {
                match sessions.take_turn(conn, wake).await {
                    Ok(()) => code::READY,
                    Err(error) => fail_with(&error),
                }
            });
            // SAFETY: `out` is this hook's argument, to be written to.
            unsafe { out.write(task) };
            code::READY
        })
    }

    unsafe extern "C" fn export(data: *mut c_void, connection: Handle, sink: ByteSink) -> Code {
        guard(|| {
            // SAFETY: As in `turn`.
            let sessions = unsafe { &*data.cast::<Self>() };
            let parked = sessions.parked.borrow();
            let Some(state) = parked.get(&connection) else { return code::STALE };
            match to_cbor(state) {
                // SAFETY: The sink is this hook's argument.
                Ok(record) => unsafe { write_sink(sink, &record) },
                Err(error) => fail(&error.to_string()),
            }
        })
    }

    unsafe extern "C" fn import(
        data: *mut c_void,
        connection: Handle,
        version: u32,
        record: Slice,
    ) -> Code {
        guard(|| {
            // SAFETY: As in `turn`; the record is this hook's argument.
            let (sessions, record) = unsafe { (&*data.cast::<Self>(), bytes_of(record)) };
            let read = match &sessions.migrate {
                Some((own, migrate)) if *own != version => {
                    from_cbor(record).and_then(|record| migrate(version, OldState::new(record)))
                }
                // Fields that are unknown are ignored, so another version is often readable as it is.
                _ => from_cbor(record),
            };
            match read {
                Ok(state) => {
                    let old = sessions.parked.borrow_mut().insert(connection, state);
                    drop(old);
                    code::READY
                }
                Err(error) => fail(&error.context("cannot take the session over").to_string()),
            }
        })
    }

    unsafe extern "C" fn forget(data: *mut c_void, connection: Handle) -> Code {
        guard(|| {
            // SAFETY: As in `turn`.
            let sessions = unsafe { &*data.cast::<Self>() };
            let state = sessions.parked.borrow_mut().remove(&connection);
            drop(state);
            code::READY
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: The host's own share of the sessions, given back once.
            unsafe { drop(Rc::from_raw(data.cast::<Self>())) };
            code::READY
        })
    }
}
