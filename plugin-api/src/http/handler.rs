//! Handlers: from a request to a response, as the host calls them.

// Implements the hooks of a handler, and answers exchanges.
#![allow(unsafe_code)]

use std::{ffi::c_void, future::Future, marker::PhantomData, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    http::{
        BODY_BYTES, BODY_EMPTY, BODY_EXCHANGE, BODY_FILE, BODY_SOURCE, BodySource, Handler,
        HandlerHooks, LENGTH_UNKNOWN, ROUTE_HANDLER, RequestHead, ResponseHead, RouteSpec,
    },
    task::Task,
};

use crate::{
    catch::guard,
    error::{Error, Result},
    handle::Owned,
    host::{fail, host},
    http::{
        Body, Request, Response, Route,
        body::Inner,
        fields::{self, FieldList},
        permit,
        response::is_pass,
        switch,
    },
    register::Registration,
    source,
    task::into_task,
};

pub(crate) fn add_handler<F, Fut>(route: &Route, handler: F) -> Result<Registration>
where
    F: Fn(Request) -> Fut + 'static,
    Fut: Future<Output = Result<Response>> + 'static,
{
    add_route(route, ROUTE_HANDLER, handler)
}

/// Mounts `call` as a handler or as a filter.
pub(crate) fn add_route<F, Fut>(route: &Route, kind: u32, call: F) -> Result<Registration>
where
    F: Fn(Request) -> Fut + 'static,
    Fut: Future<Output = Result<Response>> + 'static,
{
    let spec = RouteSpec {
        kind,
        order: route.order,
        path: Slice::new(route.path.as_bytes()),
        host: route.host.as_ref().map_or(Slice::NONE, |host| Slice::new(host.as_bytes())),
        spare: [0; 2],
    };
    let data = Rc::into_raw(Rc::new(call));
    let handler =
        Handler { data: data.cast_mut().cast(), hooks: Table::new(&Hooks::<F, Fut>::HOOKS) };
    let host = host();
    // SAFETY: The spec is borrowed for the call, the handler's data is what its hooks expect.
    let code = unsafe { (host.http.route_add)(host.instance, &spec, handler) };
    if code < 0 {
        // SAFETY: The host did not take the handler, so this is the only pointer.
        unsafe { drop(Rc::from_raw(data)) };
    }
    let handle = Error::check(code, &format!("cannot mount at {}", route.path))?;
    Ok(Registration::new(Owned::new(handle as Handle)))
}

/// Answers `exchange`, and goes on with its connection if the answer is to do so.
fn answer(exchange: Handle, mut response: Response, takes_switch: bool) -> Code {
    let Some(serve) = switch::detach(&mut response) else { return respond(exchange, response) };
    if !takes_switch {
        return fail("the protocol cannot be switched here: ask `Request::takes_switch` before");
    }
    let code = respond(exchange, response);
    if code >= 0 {
        switch::go_on(exchange, serve);
    }
    code
}

/// Answers `exchange`. A whole body goes with the head, in one call.
pub(crate) fn respond(exchange: Handle, mut response: Response) -> Code {
    let permit = permit::detach(&mut response);
    let (parts, body) = response.into_parts();
    let fields: FieldList = fields::lend(&parts.headers);
    let mut head = ResponseHead {
        status: parts.status.as_u16().into(),
        body: BODY_EMPTY,
        fields: fields.as_ptr(),
        field_count: fields.len(),
        length: 0,
        bytes: Slice::NONE,
        source: BodySource::NONE,
        file: 0,
        offset: 0,
        exchange: 0,
        permit: std::ptr::null(),
        permit_handle: 0,
        spare: [0; 4],
    };
    let names = permit.as_deref().map(permit::names).unwrap_or_default();
    let permit = permit.map(|permit| permit::lend(permit, &names));
    if let Some(permit) = &permit {
        head.permit = permit;
    }
    let host = host();
    let send = |head: &ResponseHead| {
        // SAFETY: All that the head points at is alive during the call.
        let code = unsafe { (host.http.exchange_respond)(host.instance, exchange, head) };
        if let Some(permit) = permit.as_ref().filter(|_| code < 0) {
            permit::drop_lent(permit);
        }
        code
    };
    let length = body.length().unwrap_or(LENGTH_UNKNOWN);
    match body.into_inner() {
        Inner::Empty => send(&head),
        Inner::Full(bytes) => {
            head.body = BODY_BYTES;
            head.bytes = Slice::new(&bytes);
            head.length = bytes.len() as u64;
            send(&head)
        }
        Inner::File(body) => {
            let file = body.file.into_owned();
            head.body = BODY_FILE;
            head.file = file.get();
            head.offset = body.offset;
            head.length = body.left;
            let code = send(&head);
            if code >= 0 {
                file.into_raw();
            }
            code
        }
        Inner::Exchange(body, owner) if !body.is_touched() => {
            head.body = BODY_EXCHANGE;
            head.exchange = owner.get();
            head.length = length;
            let code = send(&head);
            if code >= 0 {
                owner.into_raw();
            }
            code
        }
        inner => {
            head.body = BODY_SOURCE;
            head.length = length;
            head.source = source::into_source(Body::from_inner(inner));
            let code = send(&head);
            if code < 0 {
                source::drop_source(head.source);
            }
            code
        }
    }
}

struct Hooks<F, Fut>(PhantomData<(F, Fut)>);

impl<F, Fut> Hooks<F, Fut>
where
    F: Fn(Request) -> Fut + 'static,
    Fut: Future<Output = Result<Response>> + 'static,
{
    const HOOKS: HandlerHooks =
        HandlerHooks { size: size_of::<HandlerHooks>(), call: Self::call, drop: Self::drop };

    unsafe extern "C" fn call(
        data: *mut c_void,
        exchange: Handle,
        head: *const RequestHead,
        out: *mut Task,
    ) -> Code {
        guard(|| {
            // SAFETY: `data` comes from `add_route` and was not dropped; this is one more owner of it.
            let handler = unsafe {
                Rc::increment_strong_count(data.cast::<F>());
                Rc::from_raw(data.cast::<F>())
            };
            // SAFETY: `head` is this hook's argument.
            let Some(request) = (unsafe { Request::copy(exchange, &*head) }) else {
                return code::LIMIT;
            };
            let takes_switch = request.takes_switch();
            let task = into_task(async move {
                match handler(request).await {
                    Ok(response) if is_pass(&response) => code::PASS,
                    Ok(response) => match answer(exchange, response, takes_switch) {
                        // To the server, this would mean that the request makes no sense.
                        code::INVALID => {
                            fail("the host refused the response, which makes no sense to it")
                        }
                        code if code < 0 => code,
                        _ => code::READY,
                    },
                    Err(error) => fail(&error.to_string()),
                }
            });
            // SAFETY: `out` is this hook's argument, to be written to.
            unsafe { out.write(task) };
            code::READY
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: The host's own share of the handler, given back once.
            unsafe { drop(Rc::from_raw(data.cast::<F>())) };
            code::READY
        })
    }
}
