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
        site,
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
    /// Where it is mounted, and what it is.
    pub key: RouteKey,
    /// The order that the plugin and the configuration ask for.
    pub order: i32,
    site: Rc<Site>,
    token: Cell<Option<RouteToken>>,
    requests: Cell<u64>,
}

/// An observer of one generation.
pub struct ObserverEntry {
    /// The plugin's object.
    pub object: Owned,
    /// Its code.
    pub hooks: Table<ObserverHooks>,
    site: Rc<Site>,
    token: Cell<Option<RouteToken>>,
}

impl Route {
    /// A route that is not in its site's table yet.
    pub fn new(
        object: Owned,
        hooks: Table<HandlerHooks>,
        key: RouteKey,
        order: i32,
        site: Rc<Site>,
    ) -> Rc<Route> {
        Rc::new(Route {
            object,
            hooks,
            key,
            order,
            site,
            token: Cell::new(None),
            requests: Cell::new(0),
        })
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

    /// Has requests find it. `false` if there are as many routes as there may be.
    pub fn mount(self: &Rc<Self>) -> bool {
        if self.token.get().is_none() {
            self.token.set(self.site.insert(self.key.clone(), self.order, self.clone()).ok());
        }
        self.token.get().is_some()
    }

    /// Has no new request find it.
    pub fn unmount(&self) {
        if let Some(token) = self.token.take() {
            self.site.remove(token);
        }
    }
}

impl ObserverEntry {
    /// An observer that is not in its site's list yet.
    pub fn new(object: Owned, hooks: Table<ObserverHooks>, site: Rc<Site>) -> Rc<ObserverEntry> {
        Rc::new(ObserverEntry { object, hooks, site, token: Cell::new(None) })
    }

    /// Has it told of what ends from now on. `false` if there are as many as there may be.
    pub fn mount(self: &Rc<Self>) -> bool {
        if self.token.get().is_none() {
            self.token.set(self.site.observe(self.clone()).ok());
        }
        self.token.get().is_some()
    }

    /// Tells it.
    pub fn ended(&self, record: &ExchangeRecord) {
        frame::enter(self.object.generation(), || {
            // SAFETY: The hooks are statics of a library that is mapped while `object` lives; the record is borrowed.
            unsafe { self.hooks.get() }
                .map(|hooks| unsafe { (hooks.ended)(self.object.data(), record) })
        });
    }

    /// Has it told of nothing more.
    pub fn unmount(&self) {
        if let Some(token) = self.token.take() {
            self.site.remove(token);
        }
    }
}
