//! Sites: for each server of HTTP, the filters, handlers and observers of its requests, in their order.
//!
//! A site is there under the server's name whether or not the server is, so that extensions can wait for it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
};

use smallvec::SmallVec;

use crate::http::{
    order::{self, Move, MoveError},
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
    observers: RefCell<Vec<Rc<Route<O>>>>,
    /// The operator's order, in the order in which it was made.
    moves: RefCell<Vec<Move>>,
    /// Numbers of routes that have gone, oldest first, so that a route that comes back has its own again.
    gone: RefCell<Vec<(RouteKey, u64)>>,
    version: Cell<u64>,
    shared: Rc<Shared>,
}

/// Room for routes and observers that are about to be mounted: whoever has it cannot be refused any more. What is not used
/// is given back.
#[derive(Debug)]
pub struct Room {
    shared: Rc<Shared>,
    left: usize,
}

/// Why there is no room: there are as many routes as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyRoutes {
    /// How many were to be mounted.
    pub wanted: usize,
    /// How many could have been.
    pub room: usize,
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
            moves: RefCell::default(),
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

    /// Takes room for `wanted` more, where `freed` of those that are mounted go in the same turn.
    ///
    /// # Errors
    /// There would be more than there may be.
    pub fn room(&self, wanted: usize, freed: usize) -> Result<Room, TooManyRoutes> {
        Room::take(&self.shared, wanted, freed)
    }

    /// How many routes and observers there may be.
    #[must_use]
    pub fn routes_max(&self) -> usize {
        self.shared.http_routes_max
    }
}

impl<H, O> Site<H, O> {
    /// Mounts a filter or a handler in room that was taken for it. It replaces one that has the same key, in place. One that
    /// had it until lately leaves it its number.
    pub fn insert(&self, room: &mut Room, key: RouteKey, order: i32, handler: H) -> RouteToken {
        let list = self.routes(key.kind);
        let route = self.admit(list, room, key, order, handler);
        let moves = self.moves.borrow();
        let mut routes = list.borrow_mut();
        if moves.is_empty() {
            let at = routes.partition_point(|other| other.precedes(&route).is_lt());
            routes.insert(at, route.clone());
        } else {
            routes.push(route.clone());
            order::arrange(&mut routes, &moves);
        }
        self.changed();
        route.token
    }

    /// Has an observer hear of the ends of exchanges that its key fits; as [`Site::insert`].
    pub fn observe(&self, room: &mut Room, key: RouteKey, observer: O) -> RouteToken {
        let observer = self.admit(&self.observers, room, key, 0, observer);
        let mut observers = self.observers.borrow_mut();
        let at = observers.partition_point(|other| other.precedes(&observer).is_lt());
        observers.insert(at, observer.clone());
        observer.token
    }

    /// Makes an entry of a list, and takes out the one whose place it takes.
    fn admit<T>(
        &self,
        list: &RefCell<Vec<Rc<Route<T>>>>,
        room: &mut Room,
        key: RouteKey,
        order: i32,
        handler: T,
    ) -> Rc<Route<T>> {
        let token = room.use_one();
        let replaced = take(list, |other| other.key == key);
        let known = match &replaced {
            Some(replaced) => {
                self.shared.release();
                Some(replaced.id)
            }
            None => take(&self.gone, |(other, _)| *other == key).map(|(_, id)| id),
        };
        Rc::new(Route { key, id: known.unwrap_or(token.0), order, handler, token })
    }

    /// Removes what was added under `token`; false if it is gone already. Exchanges that found it before keep it until they end.
    /// The handler is dropped after the lists are whole again, unless somebody still holds it.
    pub fn remove(&self, token: RouteToken) -> bool {
        if let Some(observer) = take(&self.observers, |observer| observer.token == token) {
            self.shared.release();
            self.keep_id(&observer);
            return true;
        }
        let route = take(&self.filters, |route| route.token == token)
            .or_else(|| take(&self.handlers, |route| route.token == token));
        let Some(route) = route else { return false };
        self.shared.release();
        self.keep_id(&route);
        if !self.moves.borrow().is_empty() {
            self.arrange();
        }
        self.changed();
        true
    }

