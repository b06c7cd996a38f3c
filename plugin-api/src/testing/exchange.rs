//! The test host's HTTP: routes, exchanges, and bodies on their way.

use std::{
    cell::{Cell as StdCell, RefCell},
    rc::Rc,
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, InstanceId, Slice},
    host::HttpCallbacks,
    http::{
        BODY_BYTES, BODY_EMPTY, BODY_EXCHANGE, BODY_FILE, BODY_SOURCE, BodySource, ExchangeRecord,
        FRAME_DATA, Frame, FrameSink, Handler, HeadSink, LENGTH_UNKNOWN, Observer,
        REQUEST_TAKES_UPGRADE, ROUTE_FILTER, RequestHead, ResponseHead, RouteSpec,
    },
    net::SocketAddress,
    task::{Task, Waker},
};

use super::{
    callbacks::{on_loop, text},
    files,
    wake::{Cell, Kept, wake_slot},
    world::{Entry, World},
};
use crate::{
    host::bytes_of,
    http::fields::{FieldList, field, list, pair},
};

pub(super) static HTTP: HttpCallbacks = HttpCallbacks {
    size: size_of::<HttpCallbacks>(),
    route_add,
    observer_add,
    exchange_respond,
    request_pull,
    exchange_next,
    exchange_start,
    exchange_poll,
    exchange_pull,
    exchange_end,
    exchange_report,
    exchange_interim,
    exchange_upgrade,
    exchange_hand_over,
    permit_use,
    permit_report,
};

/// A mounted handler or filter.
pub(super) struct RouteEntry {
    path: String,
    host: Option<String>,
    order: i32,
    is_filter: bool,
    pub(super) handler: Handler,
}

pub(super) struct ObserverEntry(pub(super) Observer);

type FieldPairs = Vec<(Vec<u8>, Vec<u8>)>;

/// The head of a request, owned.
#[derive(Clone, Default)]
pub(super) struct OwnedHead {
    pub(super) method: Vec<u8>,
    pub(super) authority: Option<Vec<u8>>,
    pub(super) path: Vec<u8>,
    pub(super) query: Option<Vec<u8>>,
    pub(super) fields: FieldPairs,
    pub(super) version: u32,
    pub(super) remote: Option<SocketAddress>,
}

/// A response, or its failure.
pub(super) struct OwnedResponse {
    pub(super) status: u32,
    pub(super) fields: FieldPairs,
    pub(super) body: RefCell<Source>,
    pub(super) length: u64,
}

/// Where a body's frames come from.
pub(super) enum Source {
    Empty,
    Bytes(Vec<u8>),
    Plugin(OwnedSource),
    File {
        file: Handle,
        offset: u64,
        left: u64,
    },
    /// The body of the response of that exchange, which this owns.
    Response(Handle),
    /// The body of the request of that exchange.
    Request(Handle),
}

/// A body source of the plugin's, dropped once.
pub(super) struct OwnedSource(BodySource);

impl Drop for OwnedSource {
    fn drop(&mut self) {
        // SAFETY: The source passed to us, and is dropped once.
        unsafe { self.0.hooks.get().map(|hooks| (hooks.drop)(self.0.data)) };
    }
}

/// A request on its way through filters to its handler.
pub(super) struct Exchange {
    head: OwnedHead,
    body: RefCell<Source>,
    body_length: u64,
    /// The routes that were not asked yet, the next one last.
    chain: RefCell<Vec<Rc<RouteEntry>>>,
    task: StdCell<Handle>,
    pub(super) response: RefCell<Option<Rc<OwnedResponse>>>,
    failed: StdCell<Option<Code>>,
    waker: RefCell<Option<Kept>>,
    /// If the test would let the request's connection go, shared with what filters make of the request.
    pub(super) switch: Option<Rc<Switch>>,
}

/// A connection that is to speak another protocol.
#[derive(Default)]
pub(super) struct Switch {
    /// Its handle, 0 before it comes.
    connection: StdCell<Handle>,
    waker: RefCell<Option<Kept>>,
}

