//! Permits: leave that a handler gives to answer the same again without asking it.
//!
//! A permit is the server's, by a handle. It is void as soon as anything could make the answer another one: a change of the site's
//! routes, the giver's going, or the giver's own word.

#![allow(unsafe_code)] // Calls the hooks of permits.

use std::{
    cell::Cell,
    rc::{Rc, Weak},
};

use medusa_abi::{
    code::{self, Code},
    data::{Slice, Table},
    http::{ExchangeRecord, Permit as AbiPermit, PermitHooks},
};

use crate::plugin::{
    frame,
    generation::Generation,
    owned::Owned,
    route::{Route, Site},
};

/// Leave to give one answer again.
pub struct Permit {
    /// Its place in the giver's list.
    key: usize,
    object: Owned,
    hooks: Table<PermitHooks>,
    /// How long a check is good for.
    check_ns: u64,
    checked_ns: Cell<u64>,
    site: Rc<Site>,
    /// The site's version when it was given.
    version: u64,
    route: Weak<Route>,
    /// What was asked for, in normal form.
    host: Option<Box<str>>,
    path: Box<str>,
    is_void: Cell<bool>,
}

/// What a request was that a permit is given for.
pub struct Given<'a> {
    /// Where it was asked for.
    pub site: &'a Rc<Site>,
    /// Who answered it.
    pub route: &'a Rc<Route>,
    /// The host that was asked, if that was text.
    pub host: Option<&'a str>,
    /// The path, in normal form.
    pub path: &'a str,
}

impl Permit {
    /// Takes a permit over from the generation that answers. `None` if it has no hooks; it is then the plugin's still.
    pub fn new(from: &Rc<Generation>, permit: &AbiPermit, given: &Given<'_>) -> Option<Rc<Permit>> {
        // SAFETY: Hooks are statics of the library, which is mapped.
        let hooks = unsafe { permit.hooks.get() }?;
        let mut permits = from.permits.borrow_mut();
        let entry = permits.vacant_entry();
        let this = Rc::new(Permit {
            key: entry.key(),
            object: Owned::new(from, permit.data, hooks.drop),
            hooks: permit.hooks,
            check_ns: u64::from(permit.check_ms) * 1_000_000,
            checked_ns: Cell::new(frame::began_ns(from.instance.registry.clock)),
            site: given.site.clone(),
            version: given.site.version(),
            route: Rc::downgrade(given.route),
            host: given.host.map(Box::from),
            path: given.path.into(),
            is_void: Cell::new(false),
        });
        entry.insert(Rc::downgrade(&this));
        Some(this)
    }

    /// The plugin keeps the object: the call that brought it did not succeed.
    pub fn disown(&self) {
        self.object.disown();
        self.is_void.set(true);
    }

    /// The giver goes.
    pub fn revoke(&self) {
        self.is_void.set(true);
        self.object.give_back();
    }

    /// Leave to use it once more, by `user`: `READY`, or 1 if the server is to report the exchange; or `GONE`.
    pub fn use_once(&self, user: &Generation) -> Code {
        let Some(route) = self.route.upgrade().filter(|_| self.is_good()) else {
            self.revoke();
            return code::GONE;
        };
        user.count_request();
        route.count_request();
        // The server has all of the response already, and only writes it.
        user.instance.count_latency(frame::began_ns(user.instance.registry.clock), None);
        Code::from(self.site.is_observed(self.host.as_deref(), &self.path))
    }

    fn is_good(&self) -> bool {
        if self.is_void.get() || self.version != self.site.version() {
            return false;
        }
        let generation = self.object.generation();
        let now_ns = frame::began_ns(generation.instance.registry.clock);
        if self.check_ns > 0 && now_ns < self.checked_ns.get().saturating_add(self.check_ns) {
            return true;
        }
        self.checked_ns.set(now_ns);
        // SAFETY: Hooks are statics of a library that is mapped while `object` is held, which it is: the permit is not void.
        let Some(hooks) = (unsafe { self.hooks.get() }) else { return false };
        // SAFETY: As above; the data came with the hooks.
        let code = frame::enter(generation, || unsafe { (hooks.check)(self.object.data()) });
        code == code::READY && !self.is_void.get()
    }

    /// Tells the observers of an exchange that was answered by it.
    pub fn report(&self, record: &ExchangeRecord) {
        let name = self.object.generation().name();
        let record = ExchangeRecord { handler: Slice::new(name.as_bytes()), ..*record };
        for observer in self.site.observers(self.host.as_deref(), &self.path) {
            observer.handler.ended(&record);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // There may be very many, which all go at once.
        self.object.generation().permits.borrow_mut().try_remove(self.key);
    }
}
