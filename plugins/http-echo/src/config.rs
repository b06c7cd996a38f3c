//! The settings of this plugin.

use medusa_plugin_api::{Config, Size};

/// Answers every request with the body that it got, and echoes WebSockets.
#[derive(Config)]
pub(crate) struct Settings {
    /// The longest message of a WebSocket; a longer one closes it with 1009.
    #[config(default = "1 MiB", min = 1, max = 67_108_864)]
    pub(crate) message_bytes_max: Size,
}