impl Switch {
    /// The connection is whoever's answered 101.
    pub(super) fn hand_over(&self, connection: Handle) {
        self.connection.set(connection);
        wake_slot(&self.waker);
    }
}

impl Exchange {
    /// Cancels what runs for it.
    pub(super) fn cancel(&self, world: &World) {
        world.abort(self.task.get());
        *self.body.borrow_mut() = Source::Empty;
        if let Some(response) = self.response.take() {
            let body = response.body.replace(Source::Empty);
            if let Source::Response(inner) = body {
                world.remove(inner);
            }
        }
    }

    /// The outcome: a response, or the code of its failure.
    pub(super) fn outcome(
        &self,
        world: &Rc<World>,
        handle: Handle,
    ) -> Option<Result<Rc<OwnedResponse>, Code>> {
        loop {
            if let Some(response) = self.response.borrow().clone() {
                return Some(Ok(response));
            }
            if let Some(code) = self.failed.get() {
                return Some(Err(code));
            }
            match world.outcome(self.task.get()) {
                None => return None,
                Some(code::PASS) => self.ask_next(world, handle),
                Some(code) if code < 0 => self.failed.set(Some(code)),
                Some(_) => self.failed.set(Some(code::FAILED)),
            }
        }
    }

    fn ask_next(&self, world: &Rc<World>, handle: Handle) {
        let Some(route) = self.chain.borrow_mut().pop() else {
            match super::site_response(world, &self.head) {
                Some(response) => *self.response.borrow_mut() = Some(Rc::new(response)),
                None => self.failed.set(Some(code::NOT_FOUND)),
            }
            return;
        };
        let mut task = Task::NONE;
        let mount = if route.path == "/" { 0 } else { route.path.len() };
        let flags = self.switch.as_ref().map_or(0, |_| REQUEST_TAKES_UPGRADE);
        let code = self.head.lend(self.body_length, mount, flags, |head| {
            // SAFETY: A registered handler; the head is borrowed for the call.
            unsafe {
                route.handler.hooks.get().map_or(code::INVALID, |hooks| {
                    (hooks.call)(route.handler.data, handle, head, &mut task)
                })
            }
        });
        if code < 0 {
            self.failed.set(Some(code));
            return;
        }
        let task = world.spawn(task);
        self.task.set(task);
        // Inline, as the host does: a handler that does not wait has answered before the call returns.
        world.poll_once(task);
    }
}

impl OwnedHead {
    /// # Safety
    /// `head` must be the argument of the running callback.
    unsafe fn copy(head: &RequestHead) -> OwnedHead {
        // SAFETY: The caller's promise.
        unsafe {
            let optional = |slice: Slice| (!slice.is_none()).then(|| bytes_of(slice).to_vec());
            OwnedHead {
                method: bytes_of(head.method).to_vec(),
                authority: optional(head.authority),
                path: bytes_of(head.path).to_vec(),
                query: optional(head.query),
                fields: copy_fields(head.fields, head.field_count),
                version: head.version,
                remote: Some(head.remote),
            }
        }
    }

    fn lend<R>(
        &self,
        body_length: u64,
        mount: usize,
        flags: u32,
        f: impl FnOnce(&RequestHead) -> R,
    ) -> R {
        let fields: FieldList =
            self.fields.iter().map(|(name, value)| field(name, value)).collect();
        let optional = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or(Slice::NONE, Slice::new);
        f(&RequestHead {
            method: Slice::new(&self.method),
            scheme: Slice::new(b"http"),
            authority: optional(&self.authority),
            path: Slice::new(&self.path),
            query: optional(&self.query),
            fields: fields.as_ptr(),
            field_count: fields.len(),
            version: self.version,
            flags,
            body_length,
            mount_length: mount.min(self.path.len()),
            remote: self.remote.unwrap_or(SocketAddress::NONE),
            local: SocketAddress::NONE,
            connection: 1,
            spare: [0; 4],
        })
    }
}

