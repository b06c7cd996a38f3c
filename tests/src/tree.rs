//! The built tree that the tests run: host, plugins and fixtures.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// A folder with `bin/medusa`, `plugins/NAME.so`, `fixtures/NAME.so` and `site/`.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree that `MEDUSA_TREE` names; without it, one that is built now, once per process.
    ///
    /// # Panics
    ///
    /// When it cannot be built.
    pub fn get() -> &'static Self {
        static TREE: OnceLock<Tree> = OnceLock::new();
        TREE.get_or_init(|| Self {
            root: env::var_os("MEDUSA_TREE").map_or_else(build, PathBuf::from),
        })
    }

    /// The tree's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The program `medusa`.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.root.join("bin/medusa")
    }

    /// The library of a plugin, or of a fixture where no plugin has the name.
    ///
    /// # Panics
    ///
    /// When neither is there.
    #[must_use]
    #[track_caller]
    pub fn library(&self, name: &str) -> PathBuf {
        let candidates =
            ["plugins", "fixtures"].map(|folder| self.root.join(folder).join(format!("{name}.so")));
        let found = candidates.into_iter().find(|path| path.is_file());
        found.unwrap_or_else(|| {
            panic!("no plugin and no fixture is called {name} in {}", self.root.display())
        })
    }

    /// The libraries of all plugins and fixtures, by name.
    ///
    /// # Panics
    ///
    /// When the folder cannot be read.
    #[must_use]
    pub fn libraries(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in ["plugins", "fixtures"] {
            let Ok(entries) = fs::read_dir(self.root.join(folder)) else { continue };
            let paths =
                entries.map(|entry| entry.expect("an entry of the tree can be read").path());
            found.extend(paths.filter(|path| path.extension().is_some_and(|it| it == "so")));
        }
        found.sort();
        found
    }
}

/// Builds the tree as `cargo xtask test` does. Several test programs may come here at once: one builds, the others
/// wait and find everything up to date.
fn build() -> PathBuf {
    let workspace =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the harness lies in the workspace");
    // The test program is TARGET/PROFILE/deps/NAME.
    let program = env::current_exe().expect("a process knows its program");
    let target = program
        .ancestors()
        .nth(3)
        .expect("a test program lies three folders below the target folder");
    let lock = File::create(target.join("medusa-test.lock"))
        .expect("a file can be made in the target folder");
    lock.lock().expect("the lock on the test tree can be had");
    let tree = target.join("medusa-test");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(workspace)
        .args(["xtask", "build", "--fixtures", "--profile", "test-run", "--tree"])
        .arg(&tree)
        .output()
        .expect("cargo can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cannot build the tree that tests run:\n{said}");
    tree
}
