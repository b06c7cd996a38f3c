//! Sites: for each server of HTTP, the filters, handlers and observers of its requests, in their order.
//!
//! A site is there under the server's name whether or not the server is, so that extensions can wait for it.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    fmt,
    rc::Rc,
};

use smallvec::SmallVec;

use crate::http::{
    path,
    route::{Route, RouteKey, RouteKind, RouteToken},
};

/// How many matches of a request are found without an allocation.
const MATCHES_INLINE: usize = 8;

/// How many keys of routes that have gone keep their number; older ones are forgotten, and get a new one.
const KEYS_KEPT_MAX: usize = 1024;

/// The routes that want a request, in the order in which they are asked: first the filters, then the handlers.
#[derive(Debug)]
pub struct Matches<H> {
    /// All of them.
    pub routes: SmallVec<[Rc<Route<H>>; MATCHES_INLINE]>,
    /// How many of them, at the beginning, are filters.
    pub filter_count: usize,
}

/// Sites by the names of their servers.
pub type Sites<H, O> = BTreeMap<Rc<str>, Rc<Site<H, O>>>;

/// An instance, and a path where it mounts something.
type Mount = (Rc<str>, Box<str>);

/// All sites of the host. `H` is a route's handler, `O` an observer.
#[derive(Debug)]
pub struct RouteTable<H, O> {
    sites: RefCell<Sites<H, O>>,
    shared: Rc<Shared>,
}

/// The routes and observers of one server of HTTP.
#[derive(Debug)]
pub struct Site<H, O> {
    filters: RefCell<Vec<Rc<Route<H>>>>,
    handlers: RefCell<Vec<Rc<Route<H>>>>,
    observers: RefCell<Vec<(RouteToken, Rc<O>)>>,
    /// The operator's order of an instance's routes at a path.
    moved: RefCell<HashMap<Mount, i32>>,
    /// Numbers of routes that have gone, oldest first, so that a route that comes back has its own again.
    gone: RefCell<Vec<(RouteKey, u64)>>,
    version: Cell<u64>,
    shared: Rc<Shared>,
}

/// Why a route or an observer was not added: there are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRoutes {
    /// The limit `http_routes_max`, over all sites, observers included.
    pub http_routes_max: usize,
}

#[derive(Debug)]
struct Shared {
    http_routes_max: usize,
    routes: Cell<usize>,
    last: Cell<u64>,
}

impl<H, O> RouteTable<H, O> {
    /// No sites; they may have `http_routes_max` routes and observers altogether.
    #[must_use]
    pub fn new(http_routes_max: usize) -> RouteTable<H, O> {
        let shared = Shared { http_routes_max, routes: Cell::new(0), last: Cell::new(0) };
        RouteTable { sites: RefCell::default(), shared: Rc::new(shared) }
    }

    /// The site of the server `name`, made if it is not there.
    pub fn site(&self, name: &str) -> Rc<Site<H, O>> {
        let mut sites = self.sites.borrow_mut();
        if let Some(site) = sites.get(name) {
            return site.clone();
        }
        let site = Rc::new(Site {
            filters: RefCell::default(),
            handlers: RefCell::default(),
            observers: RefCell::default(),
            moved: RefCell::default(),
            gone: RefCell::default(),
            version: Cell::new(0),
            shared: self.shared.clone(),
        });
        sites.insert(name.into(), site.clone());
        site
    }

    /// All sites.
    #[must_use]
    pub fn sites(&self) -> Sites<H, O> {
        self.sites.borrow().clone()
    }
}

impl<H, O> Site<H, O> {
    /// Mounts a route. One whose key is there already, or was until lately, takes that one's number and place in the order:
    /// at an upgrade the new generation's routes are added, then the old one's removed, in one turn of the loop.
    ///
    /// # Errors
    /// There are as many routes as there may be.
    pub fn insert(
        &self,
        key: RouteKey,
        order: i32,
        handler: H,
    ) -> Result<RouteToken, TooManyRoutes> {
        let token = self.shared.admit()?;
        let id = self.known_id(&key).unwrap_or(token.0);
        let moved = self.moved.borrow().get(&(key.instance.clone(), key.path.clone())).copied();
        let order_now = Cell::new(moved.unwrap_or(order));
        let route =
            Rc::new(Route { key, id, order_asked: order, handler, token, order: order_now });
        let mut routes = self.routes(route.key.kind).borrow_mut();
        let at = routes.partition_point(|other| other.precedes(&route).is_lt());
        routes.insert(at, route);
        self.changed();
        Ok(token)
    }