/// Starts a request at the plugin's own routes; `NOT_FOUND` if there is none for it.
pub(super) fn start(
    world: &Rc<World>,
    head: OwnedHead,
    body: Source,
    length: u64,
    switch: Option<Rc<Switch>>,
) -> (Handle, Rc<Exchange>) {
    let chain = chain(world, &head);
    make(world, head, body, length, chain, switch)
}

fn make(
    world: &Rc<World>,
    head: OwnedHead,
    body: Source,
    body_length: u64,
    chain: Vec<Rc<RouteEntry>>,
    switch: Option<Rc<Switch>>,
) -> (Handle, Rc<Exchange>) {
    let exchange = Rc::new(Exchange {
        head,
        body: body.into(),
        body_length,
        chain: chain.into(),
        task: 0.into(),
        response: None.into(),
        failed: None.into(),
        waker: None.into(),
        switch,
    });
    let handle = world.insert(Entry::Exchange(exchange.clone()));
    exchange.ask_next(world, handle);
    (handle, exchange)
}

/// The routes for a request, the first to be asked last: filters before handlers, each by order; filters from the broadest
/// path on, handlers from the narrowest.
fn chain(world: &World, head: &OwnedHead) -> Vec<Rc<RouteEntry>> {
    let mut routes: Vec<(Handle, Rc<RouteEntry>)> = world
        .entries()
        .into_iter()
        .filter_map(|(handle, entry)| match entry {
            Entry::Route(route) if matches(&route, head) => Some((handle, route)),
            _ => None,
        })
        .collect();
    routes.sort_by_key(|(handle, route)| {
        let length = route.path.len() as i64;
        if route.is_filter {
            (0, i64::from(route.order), length, *handle as i64)
        } else {
            (1, -length, i64::from(route.order), -(*handle as i64))
        }
    });
    routes.into_iter().rev().map(|(_, route)| route).collect()
}

fn matches(route: &RouteEntry, head: &OwnedHead) -> bool {
    let host_fits = route.host.as_ref().is_none_or(|host| {
        let authority = head.authority.clone().unwrap_or_default();
        let authority = String::from_utf8_lossy(&authority).into_owned();
        let name = authority.split(':').next().unwrap_or_default();
        match host.strip_prefix("*") {
            Some(below) => name.ends_with(below),
            None => name == host,
        }
    });
    let mount = route.path.trim_end_matches('/').as_bytes();
    let path_fits = match head.path.strip_prefix(mount) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    };
    host_fits && path_fits
}

/// Pulls a frame. `handle` is that of the exchange which owns the source.
pub(super) fn pull(
    world: &Rc<World>,
    source: &RefCell<Source>,
    sink: FrameSink,
    waker: Option<Kept>,
) -> Code {
    let code = match &mut *source.borrow_mut() {
        Source::Empty => return code::END,
        Source::Bytes(bytes) => {
            let bytes = std::mem::take(bytes);
            Err(bytes)
        }
        Source::Plugin(plugin) => {
            let cell = Cell::forwarding(waker);
            let context = cell.context(world.now_ns.get());
            // SAFETY: The source is ours; sink and context live during the call.
            let code = unsafe {
                plugin
                    .0
                    .hooks
                    .get()
                    .map_or(code::INVALID, |hooks| (hooks.pull)(plugin.0.data, sink, &context))
            };
            Ok(code)
        }
        Source::File { file, offset, left } => {
            let mut piece = vec![0; usize::try_from(*left).unwrap_or(usize::MAX).min(16 * 1024)];
            match files::read(world, *file, *offset, &mut piece) {
                0 if *left > 0 => Ok(code::FAILED),
                count if count <= 0 => Ok(if count == 0 { code::END } else { count }),
                count => {
                    *offset += count as u64;
                    *left -= count as u64;
                    piece.truncate(count as usize);
                    deliver(sink, &piece);
                    Ok(code::READY)
                }
            }
        }
        Source::Response(handle) => match world.get(*handle) {
            Some(Entry::Exchange(inner)) => match &*inner.response.borrow() {
                Some(response) => Ok(pull(world, &response.body, sink, waker)),
                None => Ok(code::GONE),
            },
            _ => Ok(code::STALE),
        },
        Source::Request(handle) => match world.get(*handle) {
            Some(Entry::Exchange(outer)) => Ok(pull(world, &outer.body, sink, waker)),
            _ => Ok(code::STALE),
        },
    };
    match code {
        Ok(code::READY | code::PENDING) => code.unwrap_or(code::READY),
        Ok(code) => {
            let old = source.replace(Source::Empty);
            drop(old);
            code
        }
        Err(bytes) => {
            *source.borrow_mut() = Source::Empty;
            deliver(sink, &bytes);
            code::READY
        }
    }
}

