//! lighttpd at its best for these loads: nothing but its handler of files, and as many requests per connection as it allows.

use std::{path::Path, process::Command};

use crate::{Result, site::Site};

/// Writes its configuration.
pub(super) fn configure(
    command: &mut Command,
    folder: &Path,
    site: &Site,
    port: u16,
) -> Result<()> {
    let text = format!(
        "server.document-root = {:?}\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
         server.compat-module-load = \"disable\"\nserver.modules = ( \"mod_staticfile\" )\n\
         mimetype.assign = ( \".txt\" => \"text/plain\", \"\" => \"application/octet-stream\" )\n\
         server.max-keep-alive-requests = 65535\nserver.max-keep-alive-idle = 3600\n\
         server.max-fds = 4096\nserver.listen-backlog = 4096\n",
        site.root()
    );
    let config = super::write(folder, "lighttpd.conf", &text)?;
    command.arg("-D").arg("-f").arg(config);
    Ok(())
}