    /// Hears of every exchange's end.
    ///
    /// # Errors
    /// There are as many routes and observers as there may be.
    pub fn observe(&self, observer: O) -> Result<RouteToken, TooManyRoutes> {
        let token = self.shared.admit()?;
        self.observers.borrow_mut().push((token, Rc::new(observer)));
        Ok(token)
    }

    /// Removes what was added under `token`; false if it is gone already. Exchanges that found it before keep it until they end.
    /// The handler is dropped after the lists are whole again, unless somebody still holds it.
    pub fn remove(&self, token: RouteToken) -> bool {
        if let Some(observer) = take(&self.observers, |(other, _)| *other == token) {
            self.shared.release();
            drop(observer);
            return true;
        }
        let route = take(&self.filters, |route| route.token == token)
            .or_else(|| take(&self.handlers, |route| route.token == token));
        let Some(route) = route else { return false };
        self.shared.release();
        self.keep_id(&route);
        self.changed();
        true
    }

    /// The filters and handlers for a request: `host` as the client wrote it, `path` in normal form.
    #[must_use]
    pub fn matching(&self, host: Option<&str>, path: &str) -> Matches<H> {
        let mut routes = SmallVec::new();
        let wants = |route: &&Rc<Route<H>>| {
            path::is_beneath(path, &route.key.path) && route.key.host.matches(host)
        };
        routes.extend(self.filters.borrow().iter().filter(wants).cloned());
        let filter_count = routes.len();
        routes.extend(self.handlers.borrow().iter().filter(wants).cloned());
        Matches { routes, filter_count }
    }

    /// Those who hear of every exchange's end, in the order of their registration.
    #[must_use]
    pub fn observers(&self) -> SmallVec<[Rc<O>; 4]> {
        self.observers.borrow().iter().map(|(_, observer)| observer.clone()).collect()
    }

    /// Whether anybody hears of exchanges.
    #[must_use]
    pub fn has_observers(&self) -> bool {
        !self.observers.borrow().is_empty()
    }

    /// All routes in the order in which they are asked, filters first.
    #[must_use]
    pub fn list(&self) -> Vec<Rc<Route<H>>> {
        self.filters.borrow().iter().chain(self.handlers.borrow().iter()).cloned().collect()
    }

    /// Changes with every change of routes or of their order: what was learnt of dispatch at another version is void.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Sets the operator's order for what `instance` mounts at `path` (as in [`RouteKey`]), now and whenever it is mounted again;
    /// none gives it back to the instance. Whether anything is mounted there now.
    pub fn set_order(&self, instance: &str, path: &str, order: Option<i32>) -> bool {
        let place = (Rc::from(instance), Box::from(path));
        match order {
            Some(order) => self.moved.borrow_mut().insert(place, order),
            None => self.moved.borrow_mut().remove(&place),
        };
        let mut is_mounted = false;
        for list in [&self.filters, &self.handlers] {
            let mut routes = list.borrow_mut();
            for route in routes
                .iter()
                .filter(|route| &*route.key.instance == instance && &*route.key.path == path)
            {
                route.order.set(order.unwrap_or(route.order_asked));
                is_mounted = true;
            }
            routes.sort_by(|one, two| one.precedes(two));
        }
        self.changed();
        is_mounted
    }

    /// The operator's orders, to be written down: instance, path, order.
    #[must_use]
    pub fn orders(&self) -> Vec<(Rc<str>, Box<str>, i32)> {
        let moved = self.moved.borrow();
        let mut orders: Vec<_> = moved
            .iter()
            .map(|((instance, path), order)| (instance.clone(), path.clone(), *order))
            .collect();
        orders.sort();
        orders
    }

