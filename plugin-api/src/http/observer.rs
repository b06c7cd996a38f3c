//! Observers: they hear of every exchange of a site when it has ended.

// Implements the hooks of an observer.
#![allow(unsafe_code)]

use std::{ffi::c_void, marker::PhantomData, net::SocketAddr, str, time::Duration};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, Slice, Table},
    http::{ENDED_COMPLETE, ENDED_FAILED, ExchangeRecord, Observer, ObserverHooks},
};

use crate::{
    address,
    catch::guard,
    error::{Error, Result},
    handle::Owned,
    host::{bytes_of, host},
    register::Registration,
};

/// What an observer is told of an exchange. Text that is not UTF-8 is left out.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The method, as the client wrote it.
    pub method: &'a str,
    /// Host and port, if the client named any.
    pub authority: Option<&'a str>,
    /// The path, as it came.
    pub path: &'a str,
    /// What followed the `?`.
    pub query: Option<&'a str>,
    /// The field `referer`.
    pub referer: Option<&'a str>,
    /// The field `user-agent`.
    pub user_agent: Option<&'a str>,
    /// The instance that answered; `None` if nobody did.
    pub handler: Option<&'a str>,
    /// The client's address; `None` for a Unix socket.
    pub remote: Option<SocketAddr>,
    /// What was sent; 0 if no head was.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// 10, 11 or 20.
    pub version: u32,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    /// From the end of the request's head to the end of the response.
    pub duration: Duration,
    /// The number of the client's connection in the log.
    pub connection: u64,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response went out whole.
    Complete,
    /// The client went away, or the connection failed.
    Aborted,
    /// The handler or its body failed after the head was out.
    Failed,
}

pub(crate) fn add_observer<F: Fn(&Record<'_>) + 'static>(observer: F) -> Result<Registration> {
    let data = Box::into_raw(Box::new(observer));
    let observer = Observer { data: data.cast(), hooks: Table::new(&Hooks::<F>::HOOKS) };
    let host = host();
    // SAFETY: The observer's data is what its hooks expect.
    let code = unsafe { (host.http.observer_add)(host.instance, observer) };
    if code < 0 {
        // SAFETY: The host did not take the observer, so this is the only pointer.
        unsafe { drop(Box::from_raw(data)) };
    }
    let handle = Error::check(code, "cannot add an observer")?;
    Ok(Registration::new(Owned::new(handle as Handle)))
}

struct Hooks<F>(PhantomData<F>);

impl<F: Fn(&Record<'_>) + 'static> Hooks<F> {
    const HOOKS: ObserverHooks =
        ObserverHooks { size: size_of::<ObserverHooks>(), ended: Self::ended, drop: Self::drop };

    unsafe extern "C" fn ended(data: *mut c_void, record: *const ExchangeRecord) -> Code {
        guard(|| {
            // SAFETY: `data` comes from `add_observer` and was not dropped; the record is this hook's argument.
            let (observer, record) = unsafe { (&*data.cast::<F>(), &*record) };
            // SAFETY: The record's slices live as long as it.
            observer(&unsafe { read(record) });
            code::READY
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: The host gives the observer back once.
            unsafe { drop(Box::from_raw(data.cast::<F>())) };
            code::READY
        })
    }
}

/// # Safety
/// `record` must be the argument of the running hook.
unsafe fn read<'a>(record: &'a ExchangeRecord) -> Record<'a> {
    let text = |slice: Slice| {
        // SAFETY: The caller's promise.
        str::from_utf8(unsafe { bytes_of(slice) }).unwrap_or_default()
    };
    let optional = |slice: Slice| (!slice.is_none()).then(|| text(slice));
    Record {
        method: text(record.method),
        authority: optional(record.authority),
        path: text(record.path),
        query: optional(record.query),
        referer: optional(record.referer),
        user_agent: optional(record.user_agent),
        handler: optional(record.handler),
        remote: address::from_abi(&record.remote),
        status: u16::try_from(record.status).unwrap_or_default(),
        outcome: match record.outcome {
            ENDED_COMPLETE => Outcome::Complete,
            ENDED_FAILED => Outcome::Failed,
            _ => Outcome::Aborted,
        },
        version: record.version,
        bytes: record.bytes,
        duration: Duration::from_nanos(record.ended_ns.saturating_sub(record.started_ns)),
        connection: record.connection,
    }
}
