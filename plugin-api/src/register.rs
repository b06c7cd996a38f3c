//! Registrations: what the plugin offers, each with a token whose drop takes it back.
//!
//! [`Registrar`](crate::Registrar) is for what stays as long as the plugin; the functions here register at any time, at
//! once.

use std::{fmt, future::Future};

use tower_service::Service;

use crate::{
    command::{Arguments, CommandSpec},
    error::Result,
    handle::Owned,
    http::{Body, Next, Record, Request, Response, Route},
    metric::Metric,
    service::Replies,
};

pub use crate::metric::{Counter, Gauge};

/// Something that is registered with the host. Dropping it takes it back: a handler gets no further requests, a command is
/// gone from the monitor.
#[must_use = "what is registered is taken back when this is dropped"]
pub struct Registration(Owned);

impl Registration {
    pub(crate) fn new(handle: Owned) -> Registration {
        Registration(handle)
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registration").field(&self.0.get()).finish()
    }
}

/// Mounts a handler; see [`Registrar::http`](crate::Registrar::http).
///
/// # Errors
/// When the route makes no sense, and when the instance is attached to no server of HTTP.
pub fn http<F, Fut>(route: impl Into<Route>, handler: F) -> Result<Registration>
where
    F: Fn(Request) -> Fut + 'static,
    Fut: Future<Output = Result<Response>> + 'static,
{
    crate::http::add_handler(&route.into(), handler)
}

/// Mounts a tower service; see [`Registrar::http_service`](crate::Registrar::http_service).
///
/// # Errors
/// As [`http`].
pub fn http_service<S, B>(route: impl Into<Route>, service: S) -> Result<Registration>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: 'static,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    crate::http::add_service(&route.into(), service)
}

/// Mounts a filter; see [`Registrar::filter`](crate::Registrar::filter).
///
/// # Errors
/// As [`http`].
pub fn filter<F, Fut>(route: impl Into<Route>, filter: F) -> Result<Registration>
where
    F: Fn(Request, Next) -> Fut + 'static,
    Fut: Future<Output = Result<Response>> + 'static,
{
    crate::http::add_filter(&route.into(), filter)
}

/// Adds an observer; see [`Registrar::observer`](crate::Registrar::observer).
///
/// # Errors
/// As [`http`].
pub fn observer<F>(observer: F) -> Result<Registration>
where
    F: Fn(&Record<'_>) + 'static,
{
    crate::http::add_observer(observer)
}

/// Adds a monitor command; see [`Registrar::command`](crate::Registrar::command).
///
/// # Errors
/// When the instance has a command of that name already.
pub fn command<F, Fut>(spec: CommandSpec, handler: F) -> Result<Registration>
where
    F: Fn(Arguments) -> Fut + 'static,
    Fut: Future<Output = Result<String>> + 'static,
{
    crate::command::add_command(&spec, handler)
}

/// Offers a service to other instances; see [`Registrar::responder`](crate::Registrar::responder).
///
/// # Errors
/// `PermissionDenied` without the capability `services`; also when the instance offers one of that name already,
/// or the name is one of the host's: those begin with `medusa.`.
pub fn responder<Q, R, F, Fut>(service: &str, version: u32, handler: F) -> Result<Registration>
where
    Q: serde::de::DeserializeOwned + 'static,
    R: serde::Serialize + 'static,
    F: Fn(Q, Replies<R>) -> Fut + 'static,
    Fut: Future<Output = Result<()>> + 'static,
{
    crate::service::add_responder(service, version, handler)
}

/// Adds a counter; it is taken back when its last clone is dropped.
///
/// # Errors
/// When the instance has a metric of that name already.
pub fn counter(name: &str, help: &str) -> Result<Counter> {
    let metric = Metric::counter(name, help);
    metric.register()?;
    Ok(Counter::of(metric))
}

/// Adds a gauge; it is taken back when its last clone is dropped.
///
/// # Errors
/// As [`counter`].
pub fn gauge(name: &str, help: &str) -> Result<Gauge> {
    let metric = Metric::gauge(name, help);
    metric.register()?;
    Ok(Gauge::of(metric))
}
