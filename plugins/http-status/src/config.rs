//! The settings of this plugin.

use std::time::Duration;

use medusa_plugin_api::Config;

/// Shows what the server does.
#[derive(Config)]
pub(crate) struct Settings {
    /// Who is answered: `loopback` for programs on this machine (those behind a proxy on this machine count as such), or `everyone`.
    #[config(default = "loopback", one_of = ["loopback", "everyone"])]
    pub(crate) open_to: String,
    /// After how many seconds a browser asks for the page again; 0 for never.
    #[config(default = 10, max = 86_400)]
    pub(crate) refresh_s: u64,
    /// How long an instance may take to tell what it has to show of its own; then the others are shown without it.
    #[config(default = "1 s", min = 1)]
    pub(crate) patience: Duration,
}