    /// The filters and handlers for a request: `host` as the client wrote it, `path` in normal form.
    #[must_use]
    pub fn matching(&self, host: Option<&str>, path: &str) -> Matches<H> {
        let mut routes = SmallVec::new();
        let wants = |route: &&Rc<Route<H>>| route.wants(host, path);
        routes.extend(self.filters.borrow().iter().filter(wants).cloned());
        let filter_count = routes.len();
        routes.extend(self.handlers.borrow().iter().filter(wants).cloned());
        Matches { routes, filter_count }
    }

    /// Those who hear of the end of an exchange, in the order of their registration; host and path as for [`Site::matching`].
    #[must_use]
    pub fn observers(&self, host: Option<&str>, path: &str) -> SmallVec<[Rc<Route<O>>; 4]> {
        let observers = self.observers.borrow();
        observers.iter().filter(|observer| observer.wants(host, path)).cloned().collect()
    }

    /// Whether anybody hears of an exchange.
    #[must_use]
    pub fn is_observed(&self, host: Option<&str>, path: &str) -> bool {
        self.observers.borrow().iter().any(|observer| observer.wants(host, path))
    }

    /// All routes in the order in which they are asked, filters first.
    #[must_use]
    pub fn list(&self) -> Vec<Rc<Route<H>>> {
        self.filters.borrow().iter().chain(self.handlers.borrow().iter()).cloned().collect()
    }

    /// All observers.
    #[must_use]
    pub fn list_observers(&self) -> Vec<Rc<Route<O>>> {
        self.observers.borrow().clone()
    }

    /// Changes with every change of routes or of their order: what was learnt of dispatch at another version is void.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Has a route stand where the operator wants it, now and whenever it is mounted again.
    ///
    /// # Errors
    /// It cannot stand there, and stays where it is.
    pub fn add_move(&self, new: Move) -> Result<(), MoveError> {
        order::add(&mut self.moves.borrow_mut(), new)?;
        self.arrange();
        self.changed();
        Ok(())
    }

    /// Has a route stand where it stands by itself again; false if it was not moved.
    pub fn take_back(&self, key: &RouteKey) -> bool {
        let before = self.moves.borrow().len();
        self.moves.borrow_mut().retain(|earlier| earlier.key != *key);
        if self.moves.borrow().len() == before {
            return false;
        }
        self.arrange();
        self.changed();
        true
    }

    /// The operator's moves, in the order in which they were made.
    #[must_use]
    pub fn moves(&self) -> Vec<Move> {
        self.moves.borrow().clone()
    }

    /// Forgets the numbers of an instance's routes that have gone: when it comes back it is the newest. For an unload, as
    /// opposed to an upgrade.
    pub fn forget(&self, instance: &str) {
        self.gone.borrow_mut().retain(|(key, _)| &*key.instance != instance);
    }

    fn routes(&self, kind: RouteKind) -> &RefCell<Vec<Rc<Route<H>>>> {
        if kind == RouteKind::Filter { &self.filters } else { &self.handlers }
    }

    fn arrange(&self) {
        let moves = self.moves.borrow();
        for list in [&self.filters, &self.handlers] {
            order::arrange(&mut list.borrow_mut(), &moves);
        }
    }

    fn keep_id<T>(&self, route: &Route<T>) {
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

impl<H> Route<H> {
    /// Whether it is for a request: `host` as the client wrote it, `path` in normal form.
    #[must_use]
    pub fn wants(&self, host: Option<&str>, path: &str) -> bool {
        path::is_beneath(path, &self.key.path) && self.key.host.matches(host)
    }
}

impl Room {
    fn take(shared: &Rc<Shared>, wanted: usize, freed: usize) -> Result<Room, TooManyRoutes> {
        let kept = shared.routes.get().saturating_sub(freed);
        let room = shared.http_routes_max.saturating_sub(kept);
        if wanted > room {
            let http_routes_max = shared.http_routes_max;
            return Err(TooManyRoutes { wanted, room, http_routes_max });
        }
        shared.routes.set(shared.routes.get() + wanted);
        Ok(Room { shared: shared.clone(), left: wanted })
    }

    fn use_one(&mut self) -> RouteToken {
        self.left = self.left.checked_sub(1).expect("room is taken for all that is mounted in it");
        self.shared.last.set(self.shared.last.get() + 1);
        RouteToken(self.shared.last.get())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.routes.set(self.shared.routes.get() - self.left);
    }
}

impl Shared {
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
        let TooManyRoutes { wanted, room, http_routes_max } = self;
        write!(
            f,
            "it has {wanted} route(s) and observer(s) to mount, and there is room for {room}; unload what is not needed, or \
            raise `http_routes_max` (now {http_routes_max}) in `[host.limits]`, which takes a restart"
        )
    }
}

impl std::error::Error for TooManyRoutes {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{host::HostPattern, order::Place};