fn deliver(sink: FrameSink, bytes: &[u8]) {
    let frame = Frame {
        kind: FRAME_DATA,
        flags: 0,
        bytes: Slice::new(bytes),
        fields: std::ptr::null(),
        field_count: 0,
        file: 0,
        offset: 0,
        length: 0,
        spare: [0; 2],
    };
    // SAFETY: The sink is an argument of the running callback, or the test's own.
    unsafe { (sink.frame)(sink.data, &frame) };
}

/// Tells the observers.
pub(super) fn observe(world: &World, head: &OwnedHead, status: u32, outcome: u32, bytes: u64) {
    let optional = |bytes: &Option<Vec<u8>>| bytes.as_deref().map_or(Slice::NONE, Slice::new);
    let record = ExchangeRecord {
        method: Slice::new(&head.method),
        authority: optional(&head.authority),
        path: Slice::new(&head.path),
        query: optional(&head.query),
        referer: Slice::NONE,
        user_agent: Slice::NONE,
        handler: Slice::new(b"test"),
        remote: head.remote.unwrap_or(SocketAddress::NONE),
        status,
        outcome,
        version: head.version,
        flags: 0,
        bytes,
        started_ns: world.now_ns.get(),
        ended_ns: world.now_ns.get(),
        connection: 1,
        spare: [0; 4],
    };
    tell(world, &record);
}

fn tell(world: &World, record: &ExchangeRecord) {
    for (_, entry) in world.entries() {
        if let Entry::Observer(observer) = entry {
            // SAFETY: A registered observer; the record is borrowed for the call.
            unsafe { observer.0.hooks.get().map(|hooks| (hooks.ended)(observer.0.data, record)) };
        }
    }
}

/// # Safety
/// As [`list`].
unsafe fn copy_fields(fields: *const medusa_abi::http::Field, count: usize) -> FieldPairs {
    // SAFETY: The caller's promise.
    let fields = unsafe { list(fields, count) };
    // SAFETY: As above.
    fields
        .iter()
        .map(|field| unsafe { pair(field) })
        .map(|(n, v)| (n.to_vec(), v.to_vec()))
        .collect()
}

/// Gives a response's head to a sink, its body in bytes or to be pulled.
fn give_head(response: &OwnedResponse, sink: HeadSink) {
    let fields: FieldList =
        response.fields.iter().map(|(name, value)| field(name, value)).collect();
    let mut head = ResponseHead {
        status: response.status,
        body: BODY_SOURCE,
        fields: fields.as_ptr(),
        field_count: fields.len(),
        length: response.length,
        bytes: Slice::NONE,
        source: BodySource::NONE,
        file: 0,
        offset: 0,
        exchange: 0,
        permit: std::ptr::null(),
        permit_handle: 0,
        spare: [0; 4],
    };
    let body = response.body.borrow();
    match &*body {
        Source::Empty => head.body = BODY_EMPTY,
        Source::Bytes(bytes) => {
            head.body = BODY_BYTES;
            head.bytes = Slice::new(bytes);
        }
        _ => {}
    }
    // SAFETY: The sink is an argument of the running callback; the head is borrowed for the call.
    unsafe { (sink.head)(sink.data, &head) };
}

// In all of the following the plugin's SDK keeps what the ABI asks of a caller: slices and pointers are valid for the call.

