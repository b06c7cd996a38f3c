//! `OfferCallbacks`: commands, metrics and services.

use std::rc::Rc;

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Handle, InstanceId, Slice},
    host::OfferCallbacks,
    service::{CallSpec, Command, CommandSpec, METRIC_GAUGE, MetricSpec, ROLE_ADMIN, Responder},
    task::Waker,
};

use crate::plugin::{
    callbacks::{answer, handle, text, with_waker},
    frame::{current, current_for_others},
    generation::Generation,
    manifest::Capability,
    offer::{Call, CommandEntry, IncomingCall, Metric, ResponderEntry},
    own,
    owned::Owned,
    sink,
};

pub(super) static CALLBACKS: OfferCallbacks = OfferCallbacks {
    size: size_of::<OfferCallbacks>(),
    command_add,
    metric_add,
    responder_add,
    reply,
    call_start,
    call_next,
};

/// What a call that offers something answers.
fn offered(generation: &Generation, made: Result<Handle, Code>) -> Code {
    match made {
        Err(code::LIMIT) => generation.limited("offers_per_instance_max"),
        made => handle(made),
    }
}

/// The plugin has registered something of that name already.
const TAKEN: Code = code::from_errno(libc::EEXIST);

unsafe extern "C" fn command_add(
    id: InstanceId,
    spec: *const CommandSpec,
    command: Command,
) -> Code {
    current(id, |generation| {
        // SAFETY: Spec and hooks are valid for the call, says the ABI.
        let (Some(spec), Some(hooks)) = (unsafe { spec.as_ref() }, unsafe { command.hooks.get() })
        else {
            return code::INVALID;
        };
        // SAFETY: So are the slices.
        let texts = unsafe { (text(spec.name), text(spec.usage), text(spec.summary)) };
        let (Ok(name), Ok(usage), Ok(summary)) = texts else { return code::INVALID };
        if !is_word(&name) || spec.role > ROLE_ADMIN {
            return code::INVALID;
        }
        if generation.commands.borrow().iter().any(|it| it.name == name) {
            return TAKEN;
        }
        let object = Owned::new(generation, command.data, hooks.drop);
        let entry = Rc::new(CommandEntry {
            object,
            hooks: command.hooks,
            name,
            usage,
            summary,
            role: spec.role,
        });
        let max = generation.limits.offers_per_instance_max;
        let made = generation.handles.insert(entry.clone(), max);
        match made {
            Ok(_) => generation.commands.borrow_mut().push(entry),
            Err(_) => entry.object.disown(),
        }
        handle(made)
    })
}

unsafe extern "C" fn metric_add(
    id: InstanceId,
    spec: *const MetricSpec,
    out: *mut *mut u64,
) -> Code {
    current(id, |generation| {
        // SAFETY: Spec and out are valid for the call, says the ABI.
        let (Some(spec), Some(out)) = (unsafe { spec.as_ref() }, unsafe { out.as_mut() }) else {
            return code::INVALID;
        };
        // SAFETY: So are the slices.
        let (Ok(name), Ok(help)) = (unsafe { (text(spec.name), text(spec.help)) }) else {
            return code::INVALID;
        };
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || spec.kind > METRIC_GAUGE {
            return code::INVALID;
        }
        if generation.handles.all::<Metric>().iter().any(|(_, it)| it.name == name) {
            return TAKEN;
        }
        let metric = Rc::new(Metric::new(name, help, spec.kind));
        *out = metric.word();
        let max = generation.limits.offers_per_instance_max;
        offered(generation, generation.handles.insert(metric, max))
    })
}

