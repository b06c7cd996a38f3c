//! The settings of this plugin.

use std::{path::PathBuf, time::Duration};

use medusa_plugin_api::{Config, Size};

/// Serves the files of a folder.
#[derive(Config)]
pub(crate) struct Settings {
    /// The folder that is served.
    pub(crate) root: PathBuf,
    /// What is served for a folder, the first that is there.
    #[config(default = ["index.html"])]
    pub(crate) index: Vec<String>,
    /// Whether a folder without such a file is listed.
    #[config(default = false)]
    pub(crate) listing: bool,
    /// Which symbolic links are followed: none, or those that stay beneath the root.
    #[config(default = "beneath", one_of = ["none", "beneath"])]
    pub(crate) symlinks: String,
    /// Whether names that begin with a dot are served; `.well-known` in the root always is.
    #[config(default = false)]
    pub(crate) dotfiles: bool,
    /// The content type of files whose name tells none.
    #[config(default = "application/octet-stream")]
    pub(crate) default_type: String,
    /// The field `Cache-Control` of files; empty for none.
    #[config(default = "")]
    pub(crate) cache_control: String,
    /// How long a file is taken for unchanged after it was looked at, so that it can be given again without opening it; 0 to look at it for
    /// each request.
    #[config(default = "1 s")]
    pub(crate) check_every: Duration,
    /// The most ranges of one request; with more, the whole file is sent.
    #[config(default = 16, min = 1, max = 1_000)]
    pub(crate) ranges_max: u64,
    /// How much of a file is read at once for a response of several ranges; single ones are sent by the host.
    #[config(default = "64 KiB", min = 1, max = 16_777_216)]
    pub(crate) read_bytes: Size,
}
