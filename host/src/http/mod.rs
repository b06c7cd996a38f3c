//! HTTP dispatch between instances: routes and exchanges, no wire format.

pub mod host;
pub mod path;
pub mod route;
pub mod site;