    /// Forgets the numbers of an instance's routes that have gone: when it comes back it is the newest. For an unload, as
    /// opposed to an upgrade.
    pub fn forget(&self, instance: &str) {
        self.gone.borrow_mut().retain(|(key, _)| &*key.instance != instance);
    }

    fn routes(&self, kind: RouteKind) -> &RefCell<Vec<Rc<Route<H>>>> {
        match kind {
            RouteKind::Filter => &self.filters,
            RouteKind::Handler => &self.handlers,
        }
    }

    /// The number of a route that has `key`: the one that has gone, else the oldest that is there.
    fn known_id(&self, key: &RouteKey) -> Option<u64> {
        if let Some((_, id)) = take(&self.gone, |(other, _)| other == key) {
            return Some(id);
        }
        let routes = self.routes(key.kind).borrow();
        routes.iter().filter(|route| route.key == *key).map(|route| route.id).min()
    }

    fn keep_id(&self, route: &Route<H>) {
        if self.routes(route.key.kind).borrow().iter().any(|other| other.id == route.id) {
            return;
        }
        let mut gone = self.gone.borrow_mut();
        if gone.len() == KEYS_KEPT_MAX {
            gone.remove(0);
        }
        gone.push((route.key.clone(), route.id));
    }

    fn changed(&self) {
        self.version.set(self.version.get() + 1);
    }
}

impl Shared {
    fn admit(&self) -> Result<RouteToken, TooManyRoutes> {
        if self.routes.get() >= self.http_routes_max {
            return Err(TooManyRoutes { http_routes_max: self.http_routes_max });
        }
        self.routes.set(self.routes.get() + 1);
        self.last.set(self.last.get() + 1);
        Ok(RouteToken(self.last.get()))
    }

    fn release(&self) {
        self.routes.set(self.routes.get() - 1);
    }
}

/// Takes the first that fits out of a list, which is not borrowed any more when the caller drops it.
fn take<T>(list: &RefCell<Vec<T>>, fits: impl FnMut(&T) -> bool) -> Option<T> {
    let mut list = list.borrow_mut();
    let at = list.iter().position(fits)?;
    Some(list.remove(at))
}

impl fmt::Display for TooManyRoutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "there are {} routes and observers already; remove some, or raise the limit http_routes_max",
            self.http_routes_max
        )
    }
}

impl std::error::Error for TooManyRoutes {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::host::HostPattern;

    type Table = RouteTable<&'static str, &'static str>;

    fn key(kind: RouteKind, instance: &str, host: &str, path: &str) -> RouteKey {
        RouteKey {
            instance: instance.into(),
            kind,
            host: HostPattern::parse(host).unwrap(),
            path: path::mount_point(path).unwrap().into(),
        }
    }

    fn handler(
        site: &Site<&'static str, &'static str>,
        name: &'static str,
        path: &str,
    ) -> RouteToken {
        site.insert(key(RouteKind::Handler, name, "*", path), 0, name).unwrap()
    }

    fn filter(site: &Site<&'static str, &'static str>, name: &'static str, path: &str, order: i32) {
        site.insert(key(RouteKind::Filter, name, "*", path), order, name).unwrap();
    }

    #[track_caller]
    fn check(site: &Site<&'static str, &'static str>, host: &str, path: &str, expected: &[&str]) {
        let matches = site.matching(Some(host), path);
        let found: Vec<_> = matches.routes.iter().map(|route| route.handler).collect();
        assert_eq!(found, expected, "for {host}{path}");
        let is_filter = |route: &Rc<Route<_>>| route.key.kind == RouteKind::Filter;
        assert!(matches.routes[..matches.filter_count].iter().all(is_filter));
        assert!(!matches.routes[matches.filter_count..].iter().any(is_filter));
    }

