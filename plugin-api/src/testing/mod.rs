//! Runs a plugin with no host, in memory, on the test's own thread: for a plugin's unit tests.
//!
//! ```
//! use medusa_plugin_api::{prelude::*, testing::Host};
//!
//! fn load(registrar: &mut Registrar) -> Result<()> {
//!     registrar.http("/hello", async |_| Ok(Response::text("hello\n")));
//!     Ok(())
//! }
//!
//! let host = Host::new(load);
//! assert_eq!(host.get("/hello").body().as_ref(), b"hello\n");
//! ```
//!
//! The plugin goes through the very hooks that a host calls, and calls the same tables. What differs: time stands still until
//! nothing else is left to do, then it jumps to the next deadline; connections are memory; files are read by the standard
//! library; capabilities and limits are not checked. Hosts take turns: a test that starts one waits for the others, so keep
//! one per test.

// Implements the callbacks that a host has.
#![allow(unsafe_code)]

mod callbacks;
mod exchange;
mod files;
mod net;
mod pipe;
mod wake;
mod world;

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    net::SocketAddr,
    rc::Rc,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ciborium::Value;
use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, Slice, Table},
    http::{ENDED_COMPLETE, ENDED_FAILED, Frame, FrameSink},
    net::WAKE_RESUMED,
    root::Hooks,
    task::Task,
};
use serde::{Serialize, de::DeserializeOwned};

use self::{
    exchange::{OwnedHead, OwnedResponse, Source, Switch},
    pipe::End,
    wake::{Kept, SHARED},
    world::{Entry, ServiceEntry, World},
};
use crate::{
    Registrar,
    error::{Error, Result},
    heap::Heap,
    hooks::{Export, hooks},
    host::{bytes_of, vec_sink},
    service::{from_cbor, to_cbor},
};

type Load = fn(&mut Registrar) -> Result<()>;

/// A request as the test's own site sees it; see [`Host::answer`].
type Site = Rc<dyn Fn(http::Request<Bytes>) -> OwnedResponse>;

/// A parked session on its way to the next version: its connection, and its state's record.
type SessionRecord = (Rc<world::Connection>, Vec<u8>);

/// A plugin that runs.
pub struct Host {
    world: Rc<World>,
    hooks: Hooks,
    config: Vec<u8>,
    next_port: Cell<u16>,
    /// Dropped last: another test's host may start then.
    _turn: MutexGuard<'static, ()>,
}

/// A plugin that is about to run.
pub struct Builder {
    load: Load,
    name: String,
    config: Value,
    turn: MutexGuard<'static, ()>,
}

/// The one host at a time: the SDK's own statics are those of one plugin.
static TURN: Mutex<()> = Mutex::new(());
static LOAD: Mutex<Option<Load>> = Mutex::new(None);

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

struct Tested;

impl Export for Tested {
    fn load(registrar: &mut Registrar) -> Result<()> {
        let load = *LOAD.lock().unwrap_or_else(PoisonError::into_inner);
        load.map_or_else(|| Err(Error::new("no plugin is under test")), |load| load(registrar))
    }

    fn heap() -> Option<&'static Heap> {
        None
    }
}

impl Builder {
    /// The configuration, as the file has it beneath `[plugin.config]`.
    ///
    /// # Panics
    /// When it is no TOML.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Builder {
        let table: toml::Table = toml.parse().expect("the configuration is TOML");
        self.config = Value::serialized(&table).expect("what TOML can say, CBOR can");
        self
    }

    /// The configuration, as any value that serde writes as a map.
    ///
    /// # Panics
    /// When it cannot be written as CBOR.
    #[must_use]
    pub fn config_value(mut self, value: &impl Serialize) -> Builder {
        self.config = Value::serialized(value).expect("the configuration can be written as CBOR");
        self
    }

    /// The instance's name; `test` otherwise.
    #[must_use]
    pub fn name(mut self, name: &str) -> Builder {
        name.clone_into(&mut self.name);
        self
    }

    /// Prepares the plugin and starts it.
    ///
    /// # Errors
    /// What the plugin failed with.
    pub fn start(self) -> Result<Host> {
        let hooks = hooks::<Tested>();
        let config = to_cbor(&self.config)?;
        let world = World::new(&self.name, hooks.posted);
        *SHARED.lock() = wake::State::default();
        let next_port = Cell::new(40_001);
        let host = Host { world, hooks, config, next_port, _turn: self.turn };
        host.begin(self.load)?;
        Ok(host)
    }
}

