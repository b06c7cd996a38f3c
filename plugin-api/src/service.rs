//! Services between instances: a request in, any number of replies out, as CBOR with a version.

// Implements the hooks of a responder, and calls others.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    future::{Future, poll_fn},
    marker::PhantomData,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    service::{CallSpec, Responder, ResponderHooks},
    task::Task,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    catch::guard,
    error::{Error, IS_A_WORD, Result, io_error},
    handle::Owned,
    host::{bytes_of, fail, host, vec_sink},
    register::Registration,
    task::into_task,
    time::Instant,
    waker,
};

/// Calls the service `service` of the instance `target` (`None`: whichever offers it), in `version`. Dropping the call
/// cancels it. Needs the capability `services`; the host's own service `medusa.status`, which has no target, needs `status`.
///
/// # Errors
/// `NotFound` when nobody offers it, `WouldBlock` when the other has too much to do, `PermissionDenied` without the
/// capability.
pub fn call<Q: Serialize>(
    target: Option<&str>,
    service: &str,
    version: u32,
    request: &Q,
) -> Result<Call> {
    call_within(target, service, version, request, None)
}

/// As [`call`], with a time after which it is cancelled and fails with `TimedOut`.
///
/// # Errors
/// As [`call`].
pub fn call_within<Q: Serialize>(
    target: Option<&str>,
    service: &str,
    version: u32,
    request: &Q,
    patience: Option<Duration>,
) -> Result<Call> {
    let payload = to_cbor(request)?;
    let spec = CallSpec {
        target: target.map_or(Slice::NONE, |target| Slice::new(target.as_bytes())),
        service: Slice::new(service.as_bytes()),
        version,
        flags: 0,
        payload: Slice::new(&payload),
        deadline_ns: patience.map_or(0, |patience| (Instant::now() + patience).as_ns()),
        spare: [0; 2],
    };
    let host = host();
    // SAFETY: The spec is borrowed for the call.
    let code = unsafe { (host.offer.call_start)(host.instance, &spec) };
    let call = Error::check(code, &format!("cannot call the service {service}"))?;
    Ok(Call(Owned::new(call as Handle)))
}

/// A call of another instance's service, and its replies.
#[derive(Debug)]
#[must_use = "dropping a call cancels it"]
pub struct Call(Owned);

impl Call {
    /// The next reply; `None` after the last.
    ///
    /// # Errors
    /// `BrokenPipe` when the instance goes, `TimedOut` after the deadline; when the service failed or panicked; and for a
    /// reply that is no `R`.
    pub async fn next<R: DeserializeOwned>(&mut self) -> Result<Option<R>> {
        let mut reply = Vec::new();
        let code = poll_fn(|context| {
            reply.clear();
            let host = host();
            let waker = waker::for_call(context);
            // SAFETY: The sink is ours and lives during the call, as does the waker.
            match unsafe {
                (host.offer.call_next)(host.instance, self.0.get(), vec_sink(&mut reply), waker)
            } {
                code::PENDING => Poll::Pending,
                code => Poll::Ready(code),
            }
        })
        .await;
        if code == code::END {
            return Ok(None);
        }
        Error::check(code, "the service did not answer")?;
        from_cbor(&reply).map(Some)
    }

    /// The only reply of a service that gives one.
    ///
    /// # Errors
    /// As [`next`](Call::next), and when there is none.
    pub async fn reply<R: DeserializeOwned>(mut self) -> Result<R> {
        self.next().await?.ok_or_else(|| Error::new("the service ended without a reply"))
    }
}

/// Where a responder's replies go.
#[derive(Debug)]
pub struct Replies<R> {
    call: Handle,
    caller: String,
    deadline: Option<Instant>,
    reply: PhantomData<fn(R)>,
}

impl<R: Serialize> Replies<R> {
    /// Sends a reply; waits while the caller has enough unread ones.
    ///
    /// # Errors
    /// When the caller is gone.
    pub async fn send(&self, value: &R) -> Result<()> {
        let payload = to_cbor(value)?;
        let code = reply(self.call, &payload).await;
        if code < 0 { Err(Error::from(io_error(code)).context("cannot reply")) } else { Ok(()) }
    }

