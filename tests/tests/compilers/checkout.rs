//! Copies of the workspace's sources with a few lines changed, and what is built of them.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The profile that the tree is built with, so that the crates of others are compiled once for all.
const PROFILE: &str = "test-run";

/// A copy of some members of the workspace. Kept under the target folder, so that the next run finds it built.
pub(crate) struct Checkout {
    root: PathBuf,
}

/// A change of one file: the one place where the first text stands gets the second.
pub(crate) type Patch = (&'static str, &'static str, &'static str);

impl Checkout {
    /// Copies these packages, patched. The version tells them from the workspace's own in cargo's target folder.
    #[track_caller]
    pub(crate) fn of(name: &str, version: &str, packages: &[&str], patches: &[Patch]) -> Self {
        let root = target().join("checkouts").join(name);
        let workspace = workspace();
        for package in packages {
            copy(&workspace, &root, Path::new(package), patches);
        }
        write(&root.join("Cargo.lock"), read(&workspace.join("Cargo.lock")));
        let quoted: Vec<_> = packages.iter().map(|package| format!("{package:?}")).collect();
        let members = format!("members = [{}]", quoted.join(", "));
        let lines = read(&workspace.join("Cargo.toml"));
        let lines = lines.lines().filter_map(|line| match line.split(" = ").next() {
            Some("members") => Some(members.clone()),
            Some("default-members" | "exclude") => None,
            Some("version") => Some(format!("version = {version:?}")),
            _ => Some(line.to_owned()),
        });
        write(&root.join("Cargo.toml"), lines.collect::<Vec<_>>().join("\n"));
        Self { root }
    }

    /// Builds a package, and returns a copy of the file that cargo leaves under this name.
    #[track_caller]
    pub(crate) fn build(&self, package: &str, file: &str) -> PathBuf {
        let target = target();
        run(cargo(&self.root, &target).args(["--package", package]));
        let copy = self.root.join(file);
        fs::copy(target.join(PROFILE).join(file), &copy).expect("what was built can be copied");
        copy
    }
}

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie in the workspace").to_owned()
}

/// The oldest compiler that the workspace is made for: 95 of `rust-version = "1.95"`.
#[track_caller]
pub(crate) fn rust_minor() -> u32 {
    let manifest = read(&workspace().join("Cargo.toml"));
    let line = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"1."));
    let minor = line.and_then(|rest| rest.split(['.', '"']).next()?.parse().ok());
    minor.expect("the workspace says its rust-version")
}

/// cargo's target folder: a test program is TARGET/PROFILE/deps/NAME.
pub(crate) fn target() -> PathBuf {
    let program = env::current_exe().expect("a process knows its program");
    program.ancestors().nth(3).expect("a test program lies three folders below").to_owned()
}

/// `cargo build` in a folder, with nothing fetched.
pub(crate) fn cargo(folder: &Path, target: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).args(["build", "--offline", "--profile", PROFILE]);
    cargo.env("CARGO_TARGET_DIR", target);
    cargo
}

/// Runs a command that has to succeed.
#[track_caller]
pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{said}");
}

/// Copies what lies below a folder of the workspace.
#[track_caller]
fn copy(workspace: &Path, root: &Path, folder: &Path, patches: &[Patch]) {
    for entry in fs::read_dir(workspace.join(folder)).expect("a package's folder can be read") {
        let entry = entry.expect("an entry of a folder can be read");
        let path = folder.join(entry.file_name());
        if entry.file_type().expect("an entry has a kind").is_dir() {
            copy(workspace, root, &path, patches);
            continue;
        }
        let mut contents = fs::read(entry.path()).expect("a package's file can be read");
        for (_, from, to) in patches.iter().filter(|(file, ..)| Path::new(file) == path) {
            let text = String::from_utf8(contents).expect("a source is text");
            let found = text.matches(from).count();
            assert_eq!(found, 1, "`{from}` should stand once in {}", path.display());
            contents = text.replacen(from, to, 1).into_bytes();
        }
        write(&root.join(&path), contents);
    }
}

/// Writes a file, unless that is what it holds: cargo builds again what is newer.
fn write(path: &Path, contents: impl AsRef<[u8]>) {
    if fs::read(path).is_ok_and(|old| old == contents.as_ref()) {
        return;
    }
    let above = path.parent().expect("a file lies in a folder");
    fs::create_dir_all(above)
        .and_then(|()| fs::write(path, contents))
        .expect("a copy can be written");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}