impl Host {
    /// Runs a plugin without configuration.
    ///
    /// # Panics
    /// When it does not start; and when this thread runs one already.
    #[must_use]
    pub fn new(load: Load) -> Host {
        Host::builder(load).start().expect("the plugin starts")
    }

    /// Makes ready to run a plugin.
    ///
    /// # Panics
    /// When this thread runs one already.
    #[must_use]
    pub fn builder(load: Load) -> Builder {
        assert!(!HERE.get(), "one plugin runs at a time: drop the other testing::Host before");
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        HERE.set(true);
        Builder { load, name: "test".to_owned(), config: Value::Map(Vec::new()), turn }
    }

    /// Connects to the plugin's service.
    ///
    /// # Panics
    /// When it serves no connections.
    #[must_use]
    pub fn connect(&self) -> TestConnection {
        let (test, plugin) = self.pair(([127, 0, 0, 1], 7).into());
        let code = net::serve(&self.world, plugin);
        assert!(code >= 0, "the plugin did not take the connection: code {code}");
        self.world.run_ready();
        TestConnection { end: test, world: self.world.clone() }
    }

    /// Connects to a listener that the plugin opened itself.
    ///
    /// # Panics
    /// When nobody listens there.
    #[must_use]
    pub fn connect_to(&self, address: SocketAddr) -> TestConnection {
        let listener = self.world.ports.borrow().get(&address).cloned();
        let listener = listener.unwrap_or_else(|| panic!("nobody listens on {address}"));
        let (test, plugin) = self.pair(address);
        listener.waiting.borrow_mut().insert(0, plugin);
        wake::wake_slot(&listener.waker);
        self.world.run_ready();
        TestConnection { end: test, world: self.world.clone() }
    }

    /// Listens where the plugin may connect to.
    #[must_use]
    pub fn listen(&self, address: SocketAddr) -> TestListener {
        let listener =
            Rc::new(world::Listener { address: Some(address), ..world::Listener::default() });
        self.world.ports.borrow_mut().insert(address, listener.clone());
        TestListener { listener, world: self.world.clone() }
    }

    /// Makes a name known to the plugin's `resolve`.
    pub fn add_name(&self, name: &str, addresses: &[SocketAddr]) {
        self.world.names.borrow_mut().insert(name.to_owned(), addresses.to_vec());
    }

    /// Has the plugin answer a request, by its filters and handlers. Nobody's request is answered 404, a failure 500, as a
    /// server does it.
    pub fn request<B: Into<Bytes>>(&self, request: http::Request<B>) -> http::Response<Bytes> {
        let (handle, response) = self.ask(request, None);
        self.world.remove(handle);
        self.world.run_ready();
        response
    }

    /// As [`request`](Host::request), for one that asks for another protocol. If the plugin answers 101, its end of the connection is with
    /// whoever did, and the test's end is here.
    pub fn switch(
        &self,
        request: http::Request<()>,
    ) -> (http::Response<Bytes>, Option<TestConnection>) {
        let switch = Rc::new(Switch::default());
        let (handle, response) = self.ask(request.map(|()| Bytes::new()), Some(switch.clone()));
        if response.status() != http::StatusCode::SWITCHING_PROTOCOLS {
            self.world.remove(handle);
            self.world.run_ready();
            return (response, None);
        }
        // The exchange is the handler's now.
        let (end, plugin) = self.pair(([127, 0, 0, 1], 80).into());
        switch.hand_over(net::adopt(&self.world, plugin, u32::MAX, false));
        self.world.run_ready();
        (response, Some(TestConnection { end, world: self.world.clone() }))
    }

    fn pair(&self, to: SocketAddr) -> (End, End) {
        let port = self.next_port.get();
        self.next_port.set(port + 1);
        End::pair(([127, 0, 0, 1], port).into(), to)
    }

