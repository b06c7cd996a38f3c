//! The runnable tree: `bin/medusa`, `plugins/NAME.so`, `medusa.toml`, `site/`.
//!
//! Files are replaced, never written in place: a running server may have them mapped.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use crate::Result;

/// A folder that holds, or will hold, everything that a server needs.
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
}

impl Tree {
    /// The server's program.
    pub(crate) fn program(&self) -> PathBuf {
        self.root.join("bin/medusa")
    }

    /// The sample configuration.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.root.join("medusa.toml")
    }

    /// Whether a server that was started on the sample configuration runs.
    pub(crate) fn is_served(&self) -> bool {
        UnixStream::connect(self.root.join("run/medusa.sock")).is_ok()
    }

    /// Whether a plugin is there under this name.
    pub(crate) fn has_plugin(&self, name: &str) -> bool {
        self.root.join(format!("plugins/{name}.so")).is_file()
    }

    /// Copies a file to a path in the tree.
    pub(crate) fn place(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.root.join(to);
        self.replace(&to, |new| fs::copy(from, new).map(drop)).map_err(|error| {
            format!("cannot copy {} to {}: {error}", from.display(), to.display()).into()
        })
    }

    /// Writes a text to a path in the tree.
    pub(crate) fn write(&self, text: &str, to: &str) -> Result<()> {
        let to = self.root.join(to);
        self.replace(&to, |new| fs::write(new, text))
            .map_err(|error| format!("cannot write {}: {error}", to.display()).into())
    }

    /// Leaves a file of so many zeros, which takes no room on the disk.
    pub(crate) fn place_zeros(&self, bytes: u64, to: &str) -> Result<()> {
        let to = self.root.join(to);
        self.replace(&to, |new| fs::File::create(new)?.set_len(bytes))
            .map_err(|error| format!("cannot write {}: {error}", to.display()).into())
    }

    /// Copies a folder and everything below it; what was there and is not in `from` stays.
    pub(crate) fn place_folder(&self, from: &Path, to: &str) -> Result<()> {
        let entries = fs::read_dir(from)
            .map_err(|error| format!("cannot read {}: {error}", from.display()))?;
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                format!("{} has a name that is not UTF-8", entry.path().display())
            })?;
            let below = format!("{to}/{name}");
            match entry.file_type()?.is_dir() {
                true => self.place_folder(&entry.path(), &below)?,
                false => self.place(&entry.path(), &below)?,
            }
        }
        Ok(())
    }

    fn replace(
        &self,
        to: &Path,
        write: impl Fn(&Path) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let folder = to.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder)?;
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        let new = folder.join(format!(".{name}.{}.new", std::process::id()));
        let outcome = write(&new).and_then(|()| fs::rename(&new, to));
        if outcome.is_err() {
            let _ = fs::remove_file(&new);
        }
        outcome
    }
}