unsafe extern "C" fn responder_add(
    id: InstanceId,
    service: Slice,
    version: u32,
    responder: Responder,
) -> Code {
    current(id, |generation| {
        if !generation.may(Capability::Services) {
            return code::DENIED;
        }
        // SAFETY: Slice and hooks are valid for the call, says the ABI.
        let (Ok(service), Some(hooks)) =
            (unsafe { text(service) }, unsafe { responder.hooks.get() })
        else {
            return code::INVALID;
        };
        if !is_word(&service) || service.starts_with(own::PREFIX) {
            return code::INVALID;
        }
        if generation.responders.borrow().iter().any(|it| it.service == service) {
            return TAKEN;
        }
        let object = Owned::new(generation, responder.data, hooks.drop);
        let entry = Rc::new(ResponderEntry { object, hooks: responder.hooks, service, version });
        let max = generation.limits.offers_per_instance_max;
        let made = generation.handles.insert(entry.clone(), max);
        match made {
            Ok(_) => generation.responders.borrow_mut().push(entry),
            Err(_) => entry.object.disown(),
        }
        handle(made)
    })
}

unsafe extern "C" fn reply(id: InstanceId, call: Handle, payload: Slice, waker: Waker) -> Code {
    current(id, |generation| {
        // SAFETY: The slice is valid for the call, says the ABI.
        let Some(payload) = (unsafe { payload.get() }) else { return code::INVALID };
        if payload.len() as u64 > generation.limits.service_message_bytes_max {
            return generation.limited("service_message_bytes_max");
        }
        match generation.handles.get::<IncomingCall>(call) {
            // SAFETY: The waker is as the ABI says.
            Ok(call) => unsafe {
                with_waker(generation, waker, |waker| call.reply(payload, waker))
            },
            Err(code) => code,
        }
    })
}

unsafe extern "C" fn call_start(id: InstanceId, spec: *const CallSpec) -> Code {
    current(id, |generation| {
        // SAFETY: The spec is valid for the call, says the ABI.
        match unsafe { spec.as_ref() } {
            // SAFETY: So are its slices.
            Some(spec) => handle(unsafe { call(generation, spec) }),
            None => code::INVALID,
        }
    })
}

/// # Safety
/// The spec's slices must be valid for the call.
unsafe fn call(generation: &Rc<Generation>, spec: &CallSpec) -> Result<Handle, Code> {
    // SAFETY: The caller's promise, here and below.
    let target = if spec.target.is_none() { None } else { Some(unsafe { text(spec.target) }?) };
    // SAFETY: As above.
    let service = unsafe { text(spec.service) }?;
    // SAFETY: As above.
    let payload = unsafe { spec.payload.get() }.ok_or(code::INVALID)?;
    if payload.len() as u64 > generation.limits.service_message_bytes_max {
        return Err(generation.limited("service_message_bytes_max"));
    }
    let registry = &generation.instance.registry;
    let own = if target.is_none() { registry.own_service(&service) } else { None };
    if !generation.may(own.map_or(Capability::Services, |own| own.capability)) {
        return Err(code::DENIED);
    }
    let call = if let Some(own) = own {
        check_version(generation, &service, own.version, spec.version)?;
        Call::of_host((own.answer)())
    } else {
        let responder = registry.responder(target.as_deref(), &service).ok_or(code::NOT_FOUND)?;
        check_version(generation, &service, responder.version, spec.version)?;
        responder.call(generation.name(), payload, spec.deadline_ns)?
    };
    generation.handles.insert(Rc::new(call), generation.limits.service_queue_max)
}

fn check_version(
    generation: &Generation,
    service: &str,
    offered: u32,
    asked: u32,
) -> Result<(), Code> {
    if offered == asked {
        return Ok(());
    }
    tracing::warn!(
        instance = generation.name(),
        service,
        offered,
        asked,
        "a service is offered in another version than is asked for"
    );
    Err(code::UNSUPPORTED)
}

unsafe extern "C" fn call_next(id: InstanceId, call: Handle, to: ByteSink, waker: Waker) -> Code {
    current_for_others(id, "call_next", |generation| {
        let call = match generation.handles.get::<Call>(call) {
            Ok(call) => call,
            Err(code) => return code,
        };
        // SAFETY: Waker and sink are as the ABI says.
        unsafe {
            with_waker(generation, waker, |waker| {
                answer(call.next(waker).map(|piece| match sink::write_to(to, &piece) {
                    code if code < 0 => code,
                    _ => code::READY,
                }))
            })
        }
    })
}

/// Whether a name can be typed as one word.
fn is_word(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