    fn ask<B: Into<Bytes>>(
        &self,
        request: http::Request<B>,
        switch: Option<Rc<Switch>>,
    ) -> (Handle, http::Response<Bytes>) {
        let (parts, body) = request.into_parts();
        let body: Bytes = body.into();
        let host = parts.headers.get("host").map(|host| host.as_bytes().to_vec());
        let authority = parts.uri.authority().map(|name| name.as_str().as_bytes().to_vec());
        let head = OwnedHead {
            method: parts.method.as_str().into(),
            authority: authority.or(host),
            path: parts.uri.path().into(),
            query: parts.uri.query().map(Into::into),
            fields: parts
                .headers
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_bytes().to_vec()))
                .collect(),
            version: 11,
            remote: Some(crate::address::to_abi(([127, 0, 0, 1], 40_000).into())),
        };
        let length = exchange::length_of(&body);
        let source = if body.is_empty() { Source::Empty } else { Source::Bytes(body.to_vec()) };
        let (handle, exchange) = exchange::start(&self.world, head.clone(), source, length, switch);
        let what = format!("{} {}", parts.method, parts.uri);
        let outcome = self.world.run_until(&what, || exchange.outcome(&self.world, handle));
        let mut response = http::Response::new(Bytes::new());
        let mut ended = ENDED_COMPLETE;
        let (status, bytes) = match &outcome {
            Ok(given) => {
                for (name, value) in &given.fields {
                    let name = http::HeaderName::from_bytes(name).expect("a valid field name");
                    let value = http::HeaderValue::from_bytes(value).expect("a valid field value");
                    response.headers_mut().append(name, value);
                }
                match self.collect(&what, given) {
                    Ok(bytes) => (given.status, bytes),
                    Err(_) => {
                        ended = ENDED_FAILED;
                        (502, Vec::new())
                    }
                }
            }
            Err(code::NOT_FOUND) => (404, Vec::new()),
            Err(code) => (500, format!("code {code}").into_bytes()),
        };
        exchange::observe(&self.world, &head, status, ended, bytes.len() as u64);
        let status = u16::try_from(status).ok().and_then(|s| http::StatusCode::from_u16(s).ok());
        *response.status_mut() = status.expect("a valid status");
        *response.body_mut() = bytes.into();
        (handle, response)
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> http::Response<Bytes> {
        let request = http::Request::get(path).body(Bytes::new());
        self.request(request.expect("the path makes a URI"))
    }

    /// Answers the exchanges that a server of HTTP starts and that no route of the plugin itself wants.
    pub fn answer(&self, site: impl Fn(http::Request<Bytes>) -> http::Response<Bytes> + 'static) {
        self.answer_unchecked(move |request| {
            let (parts, body) = site(request).into_parts();
            let fields = parts.headers.iter();
            let fields =
                fields.map(|(name, value)| (name.as_str().into(), value.as_bytes().to_vec()));
            (parts.status.as_u16(), fields.collect(), body)
        });
    }

    /// As [`answer`](Host::answer), for a site that is written in another language, say: its status and the names and values of its
    /// fields go to the server as they are.
    pub fn answer_unchecked(
        &self,
        site: impl Fn(http::Request<Bytes>) -> (u16, Vec<(Vec<u8>, Vec<u8>)>, Bytes) + 'static,
    ) {
        let site = move |request: http::Request<Bytes>| {
            let (status, fields, body) = site(request);
            let length = exchange::length_of(&body);
            let body = RefCell::new(Source::Bytes(body.to_vec()));
            OwnedResponse { status: status.into(), fields, length, body }
        };
        *self.world.site.borrow_mut() = Some(Rc::new(site));
    }

    /// Runs a monitor command of the plugin's, and answers what it printed.
    ///
    /// # Errors
    /// What the command failed with.
    ///
    /// # Panics
    /// When the plugin has no command of that name.
    pub fn command(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let found = callbacks::start_command(&self.world, name, arguments);
        let (handle, call) = found.unwrap_or_else(|| panic!("there is no command {name}"));
        self.world.failure.take();
        let pieces = self.collect_call(name, handle, &call)?;
        Ok(String::from_utf8_lossy(&pieces.concat()).into_owned())
    }

    /// Calls a service of the plugin's, and answers all of its replies.
    ///
    /// # Errors
    /// What the service failed with.
    ///
    /// # Panics
    /// When the plugin does not offer it.
    pub fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        service: &str,
        version: u32,
        request: &Q,
    ) -> Result<Vec<R>> {
        self.world.failure.take();
        let payload = to_cbor(request)?;
        let code = callbacks::start_call(&self.world, service, version, &payload, 0);
        assert_ne!(code, code::NOT_FOUND, "nobody offers {service} in version {version}");
        if code < 0 {
            return Err(self.failure(code));
        }
        let Some(Entry::Call(call)) = self.world.get(code as Handle) else {
            return Err(Error::new("the call is gone"));
        };
        let pieces = self.collect_call(service, code as Handle, &call)?;
        pieces.iter().map(|piece| from_cbor(piece)).collect()
    }

    /// Moves the time on, timer by timer.
    pub fn advance(&self, duration: Duration) {
        let by = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.world.advance(self.world.now_ns.get().saturating_add(by));
    }

    /// Lets everything run that can without the time moving, blocking jobs included.
    pub fn run(&self) {
        loop {
            let wakes = SHARED.lock().wakes;
            self.world.run_ready();
            if !self.world.has_jobs() || !SHARED.wait(wakes) {
                return;
            }
        }
    }

    /// Tells the plugin that another version takes over. Sessions have no more turns here once they rest, and wait for
    /// [`upgrade`](Host::upgrade), or for [`drain`](Host::drain) if nobody takes them; those in a turn go on until they rest or end.
    ///
    /// # Errors
    /// What the plugin failed with.
    pub fn hand_over(&self) -> Result<()> {
        self.world.is_handing_over.set(true);
        // SAFETY: The plugin has started.
        let code = unsafe { (self.hooks.handed_over)() };
        if code < 0 {
            return Err(self.failure(code));
        }
        self.world.run_ready();
        Ok(())
    }

    /// Whether every connection of the plugin's is a session that rests.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        let is_resting = |entry: &Entry| match entry {
            Entry::Connection(conn) => conn.parked.get().is_some(),
            _ => true,
        };
        self.world.entries().iter().all(|(_, entry)| is_resting(entry))
    }

    /// Tells the plugin to drain within `patience`, and each session when it rests.
    pub fn drain(&self, patience: Duration) {
        let by = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: The plugin has started.
        unsafe { (self.hooks.drain)(self.world.now_ns.get().saturating_add(by)) };
        self.world.is_draining.set(true);
        self.world.run_ready();
    }

    /// What a metric shows; `None` if there is none of that name.
    #[must_use]
    pub fn metric(&self, name: &str) -> Option<u64> {
        callbacks::metric(&self.world, name)
    }

    /// The plugin's log, with its failures.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        SHARED.lock().log.clone()
    }

    /// The plugin's panics, with their places.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        SHARED.lock().panics.clone()
    }

    /// Replaces the plugin by another of its versions, as an upgrade does: kept state and parked sessions go over, other
    /// connections and tasks end. (A host has both at once, and lets the old one finish.)
    ///
    /// # Errors
    /// What the new one failed with; nothing runs then.
    pub fn upgrade(&self, load: Load) -> Result<()> {
        self.world.run_ready();
        if !self.world.is_handing_over.get() {
            self.hand_over()?;
        }
        let mut state = Vec::new();
        // SAFETY: As above; the sink is ours.
        let code = unsafe { (self.hooks.export_state)(vec_sink(&mut state)) };
        if code < 0 {
            return Err(self.failure(code));
        }
        let sessions = self.export_sessions()?;
        self.end()?;
        self.begin(load)?;
        if !state.is_empty() {
            // SAFETY: The slice is borrowed for the call.
            let code = unsafe { (self.hooks.import_state)(1, Slice::new(&state)) };
            if code < 0 {
                return Err(self.failure(code));
            }
        }
        self.import_sessions(sessions)?;
        self.world.is_handing_over.set(false);
        self.world.run_ready();
        Ok(())
    }

    fn begin(&self, load: Load) -> Result<()> {
        self.world.enter();
        *LOAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(load);
        // SAFETY: The tables are statics; no thread of the plugin runs.
        let code = unsafe {
            let tables = Table::new(&callbacks::HOST);
            (self.hooks.prepare)(tables, 1, Slice::new(&self.config))
        };
        if code < 0 {
            return Err(self.failure(code));
        }
        self.step("start", self.hooks.start)?;
        self.step("acquire", self.hooks.acquire)
    }

    /// Ends all that runs, and stops the plugin.
    fn end(&self) -> Result<()> {
        self.step("release", self.hooks.release)?;
        for (handle, entry) in self.world.entries() {
            if matches!(entry, Entry::Task(_)) {
                self.world.abort(handle);
            }
        }
        let running = self.world.running.take();
        for running in &running {
            if let Some(stop) = running.stop.take() {
                stop();
            }
            running.finish();
        }
        // Metrics count to the very end: what is dropped here, and in `stop`, may be counted too.
        let entries = self.world.entries();
        for (handle, _) in &entries {
            self.world.remove(*handle);
        }
        // SAFETY: Nothing of the plugin runs any more.
        let code = unsafe { (self.hooks.stop)() };
        drop(entries);
        SHARED.lock().ready.clear();
        if code < 0 { Err(self.failure(code)) } else { Ok(()) }
    }

    fn step(&self, what: &str, hook: unsafe extern "C" fn(*mut Task) -> Code) -> Result<()> {
        let mut task = Task::NONE;
        // SAFETY: The hook is called in its place in the plugin's life.
        let mut code = unsafe { hook(&mut task) };
        if code >= 0 && !task.data.is_null() {
            let task = self.world.spawn(task);
            code = self.world.run_until(what, || self.world.outcome(task));
        }
        if code < 0 { Err(self.failure(code)) } else { Ok(()) }
    }

    /// The reason that the plugin gave, or what the code says.
    fn failure(&self, code: Code) -> Error {
        match self.world.failure.take() {
            Some(reason) => Error::new(reason),
            None => Error::from(crate::error::io_error(code)),
        }
    }

    fn collect(&self, what: &str, response: &OwnedResponse) -> Result<Vec<u8>, Code> {
        let mut bytes = Vec::new();
        loop {
            let cell = wake::Cell::forwarding(None);
            let context = cell.context(self.world.now_ns.get());
            let waker = medusa_abi::task::Waker { data: context.waker, hooks: Table::NULL };
            let code = self.world.run_until(what, || {
                let sink = FrameSink { data: (&raw mut bytes).cast(), frame: append };
                match exchange::pull(&self.world, &response.body, sink, Kept::new(waker)) {
                    code::PENDING => None,
                    code => Some(code),
                }
            });
            match code {
                code::END => return Ok(bytes),
                code if code < 0 => return Err(code),
                _ => {}
            }
        }
    }

    fn collect_call(&self, what: &str, handle: Handle, call: &world::Call) -> Result<Vec<Vec<u8>>> {
        let mut pieces = Vec::new();
        let code = self.world.run_until(what, || {
            while !call.pieces.borrow().is_empty() {
                pieces.extend(call.pieces.take());
                wake::wake_slot(&call.writer);
                self.world.run_ready();
            }
            match call.task.get() {
                0 => Some(code::FAILED),
                task => self.world.outcome(task),
            }
        });
        self.world.remove(handle);
        if code < 0 { Err(self.failure(code)) } else { Ok(pieces) }
    }

    fn export_sessions(&self) -> Result<Vec<SessionRecord>> {
        let Some(service) = net::service(&self.world) else { return Ok(Vec::new()) };
        let ServiceEntry::Session(session) = &*service else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for (handle, entry) in self.world.entries() {
            let Entry::Connection(conn) = entry else { continue };
            if conn.parked.get().is_none() {
                continue;
            }
            let mut record = Vec::new();
            let sink: ByteSink = vec_sink(&mut record);
            // SAFETY: A registered session; the sink is ours.
            let code = unsafe {
                session
                    .hooks
                    .get()
                    .map_or(code::INVALID, |hooks| (hooks.export)(session.data, handle, sink))
            };
            if code < 0 {
                return Err(self.failure(code));
            }
            records.push((conn, record));
        }
        Ok(records)
    }

    fn import_sessions(&self, sessions: Vec<SessionRecord>) -> Result<()> {
        if sessions.is_empty() {
            return Ok(());
        }
        let Some(service) = net::service(&self.world) else {
            return Err(Error::new("the new version serves no sessions"));
        };
        let ServiceEntry::Session(session) = &*service else {
            return Err(Error::new("the new version serves no sessions"));
        };
        for (conn, record) in sessions {
            let mut due = conn.due.borrow_mut();
            due.retain(|(wake, _)| *wake != WAKE_RESUMED);
            due.push_front((WAKE_RESUMED, Vec::new()));
            drop(due);
            conn.turn.set(0);
            let handle = self.world.insert(Entry::Connection(conn));
            // SAFETY: A registered session; the record is borrowed for the call.
            let code = unsafe {
                session.hooks.get().map_or(code::INVALID, |hooks| {
                    (hooks.import)(session.data, handle, 1, Slice::new(&record))
                })
            };
            if code < 0 {
                return Err(self.failure(code));
            }
        }
        Ok(())
    }
}