    type Table = RouteTable<&'static str, &'static str>;
    type TestSite = Site<&'static str, &'static str>;

    fn key(kind: RouteKind, instance: &str, host: &str, path: &str) -> RouteKey {
        RouteKey {
            instance: instance.into(),
            kind,
            host: HostPattern::parse(host).unwrap(),
            path: path::mount_point(path).unwrap().into(),
            index: 0,
        }
    }

    fn insert(site: &TestSite, key: RouteKey, order: i32, name: &'static str) -> RouteToken {
        let mut room = Room::take(&site.shared, 1, 0).unwrap();
        site.insert(&mut room, key, order, name)
    }

    fn handler(site: &TestSite, name: &'static str, path: &str) -> RouteToken {
        insert(site, key(RouteKind::Handler, name, "*", path), 0, name)
    }

    fn filter(site: &TestSite, name: &'static str, path: &str, order: i32) {
        insert(site, key(RouteKind::Filter, name, "*", path), order, name);
    }

    /// Moves the handler of an instance at the root.
    fn moved(site: &TestSite, name: &str, place: Place) {
        let key = key(RouteKind::Handler, name, "*", "/");
        site.add_move(Move { key, place }).unwrap();
    }

    fn root(name: &str) -> RouteKey {
        key(RouteKind::Handler, name, "*", "/")
    }

