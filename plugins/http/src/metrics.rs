//! What the server counts.

use http::StatusCode;
use medusa_plugin_api::{Counter, Gauge, Registrar};

/// The metrics of one instance.
pub(crate) struct Metrics {
    requests: Counter,
    /// By the first digit of the status, from 2 to 5.
    responses: [Counter; 4],
    response_bytes: Counter,
    bad_requests: Counter,
    connections: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn new(registrar: &mut Registrar) -> Metrics {
        let mut class = |class: &str| {
            let help = format!("Responses with a status of {class}.");
            registrar.counter(&format!("http_responses_{class}_total"), &help)
        };
        let responses = [class("2xx"), class("3xx"), class("4xx"), class("5xx")];
        Metrics {
            responses,
            requests: registrar.counter("http_requests_total", "Requests that came to a handler."),
            response_bytes: registrar.counter(
                "http_response_body_bytes",
                "Bytes of response bodies that extensions sent.",
            ),
            bad_requests: registrar
                .counter("http_bad_requests_total", "Requests that were refused unread."),
            connections: registrar.gauge("http_connections", "Connections that are open."),
        }
    }

    pub(crate) fn request(&self) {
        self.requests.increment();
    }

    pub(crate) fn response(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100);
        if let Some(counter) = class.checked_sub(2).and_then(|index| self.responses.get(index)) {
            counter.increment();
        }
    }

    pub(crate) fn bytes(&self, count: u64) {
        self.response_bytes.add(count);
    }

    pub(crate) fn bad_request(&self) {
        self.bad_requests.increment();
    }

    pub(crate) fn connected(&self) {
        self.connections.add(1);
    }

    pub(crate) fn disconnected(&self) {
        self.connections.subtract(1);
    }
}
