//! The settings of this plugin.

use std::time::Duration;

use medusa_plugin_api::{Config, Size};

/// HTTP/1.1 (RFC 9110, RFC 9112).
#[derive(Config)]
pub(crate) struct Settings {
    /// How long a request's head may take, from its first byte; a new connection gets as long for its first request.
    #[config(default = "15 s", min = 1)]
    pub(crate) head_timeout: Duration,
    /// How long may pass between two pieces of a request's body.
    #[config(default = "30 s", min = 1)]
    pub(crate) body_timeout: Duration,
    /// How long a connection is kept open between two requests.
    #[config(default = "75 s", min = 1)]
    pub(crate) idle_timeout: Duration,
    /// How long a connection that asks for nothing keeps its buffers at hand, before it rests in the host without any.
    #[config(default = "250 ms")]
    pub(crate) park_after: Duration,
    /// How long a client may read nothing of a response that waits for it.
    #[config(default = "60 s", min = 1)]
    pub(crate) send_timeout: Duration,
    /// How long a client that has ended its half is answered, from the beginning of each request and from each piece of a
    /// response: it may wait, or may have gone; nobody can tell.
    #[config(default = "2 s", min = 1)]
    pub(crate) ended_timeout: Duration,
    /// The longest head of a request, else 431.
    #[config(default = "32 KiB", min = 256, max = 1_048_576)]
    pub(crate) head_bytes_max: Size,
    /// The longest target of a request (path and query), else 414.
    #[config(default = "8 KiB", min = 1, max = 65_534)]
    pub(crate) target_bytes_max: Size,
    /// The most header fields of a request, else 431.
    #[config(default = 100, min = 1, max = 1_000)]
    pub(crate) fields_max: u64,
    /// The longest body of a request, else 413.
    #[config(default = "1 GiB")]
    pub(crate) body_bytes_max: Size,
    /// How much of a body that no handler wanted is read, so that its connection can be used again.
    #[config(default = "64 KiB")]
    pub(crate) drain_bytes_max: Size,
    /// How much memory is used for answers that may be given again without asking who gave them; 0 for none.
    #[config(default = "32 MiB")]
    pub(crate) cache_bytes_max: Size,
    /// The most connections of the instance, else 503.
    #[config(default = 20_000, min = 1)]
    pub(crate) connections_max: u64,
    /// The most requests on one connection; the last is answered with `Connection: close`.
    #[config(default = 1_000_000, min = 1)]
    pub(crate) requests_max: u64,
    /// The field `Server` of responses; empty for none.
    #[config(default = "medusa")]
    pub(crate) server: String,
    /// The path of a health check, which is answered with `ok` by the server itself; empty for none.
    #[config(default = "")]
    pub(crate) health: String,
}