unsafe extern "C" fn route_add(_: InstanceId, spec: *const RouteSpec, handler: Handler) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let (spec, path) = unsafe { (&*spec, text((*spec).path)) };
        if !path.starts_with('/') {
            return code::INVALID;
        }
        // SAFETY: See above.
        let host = (!spec.host.is_none()).then(|| unsafe { text(spec.host) });
        let is_filter = spec.kind == ROUTE_FILTER;
        let route = RouteEntry { path, host, order: spec.order, is_filter, handler };
        world.insert(Entry::Route(Rc::new(route))) as Code
    })
}

unsafe extern "C" fn observer_add(_: InstanceId, observer: Observer) -> Code {
    on_loop(|world| world.insert(Entry::Observer(Rc::new(ObserverEntry(observer)))) as Code)
}

unsafe extern "C" fn exchange_respond(
    _: InstanceId,
    exchange: Handle,
    head: *const ResponseHead,
) -> Code {
    on_loop(|world| {
        let Some(Entry::Exchange(exchange)) = world.get(exchange) else { return code::STALE };
        if exchange.response.borrow().is_some() {
            return code::INVALID;
        }
        // SAFETY: See above.
        let head = unsafe { &*head };
        let body = match head.body {
            BODY_EMPTY => Source::Empty,
            // SAFETY: See above.
            BODY_BYTES => Source::Bytes(unsafe { bytes_of(head.bytes) }.to_vec()),
            BODY_SOURCE => Source::Plugin(OwnedSource(head.source)),
            BODY_FILE => Source::File { file: head.file, offset: head.offset, left: head.length },
            BODY_EXCHANGE => Source::Response(head.exchange),
            _ => return code::INVALID,
        };
        // SAFETY: See above.
        let fields = unsafe { copy_fields(head.fields, head.field_count) };
        let response =
            OwnedResponse { status: head.status, fields, body: body.into(), length: head.length };
        *exchange.response.borrow_mut() = Some(Rc::new(response));
        // SAFETY: See above. The permit passes with the call, and no use is made of it here.
        if let Some(permit) = unsafe { head.permit.as_ref() } {
            // SAFETY: The hooks are a static of the plugin.
            if let Some(hooks) = unsafe { permit.hooks.get() } {
                // SAFETY: The data is the permit's, and given back once.
                unsafe { (hooks.drop)(permit.data) };
            }
        }
        wake_slot(&exchange.waker);
        code::READY
    })
}

unsafe extern "C" fn request_pull(
    _: InstanceId,
    exchange: Handle,
    sink: FrameSink,
    waker: Waker,
) -> Code {
    on_loop(|world| match world.get(exchange) {
        Some(Entry::Exchange(exchange)) => pull(world, &exchange.body, sink, Kept::new(waker)),
        _ => code::STALE,
    })
}

unsafe extern "C" fn exchange_next(
    _: InstanceId,
    exchange: Handle,
    head: *const RequestHead,
    body: BodySource,
    sink: HeadSink,
    waker: Waker,
) -> Code {
    on_loop(|world| {
        let Some(Entry::Exchange(outer)) = world.get(exchange) else { return code::STALE };
        // SAFETY: See above.
        let (length, head) = unsafe { ((*head).body_length, OwnedHead::copy(&*head)) };
        // SAFETY: The table is the plugin's, and mapped.
        let body = match unsafe { body.hooks.get() } {
            Some(_) => Source::Plugin(OwnedSource(body)),
            None => Source::Request(exchange),
        };
        let chain = outer.chain.borrow().clone();
        let (handle, inner) = make(world, head, body, length, chain, outer.switch.clone());
        begin(world, handle, &inner, sink, waker)
    })
}

unsafe extern "C" fn exchange_start(
    _: InstanceId,
    head: *const RequestHead,
    body: BodySource,
    sink: HeadSink,
    waker: Waker,
) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let (length, head) = unsafe { ((*head).body_length, OwnedHead::copy(&*head)) };
        if chain(world, &head).is_empty() && !super::has_site(world) {
            return code::NOT_FOUND;
        }
        // SAFETY: The table is the plugin's, and mapped.
        let body = match unsafe { body.hooks.get() } {
            Some(_) => Source::Plugin(OwnedSource(body)),
            None => Source::Empty,
        };
        let (handle, exchange) = start(world, head, body, length, None);
        begin(world, handle, &exchange, sink, waker)
    })
}

