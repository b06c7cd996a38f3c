//! HTTP dispatch between instances: routes and exchanges, no wire format.

pub mod host;
pub mod path;
pub mod route;
pub mod site;

// What the layers above speak of; the rest is named by its module.
pub use host::HostPattern;
pub use route::{Route, RouteKey, RouteKind, RouteToken};
pub use site::{Matches, RouteTable, Site};