    #[track_caller]
    fn check(site: &TestSite, host: &str, path: &str, expected: &[&str]) {
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
        insert(&site, root("first"), -1, "first");
        insert(&site, root("last"), 1, "last");
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
    fn hosts_narrow_what_matches_and_fewer_hosts_come_first() {
        let site = Table::new(100).site("web");
        for (name, host) in [("exact", "a.example.org"), ("below", "*.example.org"), ("any", "*")] {
            insert(&site, key(RouteKind::Handler, name, host, "/"), 0, name);
        }
        check(&site, "A.example.org:80", "/", &["exact", "below", "any"]);
        check(&site, "b.example.org", "/", &["below", "any"]);
        check(&site, "example.org", "/", &["any"]);
        assert_eq!(site.matching(None, "/").routes.len(), 1);
        // An order that was asked for weighs more.
        insert(&site, root("any, early"), -1, "any, early");
        check(&site, "b.example.org", "/", &["any, early", "below", "any"]);
    }

    #[test]
    fn an_upgrade_replaces_in_place() {
        let table = Table::new(2);
        let site = table.site("web");
        let old = handler(&site, "first", "/");
        handler(&site, "second", "/");
        let id = site.list()[1].id;
        let mut room = table.room(1, 1).unwrap();
        let new = site.insert(&mut room, root("first"), 0, "first, new");
        assert!(!site.remove(old), "it was replaced");
        check(&site, "", "/", &["second", "first, new"]);
        assert_eq!(site.list()[1].id, id);
        // A restart keeps the number too, but an unload does not.
        assert!(site.remove(new));
        let again = handler(&site, "first", "/");
        assert_eq!(site.list()[1].id, id);
        site.remove(again);
        site.forget("first");
        handler(&site, "first", "/");
        check(&site, "", "/", &["first", "second"]);
        table.room(1, 0).unwrap_err();
    }

    #[test]
    fn a_moved_route_stands_just_there() {
        let site = Table::new(100).site("web");
        for name in ["a", "b", "c"] {
            handler(&site, name, "/");
        }
        check(&site, "", "/", &["c", "b", "a"]);
        let version = site.version();
        moved(&site, "a", Place::Before(root("b")));
        assert_ne!(site.version(), version);
        check(&site, "", "/", &["c", "a", "b"]);
        moved(&site, "c", Place::After(root("a")));
        check(&site, "", "/", &["a", "c", "b"]);
        moved(&site, "b", Place::First);
        check(&site, "", "/", &["b", "a", "c"]);
        assert!(site.take_back(&root("b")) && !site.take_back(&root("b")));
        check(&site, "", "/", &["a", "c", "b"]);
        moved(&site, "a", Place::Last);
        // Though c was put behind a, it does not follow.
        check(&site, "", "/", &["c", "b", "a"]);
        for _ in 0..5 {
            moved(&site, "c", Place::After(root("a")));
            moved(&site, "a", Place::Last);
        }
        check(&site, "", "/", &["b", "c", "a"]);
        assert!(site.moves().len() <= 4, "{:#?}", site.moves());
        for name in ["a", "c"] {
            site.take_back(&root(name));
        }
        check(&site, "", "/", &["c", "b", "a"]);
    }

    #[test]
    fn a_move_lasts_and_is_of_one_route() {
        let site = Table::new(100).site("web");
        insert(&site, root("one"), 7, "one");
        let two = handler(&site, "two", "/");
        let elsewhere = key(RouteKind::Handler, "two", "a.example.org", "/");
        insert(&site, elsewhere, 0, "two elsewhere");
        filter(&site, "two", "/", 0);
        check(&site, "a.example.org", "/", &["two", "two elsewhere", "two", "one"]);
        moved(&site, "two", Place::Last);
        check(&site, "a.example.org", "/", &["two", "two elsewhere", "one", "two"]);
        site.remove(two);
        site.forget("two");
        handler(&site, "two", "/");
        handler(&site, "new", "/");
        check(&site, "", "/", &["two", "new", "one", "two"]);
    }

    #[test]
    fn a_move_rests_while_its_neighbour_is_away() {
        let site = Table::new(100).site("web");
        let [_, two, _] = ["one", "two", "three"].map(|name| handler(&site, name, "/"));
        moved(&site, "three", Place::After(root("two")));
        check(&site, "", "/", &["two", "three", "one"]);
        site.remove(two);
        check(&site, "", "/", &["three", "one"]);
        handler(&site, "two", "/");
        check(&site, "", "/", &["two", "three", "one"]);
    }

    #[test]
    fn moves_without_an_effect_are_refused() {
        let site = Table::new(100).site("web");
        let refused = |key: RouteKey, place: Place| {
            site.add_move(Move { key, place }).unwrap_err().to_string()
        };
        let deep = key(RouteKind::Handler, "deep", "*", "/a");
        let filter = key(RouteKind::Filter, "filter", "*", "/");
        let observer = key(RouteKind::Observer, "log", "*", "/");
        let path = refused(deep, Place::Before(root("one")));
        assert!(path.contains("at /a and the other at /"), "{path}");
        assert!(refused(filter, Place::After(root("one"))).contains("filters"));
        assert!(refused(observer, Place::First).contains("observer"));
        assert!(refused(root("one"), Place::Before(root("one"))).contains("itself"));
        assert_eq!(site.moves(), []);
    }

    #[test]
    fn there_is_a_limit_over_all_sites() {
        let table = Table::new(2);
        let route = handler(&table.site("web"), "one", "/");
        let observe = |site: &str, name: &'static str| {
            let mut room = table.room(1, 0)?;
            let key = key(RouteKind::Observer, name, "*", "/");
            Ok::<_, TooManyRoutes>(table.site(site).observe(&mut room, key, name))
        };
        let observer = observe("other", "log").unwrap();
        let refused = observe("other", "more").unwrap_err();
        assert!(refused.to_string().contains("http_routes_max"));
        assert!(table.site("web").remove(route));
        assert!(observe("web", "more").is_ok());
        assert_eq!(table.site("other").observers(None, "/")[0].handler, "log");
        assert!(table.site("other").remove(observer));
        assert!(!table.site("other").is_observed(None, "/"));
        assert_eq!(table.sites().len(), 2);
        // Room that is not used is given back.
        drop(table.room(1, 0).unwrap());
        table.room(2, 1).unwrap();
    }

    #[test]
    fn observers_hear_of_what_they_are_for() {
        let site = Table::new(100).site("web");
        for (name, host, path) in [("all", "*", "/"), ("dav", "*", "/dav"), ("org", "*.org", "/")] {
            let mut room = Room::take(&site.shared, 1, 0).unwrap();
            site.observe(&mut room, key(RouteKind::Observer, name, host, path), name);
        }
        let told = |host: Option<&str>, path: &str| -> Vec<_> {
            site.observers(host, path).iter().map(|observer| observer.handler).collect()
        };
        assert_eq!(told(None, "/"), ["all"]);
        assert_eq!(told(Some("example.org"), "/dav/x"), ["all", "dav", "org"]);
    }
}