impl Drop for Host {
    /// Stops the plugin.
    ///
    /// # Panics
    /// When it does not stop.
    fn drop(&mut self) {
        let ended = if std::thread::panicking() { Ok(()) } else { self.end() };
        World::leave();
        HERE.set(false);
        if let Err(error) = ended {
            panic!("the plugin did not stop: {error}");
        }
    }
}

/// The test's end of a connection.
pub struct TestConnection {
    end: End,
    world: Rc<World>,
}

impl TestConnection {
    /// Sends `bytes`, and lets the plugin run.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.end.output.write(bytes.as_ref());
        self.world.run_ready();
    }

    /// What the plugin has written so far and was not read yet.
    pub fn read(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            self.world.run_ready();
            let piece = self.end.input.read(usize::MAX);
            if piece.is_empty() {
                return bytes;
            }
            bytes.extend(piece);
        }
    }

    /// As [`read`](TestConnection::read), but no more than so many bytes: for a reader that is slow.
    pub fn read_at_most(&mut self, bytes_max: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            self.world.run_ready();
            let piece = self.end.input.read(bytes_max - bytes.len());
            if piece.is_empty() {
                return bytes;
            }
            bytes.extend(piece);
        }
    }

    /// `count` bytes, with the time moving on as needed.
    ///
    /// # Panics
    /// When they do not come.
    pub fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.world.clone().run_until(&format!("reading {count} bytes"), || {
            bytes.extend(self.end.input.read(count - bytes.len()));
            let ended = self.end.input.ended.get() && self.end.input.is_empty();
            assert!(bytes.len() == count || !ended, "the input ended after {bytes:?}");
            (bytes.len() == count).then_some(())
        });
        bytes
    }

    /// A line, without its end.
    ///
    /// # Panics
    /// When none comes.
    pub fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.read_exact(1));
        }
        String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned()
    }

    /// Ends the sending half.
    pub fn shutdown(&mut self) {
        self.end.output.end();
        self.world.run_ready();
    }

    /// Whether the plugin has ended its half, and all of it was read.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.end.input.ended.get() && self.end.input.is_empty()
    }

    /// Whether the plugin has closed the connection.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.end.input.writer_gone.get()
    }

    /// Whether it did so with a reset.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.end.input.reset.get()
    }

    /// Hangs up.
    pub fn close(self) {
        self.end.leave(false);
        self.world.run_ready();
    }
}

