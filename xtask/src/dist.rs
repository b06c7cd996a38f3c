//! `cargo xtask dist`: a tarball with everything that a machine without Rust needs to run medusa.
//!
//! The same tree makes the same bytes: entries are sorted, owned by nobody in particular, and as old as the last commit.

use std::{env, fs, path::PathBuf, process::Command};

use crate::{
    Result,
    arguments::Arguments,
    build::{self, Plan},
    cargo::{check, output},
    sample,
    tree::Tree,
    workspace::Workspace,
};

/// What is taken from the workspace as it is, and where it goes.
const FILES: [(&str, &str); 11] = [
    ("README.md", "README.md"),
    ("ARCHITECTURE.md", "ARCHITECTURE.md"),
    ("STYLE.md", "STYLE.md"),
    ("CHANGELOG.md", "CHANGELOG.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("dist/INSTALL.md", "INSTALL.md"),
    ("dist/medusa.service", "systemd/medusa.service"),
    ("dist/medusa.socket", "systemd/medusa.socket"),
    ("dist/before-253.conf", "systemd/before-253.conf"),
    ("dist/medusa.toml", "systemd/medusa.toml"),
];

/// Folders that are taken whole.
const FOLDERS: [&str; 2] = ["docs", "site"];

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let profile = arguments.option("--profile")?.unwrap_or_else(|| "release".into());
    let to = arguments.option("--to")?.map(PathBuf::from);
    arguments.finish()?;

    let workspace = Workspace::read()?;
    let to = to.unwrap_or_else(|| workspace.target_dir.join("dist"));
    let host = workspace.packages.iter().find(|package| package.name == "medusa");
    let version = &host.ok_or("there is no package `medusa`")?.version;
    let name = format!("medusa-{version}-{}", target()?);
    let seconds = seconds(&workspace)?;

    let plan = Plan { profile, tree: to.join(&name), with_fixtures: false };
    if plan.tree.exists() {
        // What an earlier one left is not to come along.
        fs::remove_dir_all(&plan.tree)
            .map_err(|error| format!("cannot remove {}: {error}", plan.tree.display()))?;
    }
    let tree = build::programs(&workspace, &plan)?;
    fill(&workspace, &tree)?;
    let archive = format!("{name}.tar.gz");
    pack(&to, &name, &archive, seconds)?;
    fs::remove_dir_all(&tree.root)
        .map_err(|error| format!("cannot remove {}: {error}", tree.root.display()))?;
    println!("packed {}", to.join(archive).display());
    Ok(())
}

fn fill(workspace: &Workspace, tree: &Tree) -> Result<()> {
    for (from, to) in FILES {
        tree.place(&workspace.root.join(from), to)?;
    }
    for folder in FOLDERS {
        tree.place_folder(&workspace.root.join(folder), folder)?;
    }
    tree.write(&sample::for_others(tree), "medusa.toml")
}

/// By tar and gzip, which are on every Linux that one builds on.
fn pack(folder: &std::path::Path, name: &str, archive: &str, seconds: u64) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.current_dir(folder)
        // The order of the alphabet is that of bytes in this locale only.
        .env("LC_ALL", "C")
        .args([
            "--create",
            "--format=ustar",
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
        ])
        .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{seconds}")])
        .args(["--use-compress-program=gzip --no-name --best", "--file", archive, name]);
    check(&mut tar)
}

/// The machine that the compiler compiles for, as it calls it.
fn target() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = output(Command::new(rustc).arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc does not say for which machine it compiles")?.to_owned())
}

/// When all of it was last changed, in seconds since 1970: SOURCE_DATE_EPOCH, or the last commit's time.
fn seconds(workspace: &Workspace) -> Result<u64> {
    let text = match env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let mut git = Command::new("git");
            output(git.current_dir(&workspace.root).args(["log", "-1", "--format=%ct"]))
                .map_err(|error| format!("{error}; outside of a checkout, set SOURCE_DATE_EPOCH"))?
        }
    };
    text.trim()
        .parse()
        .map_err(|_| format!("`{}` is no number of seconds since 1970", text.trim()).into())
}
