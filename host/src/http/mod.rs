//! HTTP dispatch between instances: routes and exchanges, no wire format.

pub mod host;
pub mod order;
pub mod path;
pub mod route;
pub mod site;

// What the layers above speak of; the rest is named by its module.
pub use host::HostPattern;
pub use order::{Move, MoveError, Place};
pub use route::{Route, RouteKey, RouteKind, RouteToken};
pub use site::{Matches, Room, RouteTable, Site};