    #[test]
    fn handlers_are_asked_longest_path_first_then_newest() {
        let site = Table::new(100).site("web");
        handler(&site, "root", "/");
        handler(&site, "dav", "/dav/");
        handler(&site, "deep", "/dav/a");
        check(&site, "", "/", &["root"]);
        check(&site, "", "*", &["root"]);
        check(&site, "", "/dav", &["dav", "root"]);
        check(&site, "", "/davos", &["root"]);
        check(&site, "", "/dav/a/b", &["deep", "dav", "root"]);
        handler(&site, "newer", "/");
        check(&site, "", "/x", &["newer", "root"]);
        site.insert(key(RouteKind::Handler, "first", "*", "/"), -1, "first").unwrap();
        site.insert(key(RouteKind::Handler, "last", "*", "/"), 1, "last").unwrap();
        check(&site, "", "/dav", &["dav", "first", "newer", "root", "last"]);
    }

    #[test]
    fn filters_are_asked_by_order_then_broadest_then_oldest() {
        let site = Table::new(100).site("web");
        handler(&site, "page", "/a");
        filter(&site, "narrow", "/a/b", 0);
        filter(&site, "broad", "/", 0);
        filter(&site, "broad too", "/", 0);
        filter(&site, "late", "/", 5);
        filter(&site, "early", "/a/b", -5);
        check(&site, "", "/a/b", &["early", "broad", "broad too", "narrow", "late", "page"]);
        check(&site, "", "/a", &["broad", "broad too", "late", "page"]);
        check(&site, "", "/b", &["broad", "broad too", "late"]);
    }

    #[test]
    fn hosts_narrow_what_matches() {
        let site = Table::new(100).site("web");
        for (name, host) in [("exact", "a.example.org"), ("below", "*.example.org"), ("any", "*")] {
            site.insert(key(RouteKind::Handler, name, host, "/"), 0, name).unwrap();
        }
        check(&site, "A.example.org:80", "/", &["exact", "below", "any"]);
        check(&site, "b.example.org", "/", &["below", "any"]);
        check(&site, "example.org", "/", &["any"]);
        assert_eq!(site.matching(None, "/").routes.len(), 1);
    }

    #[test]
    fn an_upgrade_keeps_number_and_place() {
        let site = Table::new(100).site("web");
        let old = handler(&site, "first", "/");
        handler(&site, "second", "/");
        let id = site.list()[1].id;
        let new = handler(&site, "first", "/");
        assert!(site.remove(old) && !site.remove(old));
        check(&site, "", "/", &["second", "first"]);
        assert_eq!(site.list()[1].id, id);
        // So does a restart, but an unload does not.
        assert!(site.remove(new));
        let again = handler(&site, "first", "/");
        assert_eq!(site.list()[1].id, id);
        site.remove(again);
        site.forget("first");
        handler(&site, "first", "/");
        check(&site, "", "/", &["first", "second"]);
    }

    #[test]
    fn the_operators_order_lasts() {
        let site = Table::new(100).site("web");
        handler(&site, "one", "/");
        let two = handler(&site, "two", "/");
        let version = site.version();
        assert!(site.set_order("one", "", Some(-1)));
        assert_ne!(site.version(), version);
        check(&site, "", "/", &["one", "two"]);
        assert!(site.set_order("two", "", Some(-2)));
        site.remove(two);
        site.forget("two");
        handler(&site, "two", "/");
        check(&site, "", "/", &["two", "one"]);
        assert_eq!(site.orders(), [("one".into(), "".into(), -1), ("two".into(), "".into(), -2)]);
        assert!(site.set_order("two", "", None));
        check(&site, "", "/", &["one", "two"]);
        assert!(!site.set_order("three", "/x", Some(1)));
    }

    #[test]
    fn there_is_a_limit_over_all_sites() {
        let table = Table::new(2);
        let route = handler(&table.site("web"), "one", "/");
        let observer = table.site("other").observe("log").unwrap();
        let refused = table.site("other").observe("more").unwrap_err();
        assert!(refused.to_string().contains("http_routes_max"));
        assert!(table.site("web").remove(route));
        assert!(table.site("web").observe("more").is_ok());
        assert_eq!(*table.site("other").observers()[0], "log");
        assert!(table.site("other").remove(observer));
        assert!(!table.site("other").has_observers());
        assert_eq!(table.sites().len(), 2);
    }
}
