//! HTTP: requests, responses and bodies, and what a plugin registers to answer, wrap or observe them.

mod body;
mod escaped;
pub(crate) mod fields;
mod filter;
pub(crate) mod handler;
mod limited;
mod observer;
mod permit;
mod pulled;
pub(crate) mod request;
mod response;
mod route;
mod stream;
mod switch;
mod tower;

pub use self::{
    body::Body,
    escaped::Escaped,
    filter::Next,
    limited::Limited,
    observer::{Outcome, Record},
    permit::Permit,
    request::Request,
    response::{Response, ResponseExt},
    route::Route,
};
pub(crate) use self::{filter::add_filter, observer::add_observer};
pub(crate) use self::{
    handler::add_handler, permit::clear_permits, stream::clear_streams, switch::clear_switches,
    tower::add_service,
};
