//! The files that are asked for, in a folder of their own for the length of the run.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::Result;

/// The files, and the size of each.
const FILES: [(&str, usize); 3] =
    [("1k.txt", 1024), ("100k.bin", 100 * 1024), ("10m.bin", 10 * 1024 * 1024)];

/// A folder that is gone when this is dropped.
pub(crate) struct Site {
    folder: TempDir,
}

impl Site {
    /// Writes the files.
    pub(crate) fn create() -> Result<Site> {
        let site = Site { folder: folder()? };
        for (name, bytes) in FILES {
            // Real blocks, not a hole, and printable.
            let content: Vec<u8> = (b'!'..=b'~').cycle().take(bytes).collect();
            fs::write(site.root().join(name), content)
                .map_err(|error| format!("{name} cannot be written: {error}"))?;
        }
        Ok(site)
    }

    /// The folder.
    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// An empty folder that is gone when it is dropped.
pub(crate) fn folder() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("medusa-bench-")
        .tempdir()
        .map_err(|error| format!("no temporary folder can be made: {error}"))
}
