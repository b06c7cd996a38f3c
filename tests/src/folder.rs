//! A server's own folder: configuration, files to serve, and a plugin folder that a test may change.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{CtlOutput, Server, Tree, ctl, wait::PATIENCE};

/// A temporary folder, gone with its server. Its `plugins` folder has every plugin and fixture of the tree.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    program: PathBuf,
}

impl Folder {
    /// Makes one.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    #[allow(
        clippy::new_without_default,
        reason = "a folder on disk is nothing one gets by default"
    )]
    pub fn new() -> Self {
        // The system's own temporary folder has a short name: the path of a Unix socket ends at 107 bytes.
        let folder = tempfile::Builder::new()
            .prefix("medusa-")
            .tempdir()
            .expect("a temporary folder can be made");
        let folder = Self { folder, program: Tree::get().program() };
        fs::create_dir(folder.path("plugins")).expect("a folder can be made in a new folder");
        for library in Tree::get().libraries() {
            let name = library.file_name().expect("a library has a name").to_owned();
            symlink(&library, folder.path("plugins").join(name))
                .expect("a link can be made in a new folder");
        }
        folder
    }

    /// Has another build of the host run here.
    #[must_use]
    pub fn with_program(mut self, program: &Path) -> Self {
        self.program = program.to_owned();
        self
    }

    /// The host's program that runs here: the tree's, unless a test wants another.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The path of something in it.
    #[must_use]
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Writes a file, and the folders above it. For use in a chain.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    #[track_caller]
    pub fn with(self, relative: &str, contents: impl AsRef<[u8]>) -> Self {
        self.write(relative, contents);
        self
    }

    /// Replaces a file, or makes it and the folders above it; never writes into one that is there.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, relative: &str, contents: impl AsRef<[u8]>) {
        let path = self.path(relative);
        let above = path.parent().expect("a file lies in a folder");
        fs::create_dir_all(above)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", above.display()));
        let new = path.with_extension("new");
        fs::write(&new, contents)
            .and_then(|()| fs::rename(&new, &path))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Puts a library under a name into this server's plugin folder, in the place of what was there.
    ///
    /// # Panics
    ///
    /// When it cannot be read or written.
    #[track_caller]
    pub fn install(&self, name: &str, library: &Path) {
        let contents = fs::read(library)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", library.display()));
        self.write(&format!("plugins/{name}.so"), contents);
    }

    /// Writes `medusa.toml` and returns its path. Folders and socket that the text leaves out are filled in at its end,
    /// so that its lines keep their numbers.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[track_caller]
    pub fn configure(&self, configuration: &str) -> PathBuf {
        self.write("medusa.toml", completed(configuration));
        self.path("medusa.toml")
    }

    /// Runs `medusa ARGUMENTS` here, with this text as its standard input.
    ///
    /// # Panics
    ///
    /// When it has not ended after a minute.
    #[track_caller]
    pub fn medusa<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
        input: &str,
    ) -> CtlOutput {
        let mut command = Command::new(&self.program);
        ctl::run(command.current_dir(self.path("")).args(arguments), input, PATIENCE)
    }

    /// The monitor's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("run/medusa.sock")
    }

    /// Starts a server here and waits until it serves.
    ///
    /// # Panics
    ///
    /// When it does not; the message holds what it said.
    #[must_use]
    #[track_caller]
    pub fn start(self, configuration: &str) -> Server {
        self.begin(configuration).running()
    }

    /// Starts a server here and waits until its monitor answers, not until its instances are loaded.
    ///
    /// # Panics
    ///
    /// As [`Folder::start`].
    #[must_use]
    #[track_caller]
    pub fn begin(self, configuration: &str) -> Server {
        Server::start_in(self, configuration)
    }

    /// As [`Folder::start`], by a command that runs `medusa serve` with `medusa.toml` of the folder. Its standard error becomes the log.
    ///
    /// # Panics
    ///
    /// As [`Folder::start`].
    #[must_use]
    #[track_caller]
    pub fn start_by(self, configuration: &str, command: impl FnOnce(&Folder) -> Command) -> Server {
        Server::start_by(self, configuration, command).running()
    }
}

/// Adds what a test rarely cares about. A `[host]` or `[monitor]` of the test's own gets the keys that it lacks.
fn completed(configuration: &str) -> String {
    let mut text = configuration.to_owned();
    let defaults: [(&str, &[(&str, &str)]); 2] = [
        ("[host]", &[("plugin_dir", "plugins"), ("state_dir", "state")]),
        ("[monitor]", &[("socket", "run/medusa.sock")]),
    ];
    for (table, keys) in defaults {
        let start = text.lines().position(|line| line.trim() == table);
        let own: Vec<String> = match start {
            Some(start) => text
                .lines()
                .skip(start + 1)
                .take_while(|line| !line.starts_with('['))
                .map(str::to_owned)
                .collect(),
            None => Vec::new(),
        };
        let has = |key: &str| {
            own.iter().any(|line| line.split('=').next().is_some_and(|it| it.trim() == key))
        };
        let lacking: Vec<String> = keys
            .iter()
            .filter(|(key, _)| !has(key))
            .map(|(key, value)| format!("{key} = {value:?}"))
            .collect();
        match start {
            None => text = format!("{}\n\n{table}\n{}\n", text.trim_end(), lacking.join("\n")),
            // On the same line the keys cannot stand, so a table of the test's own moves the lines below it.
            Some(_) => text = text.replacen(table, &format!("{table}\n{}", lacking.join("\n")), 1),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_filled_in() {
        let text = completed("[[plugin]]\nname = \"a\"\n");
        assert!(
            text.starts_with(
                "[[plugin]]\nname = \"a\"\n\n[host]\nplugin_dir = \"plugins\"\nstate_dir"
            ),
            "{text}"
        );
        assert!(text.ends_with("[monitor]\nsocket = \"run/medusa.sock\"\n"), "{text}");
    }

    #[test]
    fn what_is_there_stays() {
        let text = completed(
            "[host]\nplugin_dir = \"other\"\n[host.limits]\nstate_dir = 1\n[monitor]\nsocket = \"s\"\n",
        );
        assert_eq!(text.matches("plugin_dir").count(), 1);
        assert_eq!(text.matches("state_dir").count(), 2);
        assert_eq!(text.matches("socket").count(), 1);
    }
}
