//! What extensions register with HTTP: handlers, filters and observers, as the sites hold them.

#![allow(unsafe_code)] // Calls the observers' hook.

use std::{cell::Cell, rc::Rc};

use medusa_abi::{
    data::Table,
    http::{ExchangeRecord, HandlerHooks, ObserverHooks},
};

use crate::{
    http::{
        route::{RouteKey, RouteToken},
        site::{self, Room},
    },
    plugin::{frame, generation::Generation, owned::Owned},
};

/// A site with the plugins' handlers and observers.
pub type Site = site::Site<Rc<Route>, Rc<ObserverEntry>>;

/// The sites of the host.
pub type Sites = site::RouteTable<Rc<Route>, Rc<ObserverEntry>>;

/// The routes that a request matches.
pub type Matches = site::Matches<Rc<Route>>;

/// A handler or a filter of one generation.
pub struct Route {
    /// The plugin's object.
    pub object: Owned,
    /// Its code.
    pub hooks: Table<HandlerHooks>,
    /// Its place.
    pub mount: Mount,
    /// The order that the plugin and the configuration ask for.
    pub order: i32,
    requests: Cell<u64>,
}

/// An observer of one generation.
pub struct ObserverEntry {
    /// The plugin's object.
    pub object: Owned,
    /// Its code.
    pub hooks: Table<ObserverHooks>,
    /// What it hears of.
    pub mount: Mount,
    told: Cell<u64>,
}

/// A place at a site, taken or not.
pub struct Mount {
    /// What stands there.
    pub key: RouteKey,
    site: Rc<Site>,
    token: Cell<Option<RouteToken>>,
}

impl Mount {
    /// A place that is not taken yet.
    pub fn new(site: Rc<Site>, key: RouteKey) -> Mount {
        Mount { key, site, token: Cell::new(None) }
    }

    /// Whether it was taken and not given up since.
    pub fn is_taken(&self) -> bool {
        self.token.get().is_some()
    }

    fn take(&self, insert: impl FnOnce(&Site, RouteKey) -> RouteToken) {
        if !self.is_taken() {
            self.token.set(Some(insert(&self.site, self.key.clone())));
        }
    }

    /// Has no new request find it, or has it told of nothing more.
    pub fn give_up(&self) {
        if let Some(token) = self.token.take() {
            self.site.remove(token);
        }
    }
}

impl Route {
    /// A route that is not in its site's table yet.
    pub fn new(object: Owned, hooks: Table<HandlerHooks>, mount: Mount, order: i32) -> Rc<Route> {
        Rc::new(Route { object, hooks, mount, order, requests: Cell::new(0) })
    }

    /// Whose it is.
    pub fn generation(&self) -> &Rc<Generation> {
        self.object.generation()
    }

    /// Counts a request that it is asked for.
    pub fn count_request(&self) {
        self.requests.set(self.requests.get() + 1);
        self.generation().count_request();
    }

    /// How often it was asked.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Has requests find it.
    pub fn mount(self: &Rc<Self>, room: &mut Room) {
        self.mount.take(|site, key| site.insert(room, key, self.order, self.clone()));
    }

    /// Has no new request find it.
    pub fn unmount(&self) {
        self.mount.give_up();
    }
}

impl ObserverEntry {
    /// An observer that is not in its site's list yet.
    pub fn new(object: Owned, hooks: Table<ObserverHooks>, mount: Mount) -> Rc<ObserverEntry> {
        Rc::new(ObserverEntry { object, hooks, mount, told: Cell::new(0) })
    }

    /// Has it told of what ends from now on.
    pub fn mount(self: &Rc<Self>, room: &mut Room) {
        self.mount.take(|site, key| site.observe(room, key, self.clone()));
    }

    /// How often it was told of something.
    pub fn told(&self) -> u64 {
        self.told.get()
    }

    /// Tells it.
    pub fn ended(&self, record: &ExchangeRecord) {
        self.told.set(self.told.get() + 1);
        frame::enter(self.object.generation(), || {
            // SAFETY: The hooks are statics of a library that is mapped while `object` lives; the record is borrowed.
            unsafe { self.hooks.get() }
                .map(|hooks| unsafe { (hooks.ended)(self.object.data(), record) })
        });
    }

    /// Has it told of nothing more.
    pub fn unmount(&self) {
        self.mount.give_up();
    }
}
