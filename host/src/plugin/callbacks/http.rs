//! `HttpCallbacks`: for extensions of HTTP, and for servers of it.

use std::{borrow::Cow, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, InstanceId, Slice},
    host::HttpCallbacks,
    http::{
        BodySource, ExchangeRecord, FrameSink, Handler, HeadSink, Observer, ObserverHooks,
        ROUTE_FILTER, ROUTE_HANDLER, RequestHead, ResponseHead, RouteSpec,
    },
    task::Waker,
};

use crate::{
    http::{
        host::HostPattern,
        path,
        route::{RouteKey, RouteKind},
        site::Room,
    },
    net::Connection,
    plugin::{
        body,
        callbacks::{answer, handle, text, with, with_waker},
        exchange::{Exchange, Request, Start, host},
        frame::{current, current_for_others},
        generation::{Generation, Phase},
        owned::Owned,
        permit::Permit,
        route::{Mount, ObserverEntry, Route, Site},
    },
};

/// What a server may have read of a connection that it hands over: more than any reads at once. A constant of the contract
/// (`docs/abi.md`).
const UNREAD_BYTES_MAX: usize = 1 << 20;

pub(super) static CALLBACKS: HttpCallbacks = HttpCallbacks {
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

unsafe extern "C" fn route_add(id: InstanceId, spec: *const RouteSpec, handler: Handler) -> Code {
    // SAFETY: The spec and its slices are valid for the call, says the ABI.
    current(id, |generation| match unsafe { spec.as_ref() } {
        // SAFETY: As above.
        Some(spec) => handle(unsafe { add_route(generation, spec, handler) }),
        None => code::INVALID,
    })
}

/// # Safety
/// The spec's slices and the handler must be valid for the call.
unsafe fn add_route(
    generation: &Rc<Generation>,
    spec: &RouteSpec,
    handler: Handler,
) -> Result<Handle, Code> {
    // SAFETY: The caller's promise, here and below.
    let hooks = unsafe { handler.hooks.get() }.ok_or(code::INVALID)?;
    // SAFETY: As above.
    let (path, order) = (unsafe { text(spec.path) }?, spec.order);
    // SAFETY: As above.
    let host = if spec.host.is_none() { None } else { Some(unsafe { text(spec.host) }?) };
    let kind = match spec.kind {
        ROUTE_HANDLER => RouteKind::Handler,
        ROUTE_FILTER => RouteKind::Filter,
        _ => return Err(code::INVALID),
    };
    let mount = place(generation, kind, &path, host.as_deref())?;
    let order = generation.instance.spec.borrow().order.saturating_add(order);
    let mut room = room(generation)?;
    let object = Owned::new(generation, handler.data, hooks.drop);
    let route = Route::new(object, handler.hooks, mount, order);
    let handle = generation
        .handles
        .insert(route.clone(), routes_max(generation))
        .map_err(|code| not_kept(generation, &route.object, code))?;
    if let Some(room) = &mut room {
        route.mount(room);
    }
    Ok(handle)
}

/// Room for one more, if it is to be mounted at once: before the switch it is counted with all others.
fn room(generation: &Generation) -> Result<Option<Room>, Code> {
    if generation.phase.get() != Phase::Running {
        return Ok(None);
    }
    let room = generation.instance.registry.sites.room(1, 0);
    room.map(Some).map_err(|_| generation.limited("http_routes_max"))
}

/// Leaves an object that finds no place in the table to the plugin.
fn not_kept(generation: &Generation, object: &Owned, code: Code) -> Code {
    object.disown();
    if code == code::LIMIT { generation.limited("http_routes_max") } else { code }
}

fn routes_max(generation: &Generation) -> u64 {
    generation.instance.registry.sites.routes_max() as u64
}

/// Where a route of the plugin's ends up, with what the configuration says of its instance. If that cannot be, the log has
/// the reason.
fn place(
    generation: &Generation,
    kind: RouteKind,
    path: &str,
    host: Option<&str>,
) -> Result<Mount, Code> {
    let key = key(generation, kind, path, host).map_err(|reason| {
        let (instance, kind) = (generation.name(), kind.as_str());
        tracing::warn!(instance, path, "the {kind} cannot be mounted: {reason}");
        code::INVALID
    })?;
    Ok(Mount::new(site(generation), key))
}

fn key(
    generation: &Generation,
    kind: RouteKind,
    path: &str,
    host: Option<&str>,
) -> Result<RouteKey, String> {
    let spec = generation.instance.spec.borrow().clone();
    let pattern =
        |host: Option<&str>| HostPattern::parse(host.unwrap_or("*")).map_err(|error| error.0);
    let (outer, inner) = (pattern(spec.host.as_deref())?, pattern(host)?);
    let host = outer
        .narrow(&inner)
        .ok_or("its host is outside of the one that the instance is configured for")?;
    let whole = path::join(spec.path.as_deref().unwrap_or("/"), path);
    let path = path::mount_point(&whole).map_err(|error| error.to_string())?;
    let mut key =
        RouteKey { instance: generation.name().into(), kind, host, path: path.into(), index: 0 };
    key.index = free_index(generation, &key);
    Ok(key)
}

/// The first index that nothing else of the generation has at the same place.
fn free_index(generation: &Generation, key: &RouteKey) -> u32 {
    let mut used: Vec<u32> = Vec::new();
    let mut note = |other: &RouteKey| {
        if (RouteKey { index: key.index, ..other.clone() }) == *key {
            used.push(other.index);
        }
    };
    generation.handles.all::<Route>().iter().for_each(|(_, route)| note(&route.mount.key));
    let observers = generation.handles.all::<ObserverEntry>();
    observers.iter().for_each(|(_, observer)| note(&observer.mount.key));
    used.sort_unstable();
    used.iter()
        .zip(0..)
        .find(|(used, free)| *used != free)
        .map_or(used.len() as u32, |(_, free)| free)
}

/// The site that an extension extends, which is its own if it is a server of HTTP itself.
fn site(generation: &Generation) -> Rc<Site> {
    let spec = generation.instance.spec.borrow();
    generation
        .instance
        .registry
        .sites
        .site(spec.attach.as_deref().unwrap_or(&generation.instance.name))
}

unsafe extern "C" fn observer_add(id: InstanceId, observer: Observer) -> Code {
    current(id, |generation| {
        // SAFETY: The hooks are valid for the call, says the ABI.
        let Some(hooks) = (unsafe { observer.hooks.get() }) else { return code::INVALID };
        handle(add_observer(generation, observer, hooks))
    })
}

/// An observer hears of what its instance is configured for: its `host` and `path` narrow it.
fn add_observer(
    generation: &Rc<Generation>,
    observer: Observer,
    hooks: &ObserverHooks,
) -> Result<Handle, Code> {
    let mount = place(generation, RouteKind::Observer, "/", None)?;
    let mut room = room(generation)?;
    let object = Owned::new(generation, observer.data, hooks.drop);
    let entry = ObserverEntry::new(object, observer.hooks, mount);
    let handle = generation
        .handles
        .insert(entry.clone(), routes_max(generation))
        .map_err(|code| not_kept(generation, &entry.object, code))?;
    if let Some(room) = &mut room {
        entry.mount(room);
    }
    Ok(handle)
}

unsafe extern "C" fn exchange_respond(
    id: InstanceId,
    exchange: Handle,
    head: *const ResponseHead,
) -> Code {
    current(id, |generation| {
        // SAFETY: The head is valid for the call, says the ABI.
        let Some(head) = (unsafe { head.as_ref() }) else { return code::INVALID };
        answer(
            generation
                .handles
                .get::<Request>(exchange)
                .map(|request| request.respond(generation, head)),
        )
    })
}

unsafe extern "C" fn request_pull(
    id: InstanceId,
    exchange: Handle,
    sink: FrameSink,
    waker: Waker,
) -> Code {
    current_for_others(id, "request_pull", |generation| {
        match generation.handles.get::<Request>(exchange) {
            // SAFETY: The waker is as the ABI says.
            Ok(request) => unsafe {
                with_waker(generation, waker, |waker| request.pull(generation, sink, waker))
            },
            Err(code) => code,
        }
    })
}

unsafe extern "C" fn exchange_next(
    id: InstanceId,
    exchange: Handle,
    head: *const RequestHead,
    body: BodySource,
    sink: HeadSink,
    waker: Waker,
) -> Code {
    current_for_others(id, "exchange_next", |generation| {
        // SAFETY: The head is valid for the call, says the ABI.
        let Some(head) = (unsafe { head.as_ref() }).filter(|head| is_sound(head)) else {
            return code::INVALID;
        };
        let request = match generation.handles.get::<Request>(exchange) {
            Ok(request) => request,
            Err(code) => return code,
        };
        with_start(head, body, sink, |start| {
            // SAFETY: The waker is as the ABI says.
            unsafe {
                with_waker(generation, waker, |waker| {
                    handle(request.next(generation, start, waker))
                })
            }
        })
    })
}

unsafe extern "C" fn exchange_start(
    id: InstanceId,
    head: *const RequestHead,
    body: BodySource,
    sink: HeadSink,
    waker: Waker,
) -> Code {
    current_for_others(id, "exchange_start", |generation| {
        // SAFETY: The head is valid for the call, says the ABI.
        let Some(head) = (unsafe { head.as_ref() }).filter(|head| is_sound(head)) else {
            return code::INVALID;
        };
        generation.count_request();
        let site = generation.instance.registry.sites.site(generation.name());
        with_start(head, body, sink, |start| {
            // SAFETY: The waker is as the ABI says.
            unsafe {
                with_waker(generation, waker, |waker| {
                    handle(Exchange::start(generation, &site, start, waker))
                })
            }
        })
    })
}

/// Calls `begin` with a sound head whose path is brought into normal form; `INVALID` if it has none.
fn with_start(
    head: &RequestHead,
    body: BodySource,
    sink: HeadSink,
    begin: impl FnOnce(Start<'_>) -> Code,
) -> Code {
    // SAFETY: `is_sound` has looked at every slice.
    let path_sent = unsafe { head.path.get() }.unwrap_or_default();
    let Ok(path) = normal(path_sent) else { return code::INVALID };
    let head = RequestHead { path: Slice::new(path.as_bytes()), ..*head };
    begin(Start { head: &head, path: &path, path_sent, host: host(&head), body, sink })
}

/// The path in normal form; `*`, which `OPTIONS` may ask for, stands for the root.
fn normal(path: &[u8]) -> Result<Cow<'_, str>, path::PathError> {
    if path == b"*" { Ok(Cow::Borrowed("/")) } else { path::normalize(path) }
}

fn is_sound(head: &RequestHead) -> bool {
    // SAFETY: Only null and length are looked at.
    let sound = |slice: Slice| unsafe { slice.get() }.is_some();
    [head.method, head.scheme, head.authority, head.path, head.query].into_iter().all(sound)
        // SAFETY: The head is valid for the call that is under way.
        && unsafe { body::fields(head.fields, head.field_count) }.is_some()
}

unsafe extern "C" fn exchange_poll(
    id: InstanceId,
    exchange: Handle,
    sink: HeadSink,
    waker: Waker,
) -> Code {
    current_for_others(id, "exchange_poll", |generation| {
        match generation.handles.get::<Exchange>(exchange) {
            // SAFETY: The waker is as the ABI says.
            Ok(exchange) => unsafe {
                with_waker(generation, waker, |waker| exchange.poll(sink, waker))
            },
            Err(code) => code,
        }
    })
}

unsafe extern "C" fn exchange_pull(
    id: InstanceId,
    exchange: Handle,
    sink: FrameSink,
    waker: Waker,
) -> Code {
    current_for_others(id, "exchange_pull", |generation| {
        match generation.handles.get::<Exchange>(exchange) {
            // SAFETY: The waker is as the ABI says.
            Ok(exchange) => unsafe {
                with_waker(generation, waker, |waker| exchange.pull(generation, sink, waker))
            },
            Err(code) => code,
        }
    })
}

unsafe extern "C" fn exchange_end(
    id: InstanceId,
    exchange: Handle,
    status: u32,
    outcome: u32,
    bytes: u64,
) -> Code {
    current(id, |generation| {
        answer(generation.handles.get::<Exchange>(exchange).map(|ended| {
            let _ = generation.handles.remove(exchange);
            ended.end(status, outcome, bytes);
            code::READY
        }))
    })
}

unsafe extern "C" fn exchange_report(id: InstanceId, record: *const ExchangeRecord) -> Code {
    current(id, |generation| {
        // SAFETY: The record is valid for the call, says the ABI.
        let Some(record) = (unsafe { record.as_ref() }) else { return code::INVALID };
        let record = ExchangeRecord { handler: Slice::NONE, ..*record };
        // SAFETY: The record is valid for the call; the text of a request that made no sense may make none either.
        let text =
            |slice: Slice| unsafe { slice.get() }.and_then(|it| std::str::from_utf8(it).ok());
        // SAFETY: As above.
        let path = unsafe { record.path.get() }.and_then(|path| normal(path).ok());
        let site = generation.instance.registry.sites.site(generation.name());
        for observer in site.observers(text(record.authority), path.as_deref().unwrap_or("/")) {
            observer.handler.ended(&record);
        }
        code::READY
    })
}

/// No server of HTTP sends interim responses on yet; the place is kept for it.
unsafe extern "C" fn exchange_interim(
    id: InstanceId,
    exchange: Handle,
    _head: *const ResponseHead,
) -> Code {
    with::<Request, _>(id, exchange, |_, _| code::UNSUPPORTED)
}

unsafe extern "C" fn exchange_upgrade(id: InstanceId, exchange: Handle, waker: Waker) -> Code {
    with::<Request, _>(id, exchange, |generation, request| {
        // SAFETY: The waker is as the ABI says.
        unsafe { with_waker(generation, waker, |waker| request.switched(waker)) }
    })
}

unsafe extern "C" fn exchange_hand_over(
    id: InstanceId,
    exchange: Handle,
    connection: Handle,
    unread: Slice,
) -> Code {
    with::<Exchange, _>(id, exchange, |generation, exchange| {
        // SAFETY: The slice is valid for the call, says the ABI.
        let unread = unsafe { unread.get() }.filter(|unread| unread.len() <= UNREAD_BYTES_MAX);
        let Some(unread) = unread else { return code::INVALID };
        answer(hand_over(generation, exchange, connection, unread).map(|()| code::READY))
    })
}

/// Passes a connection of the server's on. What the server has of it is dropped, and so is its session's turn.
fn hand_over(
    generation: &Rc<Generation>,
    exchange: &Exchange,
    handle: Handle,
    unread: &[u8],
) -> Result<(), Code> {
    let connection: Rc<Connection> = generation.handles.get(handle)?;
    exchange.hand_over(&connection, unread)?;
    let _ = generation.handles.remove(handle);
    let service = generation.service.borrow().clone();
    if let Some(sessions) = service.as_ref().and_then(|service| service.sessions()) {
        sessions.let_go(handle);
    }
    Ok(())
}

unsafe extern "C" fn permit_use(id: InstanceId, permit: Handle) -> Code {
    with::<Permit, _>(id, permit, |generation, permit| permit.use_once(generation))
}

unsafe extern "C" fn permit_report(
    id: InstanceId,
    permit: Handle,
    record: *const ExchangeRecord,
) -> Code {
    with::<Permit, _>(id, permit, |_, permit| {
        // SAFETY: The record is valid for the call, says the ABI.
        let Some(record) = (unsafe { record.as_ref() }) else { return code::INVALID };
        permit.report(record);
        code::READY
    })
}
