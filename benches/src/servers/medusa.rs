//! medusa, from the tree that `cargo xtask build` leaves, with all sample plugins.

use std::{
    env,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Result, site::Site};

/// The sample plugins that are neither HTTP nor extend it: each listens, and nobody asks.
const SERVERS: [&str; 2] = ["echo", "echo-session"];

/// The server's program.
pub(super) fn program() -> Result<PathBuf> {
    let program = tree()?.join("bin/medusa");
    if program.is_file() { Ok(program) } else { Err(missing()) }
}

/// HTTP with the files and the greeting, beside all the rest.
pub(super) fn configure(
    command: &mut Command,
    folder: &Path,
    site: &Site,
    port: u16,
    counters: bool,
) -> Result<()> {
    let mut text = format!(
        "[host]\nplugin_dir = {:?}\nstate_dir = \"state\"\ncounters = {counters}\n[monitor]\nsocket = \"medusa.sock\"\n\
         [[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:{port}\"]\n\
         [plugin.config]\nhealth = \"/health\"\nidle_timeout = \"1 h\"\n\
         [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n\
         [plugin.config]\nroot = {:?}\n\
         [[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\n",
        tree()?.join("plugins"),
        site.root()
    );
    for name in SERVERS {
        let _ = write!(
            text,
            "[[plugin]]\nname = {name:?}\nlibrary = {name:?}\nlisten = [\"127.0.0.1:0\"]\n"
        );
    }
    let config = super::write(folder, "medusa.toml", &text)?;
    command.arg("serve").arg("--config").arg(config);
    Ok(())
}

fn tree() -> Result<PathBuf> {
    env::var_os("MEDUSA_TREE").map(PathBuf::from).ok_or_else(missing)
}

fn missing() -> String {
    "MEDUSA_TREE names no tree; use `cargo xtask bench`, which builds one".to_owned()
}
