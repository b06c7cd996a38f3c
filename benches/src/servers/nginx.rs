//! nginx at its best for these loads: one worker, sendfile, descriptors kept open, no log of requests.
//!
//! Nothing of the system's configuration is read: file, folder and log are its own.

use std::{path::Path, process::Command};

use crate::{Result, options::HELD_MAX, site::Site};

/// What nginx wants a folder for even if nobody uses it.
const FOLDERS: [&str; 5] = [
    "client_body_temp_path",
    "proxy_temp_path",
    "fastcgi_temp_path",
    "uwsgi_temp_path",
    "scgi_temp_path",
];

/// How many connections a worker has room for; it allocates them at its start.
const CONNECTIONS: usize = HELD_MAX + 1_000;

/// Writes its configuration; `listen` goes behind the address.
pub(super) fn configure(
    command: &mut Command,
    folder: &Path,
    site: &Site,
    port: u16,
    listen: &str,
) -> Result<()> {
    // The worker of a master that is root would be somebody else, who cannot look into the folders.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let folders: String = FOLDERS.map(|name| format!("  {name} {name};\n")).concat();
    let text = format!(
        "{user}worker_processes 1;\ndaemon off;\npid nginx.pid;\nerror_log stderr error;\n\
         events {{ worker_connections {CONNECTIONS}; }}\n\
         http {{\n{folders}  types {{ text/plain txt; }}\n  default_type application/octet-stream;\n  \
         access_log off;\n  sendfile on;\n  tcp_nopush off;\n  \
         keepalive_timeout 3600s;\n  keepalive_requests 1000000000;\n  \
         open_file_cache max=1000 inactive=3600s;\n  \
         server {{\n    listen 127.0.0.1:{port} backlog=4096{listen};\n    root {:?};\n  }}\n}}\n",
        site.root()
    );
    let config = super::write(folder, "nginx.conf", &text)?;
    command.arg("-c").arg(config).arg("-p").arg(folder).args(["-e", "stderr"]);
    Ok(())
}
