//! Tower services as handlers: an axum `Router`, say.

use std::future::poll_fn;

use http::uri::PathAndQuery;
use medusa_abi::http::ROUTE_HANDLER;
use tower_service::Service;

use crate::{
    error::{Error, Result},
    http::{Body, Request, Response, Route, handler::add_route},
    register::Registration,
};

/// Mounts a tower service. It is cloned for each request, as tower asks of those who call it from several places.
pub(crate) fn add_service<S, B>(route: &Route, service: S) -> Result<Registration>
where
    S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: 'static,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let call = move |request: Request| {
        let mut service = service.clone();
        async move {
            poll_fn(|context| service.poll_ready(context)).await.map_err(Error::from_boxed)?;
            let response = service.call(beneath_mount(request)).await.map_err(Error::from_boxed)?;
            Ok(with_whole_body(response).await)
        }
    };
    add_route(route, ROUTE_HANDLER, call)
}

/// The request with the path beneath the mount, as services that are nested elsewhere expect it.
fn beneath_mount(request: Request) -> http::Request<Body> {
    let target = match request.query() {
        Some(query) => format!("{}?{query}", request.path_beneath()),
        None => request.path_beneath().to_owned(),
    };
    let moved = !request.mount().is_empty();
    let mut request = request.into_http();
    if moved && let Ok(target) = target.parse::<PathAndQuery>() {
        *request.uri_mut() = target.into();
    }
    request
}

/// A body whose length is known and whose first frame is all of it crosses in one call with the head.
async fn with_whole_body<B>(response: http::Response<B>) -> Response
where
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const WHOLE_BYTES_MAX: u64 = 64 * 1024;
    let (parts, body) = response.into_parts();
    let small = body.size_hint().exact().is_some_and(|length| length <= WHOLE_BYTES_MAX);
    let mut body = Body::wrap(body);
    if small {
        // Such a body is nearly always in memory; if it is not, waiting for so little costs less than a stream does.
        match body.bytes(WHOLE_BYTES_MAX as usize).await {
            Ok(bytes) => body = Body::full(bytes),
            Err(error) => {
                tracing::warn!("the service's body failed: {error}");
                let mut response = http::Response::new(Body::empty());
                *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
                return response;
            }
        }
    }
    http::Response::from_parts(parts, body)
}
