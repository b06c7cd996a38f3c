//! One route: what is mounted where, and in which order it is asked.

use std::{cmp::Ordering, fmt};

use crate::http::host::HostPattern;

/// What a route does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Wraps what is behind it.
    Filter,
    /// Answers, or passes on.
    Handler,
    /// Hears of their end.
    Observer,
}

impl RouteKind {
    /// All of them.
    pub const ALL: [RouteKind; 3] = [RouteKind::Filter, RouteKind::Handler, RouteKind::Observer];

    /// The word of the monitor.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RouteKind::Filter => "filter",
            RouteKind::Handler => "handler",
            RouteKind::Observer => "observer",
        }
    }
}

/// What names a route through upgrades of its instance, and restarts of the host: the same key, the same number and the same
/// place in the order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey {
    /// The instance that it belongs to.
    pub instance: Box<str>,
    /// What it does.
    pub kind: RouteKind,
    /// The hosts that it is for.
    pub host: HostPattern,
    /// Where it is mounted, as [`crate::http::path::mount_point`] writes it: `/dav`, or empty for the root.
    pub path: Box<str>,
    /// Tells apart what one instance mounts at one place: 0 for the first.
    pub index: u32,
}

impl RouteKey {
    /// The path as people write it: `/` for the root.
    #[must_use]
    pub fn path_shown(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }

    /// Whether the order between two routes can be chosen: filters are all asked one after the other, handlers only among
    /// those of the same path, for a longer one comes before a shorter one.
    #[must_use]
    pub fn stands_beside(&self, other: &RouteKey) -> bool {
        self.kind == other.kind
            && match self.kind {
                RouteKind::Filter => true,
                RouteKind::Handler => self.path == other.path,
                RouteKind::Observer => false,
            }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteKey { instance, kind, host, .. } = self;
        write!(f, "the {} of `{instance}` at {host}{}", kind.as_str(), self.path_shown())
    }
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
    pub order: i32,
    /// Whoever answers.
    pub handler: H,
    pub(super) token: RouteToken,
}

impl<H> Route<H> {
    /// How many bytes of a matching path are where the route is mounted; 0 at the root.
    #[must_use]
    pub fn mount_length(&self) -> usize {
        self.key.path.len()
    }

    /// Names this registration.
    #[must_use]
    pub fn token(&self) -> RouteToken {
        self.token
    }

    /// Which of two routes of a kind is asked first, unless the operator says otherwise. Filters: explicit order, broader
    /// path, older. Handlers: longer path, explicit order, fewer hosts, newer. Observers: older.
    pub(super) fn precedes(&self, other: &Route<H>) -> Ordering {
        let by_order = self.order.cmp(&other.order);
        let by_path = self.key.path.len().cmp(&other.key.path.len());
        let by_age = self.id.cmp(&other.id);
        match self.key.kind {
            RouteKind::Filter => by_order.then(by_path).then(by_age),
            RouteKind::Handler => by_path
                .reverse()
                // Those of one path stand together; no request asks for two paths of one length.
                .then_with(|| self.key.path.cmp(&other.key.path))
                .then(by_order)
                .then_with(|| breadth(&self.key.host).cmp(&breadth(&other.key.host)))
                .then(by_age.reverse()),
            RouteKind::Observer => by_age,
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