    /// The name of the instance that calls.
    #[must_use]
    pub fn caller(&self) -> &str {
        &self.caller
    }

    /// When the caller stops waiting; `None` for never.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

pub(crate) fn add_responder<Q, R, F, Fut>(
    service: &str,
    version: u32,
    handler: F,
) -> Result<Registration>
where
    Q: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Fn(Q, Replies<R>) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    let data = Rc::into_raw(Rc::new(handler));
    let hooks = Table::new(&Hooks::<Q, R, F, Fut>::HOOKS);
    let responder = Responder { data: data.cast_mut().cast(), hooks };
    let host = host();
    // SAFETY: The name is borrowed for the call, the responder's data is what its hooks expect.
    let code = unsafe {
        let name = Slice::new(service.as_bytes());
        (host.offer.responder_add)(host.instance, name, version, responder)
    };
    if code < 0 {
        // SAFETY: The host did not take the responder, so this is the only pointer.
        unsafe { drop(Rc::from_raw(data)) };
    }
    let rule = format!("{IS_A_WORD}; what begins with `medusa.` is the host's");
    let handle = Error::check_named(code, &format!("cannot offer the service {service}"), &rule)?;
    Ok(Registration::new(Owned::new(handle as Handle)))
}

/// Answers one piece of a call or of a monitor command, with patience for a slow reader.
pub(crate) async fn reply(call: Handle, payload: &[u8]) -> Code {
    poll_fn(|context| {
        let host = host();
        let waker = waker::for_call(context);
        // SAFETY: Payload and waker are borrowed for the call.
        match unsafe { (host.offer.reply)(host.instance, call, Slice::new(payload), waker) } {
            code::PENDING => Poll::Pending,
            code => Poll::Ready(code),
        }
    })
    .await
}

pub(crate) fn to_cbor<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes)
        .map_err(|error| Error::new(format!("a value cannot be written as CBOR: {error}")))?;
    Ok(bytes)
}

pub(crate) fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    ciborium::from_reader(bytes)
        .map_err(|error| Error::new(format!("the CBOR is not what was expected: {error}")))
}

type HooksOf<Q, R, F, Fut> = PhantomData<(fn(Q) -> R, F, Fut)>;

struct Hooks<Q, R, F, Fut>(HooksOf<Q, R, F, Fut>);

impl<Q, R, F, Fut> Hooks<Q, R, F, Fut>
where
    Q: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: Fn(Q, Replies<R>) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    const HOOKS: ResponderHooks =
        ResponderHooks { size: size_of::<ResponderHooks>(), call: Self::call, drop: Self::drop };

    unsafe extern "C" fn call(
        data: *mut c_void,
        call: Handle,
        caller: Slice,
        payload: Slice,
        deadline_ns: u64,
        out: *mut Task,
    ) -> Code {
        guard(|| {
            // SAFETY: `data` comes from `add_responder` and was not dropped; this is one more owner of it.
            let handler = unsafe {
                Rc::increment_strong_count(data.cast::<F>());
                Rc::from_raw(data.cast::<F>())
            };
            // SAFETY: The slices are this hook's arguments.
            let (caller, payload) = unsafe { (bytes_of(caller), bytes_of(payload)) };
            let request = match from_cbor::<Q>(payload) {
                Ok(request) => request,
                Err(error) => {
                    return fail(&error.context("the request is not understood").to_string());
                }
            };
            let replies = Replies {
                call,
                caller: String::from_utf8_lossy(caller).into_owned(),
                deadline: (deadline_ns != 0).then(|| Instant::from_ns(deadline_ns)),
                reply: PhantomData,
            };
            let task = into_task(async move {
                match handler(request, replies).await {
                    Ok(()) => code::READY,
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
            // SAFETY: The host's own share of the responder, given back once.
            unsafe { drop(Rc::from_raw(data.cast::<F>())) };
            code::READY
        })
    }
}
