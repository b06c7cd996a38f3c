//! From a request to a response.

use http::{HeaderValue, header};
use medusa_plugin_api::{Request, Response, ResponseExt, Result, StatusCode};

use crate::{
    config::Settings,
    gather::{self, Report},
    health, metrics, page,
};

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    Page,
    Json,
    Metrics,
    Health,
}

impl View {
    /// By the path beneath the mount.
    fn of(path: &str) -> Option<View> {
        Some(match path {
            "/" => View::Page,
            "/status.json" => View::Json,
            "/metrics" => View::Metrics,
            "/health" => View::Health,
            _ => return None,
        })
    }
}

/// Nothing but the page's own style is needed, and nobody else's page has to show it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
);

/// Answers a request, or passes it on if it is for nothing of this plugin's.
pub(crate) async fn answer(request: Request, settings: &Settings) -> Result<Response> {
    let Some(view) = View::of(request.path_beneath()) else { return Ok(Response::pass()) };
    let mut response = if !may_see(&request, settings) {
        Response::text(
            "403 Forbidden\n\nOnly programs on this machine are answered here; the setting `open_to` can change that.\n",
        )
        .with_status(StatusCode::FORBIDDEN)
    } else if !matches!(request.method_str(), "GET" | "HEAD") {
        Response::text("405 Method Not Allowed\n\nThis can be read, and no more.\n")
            .with_status(StatusCode::METHOD_NOT_ALLOWED)
            .with_header("allow", "GET, HEAD")?
    } else {
        view.show(request.mount(), settings).await?
    };
    let fields = response.headers_mut();
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    fields.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    Ok(response)
}

/// A client without an address came by a Unix socket, and so from this machine.
fn may_see(request: &Request, settings: &Settings) -> bool {
    settings.open_to == "everyone"
        || request.remote_addr().is_none_or(|peer| peer.ip().to_canonical().is_loopback())
}

impl View {
    async fn show(self, mount: &str, settings: &Settings) -> Result<Response> {
        Ok(match self {
            View::Page => {
                let report = gather::of_all(settings.patience).await?;
                Response::html(page::page(&report, mount, settings.refresh_s))
            }
            View::Json => {
                let report = gather::of_all(settings.patience).await?;
                Response::json(report.into_json().to_string() + "\n")
            }
            View::Metrics => {
                let report: Report = gather::of_host().await?;
                Response::bytes(metrics::CONTENT_TYPE, metrics::metrics(&report))
            }
            View::Health => {
                let (is_good, said) = health::health(&gather::of_host().await?);
                let status = if is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Response::json(said.to_string() + "\n").with_status(status)
            }
        })
    }
}
