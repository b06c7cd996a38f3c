//! One route: what is mounted where, and in which order it is asked.

use std::{cell::Cell, cmp::Ordering, rc::Rc};

use crate::http::host::HostPattern;

/// Whether a route answers or wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Wraps what is behind it.
    Filter,
    /// Answers, or passes on.
    Handler,
}

/// What names a route through upgrades of its instance: the same key, the same number and the same place in the order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// The instance that it belongs to.
    pub instance: Rc<str>,
    /// Whether it answers or wraps.
    pub kind: RouteKind,
    /// The hosts that it is for.
    pub host: HostPattern,
    /// Where it is mounted, as [`crate::http::path::mount_point`] writes it: `/dav`, or empty for the root.
    pub path: Box<str>,
}

/// Names one registration of a route; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteToken(pub(super) u64);

/// A route with its handler, as the table keeps it.
#[derive(Debug)]
pub struct Route<H> {
    /// What it is.
    pub key: RouteKey,
    /// Its number in the monitor; the lower, the older.
    pub id: u64,
    /// The order that its instance asked for.
    pub order_asked: i32,
    /// Whoever answers.
    pub handler: H,
    pub(super) token: RouteToken,
    /// The operator's order where there is one, else the instance's.
    pub(super) order: Cell<i32>,
}

impl<H> Route<H> {
    /// How many bytes of a matching path are where the route is mounted; 0 at the root.
    #[must_use]
    pub fn mount_length(&self) -> usize {
        self.key.path.len()
    }

    /// The order that counts: the operator's where there is one, else the instance's.
    #[must_use]
    pub fn order(&self) -> i32 {
        self.order.get()
    }

    /// Names this registration.
    #[must_use]
    pub fn token(&self) -> RouteToken {
        self.token
    }

    /// Which of two routes of a kind is asked first. Filters: explicit order, broader path, older. Handlers: longer path,
    /// explicit order, narrower hosts, newer.
    pub(super) fn precedes(&self, other: &Route<H>) -> Ordering {
        let by_order = self.order().cmp(&other.order());
        let by_path = self.key.path.len().cmp(&other.key.path.len());
        let by_age = (self.id, self.token).cmp(&(other.id, other.token));
        match self.key.kind {
            RouteKind::Filter => by_order.then(by_path).then(by_age),
            RouteKind::Handler => by_path
                .reverse()
                .then(by_order)
                .then(breadth(&self.key.host).cmp(&breadth(&other.key.host)))
                .then(by_age.reverse()),
        }
    }
}

fn breadth(host: &HostPattern) -> usize {
    match host {
        HostPattern::Exact(_) => 0,
        // The longer the suffix, the fewer the hosts.
        HostPattern::Below(suffix) => usize::MAX / 2 - suffix.len(),
        HostPattern::Any => usize::MAX,
    }
}