/// Answers a new exchange's handle, with the head if it is ready.
fn begin(
    world: &Rc<World>,
    handle: Handle,
    exchange: &Exchange,
    sink: HeadSink,
    waker: Waker,
) -> Code {
    match exchange.outcome(world, handle) {
        Some(Ok(response)) => give_head(&response, sink),
        // Told by the poll that follows.
        Some(Err(_)) => {
            if let Some(waker) = Kept::new(waker) {
                waker.wake();
            }
        }
        None => wait(world, exchange, waker),
    }
    handle as Code
}

fn wait(world: &World, exchange: &Exchange, waker: Waker) {
    *exchange.waker.borrow_mut() = Kept::new(waker);
    // A task that ends without an answer wakes as well.
    world.poll_task(exchange.task.get(), Kept::new(waker));
}

unsafe extern "C" fn exchange_poll(
    _: InstanceId,
    handle: Handle,
    sink: HeadSink,
    waker: Waker,
) -> Code {
    on_loop(|world| {
        let Some(Entry::Exchange(exchange)) = world.get(handle) else { return code::STALE };
        match exchange.outcome(world, handle) {
            Some(Ok(response)) => {
                give_head(&response, sink);
                code::READY
            }
            Some(Err(code)) => code,
            None => {
                wait(world, &exchange, waker);
                code::PENDING
            }
        }
    })
}

unsafe extern "C" fn exchange_pull(
    _: InstanceId,
    exchange: Handle,
    sink: FrameSink,
    waker: Waker,
) -> Code {
    on_loop(|world| {
        let Some(Entry::Exchange(exchange)) = world.get(exchange) else { return code::STALE };
        let response = exchange.response.borrow().clone();
        match response {
            Some(response) => pull(world, &response.body, sink, Kept::new(waker)),
            None => code::INVALID,
        }
    })
}

unsafe extern "C" fn exchange_end(
    _: InstanceId,
    handle: Handle,
    status: u32,
    outcome: u32,
    bytes: u64,
) -> Code {
    on_loop(|world| {
        let Some(Entry::Exchange(exchange)) = world.get(handle) else { return code::STALE };
        observe(world, &exchange.head, status, outcome, bytes);
        world.remove(handle)
    })
}

unsafe extern "C" fn exchange_report(_: InstanceId, record: *const ExchangeRecord) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        tell(world, unsafe { &*record });
        code::READY
    })
}

/// The length that a request's head states for bytes.
pub(super) fn length_of(bytes: &[u8]) -> u64 {
    debug_assert!((bytes.len() as u64) < LENGTH_UNKNOWN);
    bytes.len() as u64
}

unsafe extern "C" fn exchange_interim(_: InstanceId, _: Handle, _: *const ResponseHead) -> Code {
    code::UNSUPPORTED
}

unsafe extern "C" fn exchange_upgrade(_: InstanceId, exchange: Handle, waker: Waker) -> Code {
    on_loop(|world| {
        let Some(Entry::Exchange(exchange)) = world.get(exchange) else { return code::STALE };
        let Some(switch) = &exchange.switch else { return code::UNSUPPORTED };
        match switch.connection.take() {
            0 => {
                *switch.waker.borrow_mut() = Kept::new(waker);
                code::PENDING
            }
            connection => connection as Code,
        }
    })
}

unsafe extern "C" fn exchange_hand_over(_: InstanceId, _: Handle, _: Handle, _: Slice) -> Code {
    code::UNSUPPORTED
}

unsafe extern "C" fn permit_use(_: InstanceId, _: Handle) -> Code {
    code::STALE
}

unsafe extern "C" fn permit_report(_: InstanceId, _: Handle, _: *const ExchangeRecord) -> Code {
    code::STALE
}
