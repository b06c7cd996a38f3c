//! Programs that a test needs and that may not be installed.

use std::{
    env,
    fs::{File, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::Tree;

/// Finds a program, or installs the Debian package of the same name; or says loudly that the test is skipped.
///
/// ```no_run
/// let Some(curl) = medusa_tests::tool("curl") else { return };
/// ```
///
/// # Panics
///
/// In CI, where nothing may be skipped.
#[must_use]
#[track_caller]
pub fn tool(name: &str) -> Option<PathBuf> {
    tool_from(name, name)
}

/// As [`tool`], for a program (a name or a whole path) that another package holds.
///
/// # Panics
///
/// In CI, where nothing may be skipped.
#[must_use]
#[track_caller]
pub fn tool_from(program: &str, package: &str) -> Option<PathBuf> {
    if let Some(found) = find(program) {
        return Some(found);
    }
    match install(package) {
        Ok(()) => find(program).or_else(|| {
            skip(&format!("the package {package} was installed and holds no {program}"));
            None
        }),
        Err(why) => {
            skip(&format!("there is no {program}, and {why}"));
            None
        }
    }
}

/// Says that the running test is skipped, and why: to the terminal, and in the file that `cargo xtask test` shows at
/// its end. The caller returns after it.
///
/// # Panics
///
/// In CI, where nothing may be skipped.
#[track_caller]
pub fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let line = format!("{test}: {why}\n");
    assert!(env::var("CI").as_deref() != Ok("true"), "nothing may be skipped in CI; {line}");
    // Written past the harness of the tests, which would keep what a passing test prints to itself.
    let _ = std::io::stderr().write_all(format!("SKIPPED {line}").as_bytes());
    let skipped =
        OpenOptions::new().create(true).append(true).open(Tree::get().root().join("skipped.txt"));
    let _ = skipped.and_then(|mut file| file.write_all(line.as_bytes()));
}

fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Path::new(program).is_file().then(|| program.into());
    }
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Brings a Debian package to the newest version that there is, if it can be had: a list of packages may be older than what a
/// test needs.
///
/// # Errors
///
/// A sentence that says why not.
pub fn newest(package: &str) -> Result<(), String> {
    install_with(package, &[&["update"]])
}

/// Installs a Debian package; or says why not.
fn install(package: &str) -> Result<(), String> {
    install_with(package, &[])
}

fn install_with(package: &str, before: &[&[&str]]) -> Result<(), String> {
    if find("apt-get").is_none() {
        return Err(format!("no apt-get to install {package} with"));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(format!("only root can install it: `apt-get install {package}`"));
    }
    // Tests run side by side, apt-get does not.
    let lock = File::create(Tree::get().root().join("apt.lock"))
        .and_then(|file| file.lock().map(|()| file));
    let _lock = lock.map_err(|error| format!("the lock of apt-get cannot be had: {error}"))?;
    before.iter().try_for_each(|arguments| apt_get(arguments))?;
    let install = ["install", "--yes", "--no-install-recommends", package];
    apt_get(&install).or_else(|_| apt_get(&["update"]).and_then(|()| apt_get(&install)))
}

fn apt_get(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("apt-get")
        .args(["--quiet", "--quiet"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("apt-get cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "apt-get {} failed: {}",
        arguments.join(" "),
        said.lines().last().unwrap_or("it says nothing")
    ))
}
