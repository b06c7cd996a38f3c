//! The part of `NetCallbacks` that is about services: how an instance's connections are served, parked and posted to.

use medusa_abi::{
    code::{self, Code},
    data::{Handle, InstanceId, Slice},
    net,
};

use crate::plugin::{
    frame::current,
    generation::Generation,
    owned::Owned,
    serve::{Service, Shape},
};
use std::rc::Rc;

pub(super) unsafe extern "C" fn service_add(id: InstanceId, service: net::Service) -> Code {
    current(id, |generation| {
        // SAFETY: The hooks are valid for the call, says the ABI.
        let Some(hooks) = (unsafe { service.hooks.get() }) else { return code::INVALID };
        add(generation, || {
            (Owned::new(generation, service.data, hooks.drop), Shape::Task(service.hooks))
        })
    })
}

pub(super) unsafe extern "C" fn session_add(id: InstanceId, session: net::Session) -> Code {
    current(id, |generation| {
        // SAFETY: The hooks are valid for the call, says the ABI.
        let Some(hooks) = (unsafe { session.hooks.get() }) else { return code::INVALID };
        add(generation, || {
            (Owned::new(generation, session.data, hooks.drop), Shape::Session(session.hooks))
        })
    })
}

/// Adds the one service of an instance.
fn add(generation: &Rc<Generation>, service: impl FnOnce() -> (Owned, Shape)) -> Code {
    if generation.service.borrow().is_some() {
        tracing::warn!(
            instance = generation.name(),
            "an instance has one service; the second one is refused"
        );
        return code::BUSY;
    }
    if generation.handles.is_closed() {
        return code::GONE;
    }
    let (object, shape) = service();
    let service = Service::new(object, shape);
    match generation.handles.insert(service.clone(), 1) {
        Ok(handle) => {
            *generation.service.borrow_mut() = Some(service);
            generation.instance.stirred();
            Code::try_from(handle).unwrap_or(code::LIMIT)
        }
        Err(code) => {
            service.object.disown();
            code
        }
    }
}

pub(super) unsafe extern "C" fn conn_park(
    id: InstanceId,
    connection: Handle,
    spec: *const net::ParkSpec,
) -> Code {
    current(id, |generation| {
        // SAFETY: The spec is valid for the call, says the ABI.
        let Some(spec) = (unsafe { spec.as_ref() }) else { return code::INVALID };
        match generation.service.borrow().as_ref() {
            Some(service) => service.park(connection, spec),
            None => code::INVALID,
        }
    })
}

pub(super) unsafe extern "C" fn conn_post(
    id: InstanceId,
    connection: Handle,
    bytes: Slice,
) -> Code {
    current(id, |generation| {
        // SAFETY: The slice is valid for the call, says the ABI.
        let Some(bytes) = (unsafe { bytes.get() }) else { return code::INVALID };
        generation
            .service
            .borrow()
            .as_ref()
            .map_or(code::STALE, |service| service.post(connection, bytes))
    })
}
