//! Permits: leave to give a response again without asking its handler.

// Implements the hooks of a permit.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use medusa_abi::{
    code::{self, Code},
    data::{Slice, Table},
    http::{Permit as AbiPermit, PermitHooks},
};

use crate::{
    catch::guard,
    http::Response,
    local::{LoopCell, Resident, Slab},
};

/// Leave to give a response again for the same method GET, host, path and query, without asking the handler.
///
/// It is good while `check` says so, until the site's routes change or the plugin goes; the server need make no use of it, and makes none
/// where a filter stands before the handler. See [`ResponseExt::reusable`](crate::ResponseExt::reusable).
pub struct Permit {
    check: Box<dyn Fn() -> bool>,
    check_every: Duration,
    depends_on: &'static [&'static str],
}

/// What travels with a response: it can be sent, where what it stands for stays.
#[derive(Clone)]
struct Attached(Arc<Mutex<Option<Resident<Permit>>>>);

static PERMITS: LoopCell<Slab<Permit>> = LoopCell::new(Slab::new());

impl Permit {
    /// A permit that is good as long as `check` answers true. That is asked once a second at the most, and must not wait.
    pub fn new(check: impl Fn() -> bool + 'static) -> Permit {
        Permit { check: Box::new(check), check_every: Duration::from_secs(1), depends_on: &[] }
    }

    /// How long an answer of `check` is good for; zero to be asked before each use.
    #[must_use]
    pub fn check_every(mut self, duration: Duration) -> Permit {
        self.check_every = duration;
        self
    }

    /// The names of the request's fields that the response depends on, in lower case. A request in which one of them is another, or is
    /// there where it was not, is not given this response.
    #[must_use]
    pub fn depends_on(mut self, fields: &'static [&'static str]) -> Permit {
        self.depends_on = fields;
        self
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit")
            .field("check_every", &self.check_every)
            .field("depends_on", &self.depends_on)
            .finish_non_exhaustive()
    }
}

/// Drops the permits of responses that were never given.
pub(crate) fn clear_permits() {
    if let Some(permits) = PERMITS.get() {
        permits.clear();
    }
}

/// Has `response` carry a permit, in place of any that it has.
pub(crate) fn attach(response: &mut Response, permit: Permit) {
    let resident = Resident::new(&PERMITS, permit);
    response.extensions_mut().insert(Attached(Arc::new(Mutex::new(resident))));
}

/// Takes the permit out of a response.
pub(crate) fn detach(response: &mut Response) -> Option<Box<Permit>> {
    let attached = response.extensions_mut().remove::<Attached>()?;
    let resident = attached.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    resident.into_inner().map(Box::new)
}

/// The permit as the ABI has it, and the names that it lends, which must outlive the call.
pub(crate) fn lend(permit: Box<Permit>, names: &[Slice]) -> AbiPermit {
    AbiPermit {
        check_ms: u32::try_from(permit.check_every.as_millis()).unwrap_or(u32::MAX),
        flags: 0,
        fields: names.as_ptr(),
        field_count: names.len(),
        data: Box::into_raw(permit).cast(),
        hooks: Table::new(&HOOKS),
        spare: [0; 2],
    }
}

/// The names of the fields that it depends on.
pub(crate) fn names(permit: &Permit) -> Vec<Slice> {
    permit.depends_on.iter().map(|name| Slice::new(name.as_bytes())).collect()
}

/// Drops what [`lend`] made: the host did not take it.
pub(crate) fn drop_lent(permit: &AbiPermit) {
    // SAFETY: The pointer is that of a box that `lend` made, and the host has not taken it over.
    drop(unsafe { Box::from_raw(permit.data.cast::<Permit>()) });
}

static HOOKS: PermitHooks =
    PermitHooks { size: size_of::<PermitHooks>(), check, drop: drop_permit };

unsafe extern "C" fn check(data: *mut c_void) -> Code {
    guard(|| {
        // SAFETY: `data` comes from `lend`, and was not dropped.
        let permit = unsafe { &*data.cast::<Permit>() };
        if (permit.check)() { code::READY } else { code::GONE }
    })
}

unsafe extern "C" fn drop_permit(data: *mut c_void) -> Code {
    guard(|| {
        // SAFETY: `data` comes from `lend`, and is given back once.
        drop(unsafe { Box::from_raw(data.cast::<Permit>()) });
        code::READY
    })
}