/// The test's listener, for what the plugin connects to.
pub struct TestListener {
    listener: Rc<world::Listener>,
    world: Rc<World>,
}

impl TestListener {
    /// The next connection of the plugin's.
    ///
    /// # Panics
    /// When none comes.
    #[must_use]
    pub fn accept(&self) -> TestConnection {
        let end = self
            .world
            .run_until("waiting for a connection", || self.listener.waiting.borrow_mut().pop());
        TestConnection { end, world: self.world.clone() }
    }
}

fn has_site(world: &World) -> bool {
    world.site.borrow().is_some()
}

/// What the test's own site answers.
fn site_response(world: &World, head: &OwnedHead) -> Option<OwnedResponse> {
    let site = world.site.borrow().clone()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let target = match &head.query {
        Some(query) => format!("{}?{}", text(&head.path), text(query)),
        None => text(&head.path),
    };
    let mut request = http::Request::builder().method(&*head.method).uri(target);
    for (name, value) in &head.fields {
        request = request.header(&**name, &**value);
    }
    Some(site(request.body(Bytes::new()).ok()?))
}

unsafe extern "C" fn append(data: *mut c_void, frame: *const Frame) -> Code {
    // SAFETY: `data` is the vector of `collect`, which lives during the pull; the frame is borrowed for the call.
    unsafe { (*data.cast::<Vec<u8>>()).extend_from_slice(bytes_of((*frame).bytes)) };
    code::READY
}
