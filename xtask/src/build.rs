//! `cargo xtask build`: compiles host and plugins and leaves a runnable tree.

use std::path::PathBuf;

use crate::{
    Result,
    arguments::{Arguments, Usage},
    cargo::{self, Artifact},
    sample,
    tree::Tree,
    workspace::{Kind, Package, Workspace},
};

/// Of the sample site's file that takes a while to send: far more than the buffers of two sockets hold.
const LARGE_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The build id of plugins in a tree for tests. Tests that alternate builds write another number over it, in copies.
pub(crate) const TEST_BUILD_ID: &str = "build-00000000";

/// What to build, how, and where to leave it.
pub(crate) struct Plan {
    /// A cargo profile.
    pub(crate) profile: String,
    pub(crate) tree: PathBuf,
    /// Whether the plugins that only tests load come along, in `fixtures/`.
    pub(crate) with_fixtures: bool,
}

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let debug = arguments.flag("--debug");
    let profile = arguments.option("--profile")?;
    let tree = arguments.option("--tree")?;
    let with_fixtures = arguments.flag("--fixtures");
    arguments.finish()?;

    let profile = match (debug, profile) {
        (true, Some(_)) => {
            return Err(Usage::of(
                "`--debug` and `--profile` both name a profile; give one".into(),
            ));
        }
        (true, None) => "dev".into(),
        (false, profile) => profile.unwrap_or_else(|| "release".into()),
    };
    let workspace = Workspace::read()?;
    let tree = tree.map_or_else(|| workspace.target_dir.join("medusa"), PathBuf::from);
    let tree = build(&workspace, &Plan { profile, tree, with_fixtures })?;
    println!("built {}", tree.root.display());
    Ok(())
}

/// Builds and fills the tree.
pub(crate) fn build(workspace: &Workspace, plan: &Plan) -> Result<Tree> {
    let tree = programs(workspace, plan)?;
    let site = workspace.root.join("site");
    tree.place_folder(&site, "site")?;
    tree.place_zeros(LARGE_FILE_BYTES, "site/files/large.bin")?;
    // A server that runs keeps the configuration that it was started with, with its port.
    if !tree.is_served() {
        tree.write(&sample::configuration(&tree, sample::HTTP_PORT), "medusa.toml")?;
    }
    Ok(tree)
}

/// Builds host and plugins, and places them in the tree.
///
/// Host, plugins and fixtures are three runs of cargo: in one run cargo would give tokio in every plugin the features
/// that only the host may have.
pub(crate) fn programs(workspace: &Workspace, plan: &Plan) -> Result<Tree> {
    let tree = Tree { root: plan.tree.clone() };
    let host: Vec<_> =
        workspace.of_kind(Kind::Other).filter(|package| package.name == "medusa").collect();
    for artifact in compile(workspace, plan, &host)? {
        tree.place(&artifact.path, "bin/medusa")?;
    }
    place_libraries(workspace, plan, &tree, Kind::Plugin, "plugins")?;
    if plan.with_fixtures {
        place_libraries(workspace, plan, &tree, Kind::Fixture, "fixtures")?;
    }
    Ok(tree)
}

fn place_libraries(
    workspace: &Workspace,
    plan: &Plan,
    tree: &Tree,
    kind: Kind,
    folder: &str,
) -> Result<()> {
    let packages: Vec<_> = workspace.of_kind(kind).collect();
    std::fs::create_dir_all(tree.root.join(folder))?;
    let (plain, special): (Vec<_>, Vec<_>) =
        packages.iter().partition(|package| package.rustc.is_empty());
    let mut artifacts = compile(workspace, plan, &plain)?;
    for package in special {
        artifacts.extend(compile(workspace, plan, &[package])?);
    }
    for artifact in artifacts {
        if let Some(package) = packages.iter().find(|package| package.id == artifact.package_id) {
            tree.place(&artifact.path, &format!("{folder}/{}.so", package.plugin_name()))?;
        }
    }
    Ok(())
}

/// Compiles packages in one run of cargo. A package with arguments of its own for rustc has to come alone.
fn compile(workspace: &Workspace, plan: &Plan, packages: &[&Package]) -> Result<Vec<Artifact>> {
    let Some(first) = packages.first() else { return Ok(Vec::new()) };
    let verb = if first.rustc.is_empty() { "build" } else { "rustc" };
    let mut command = cargo::cargo();
    command.current_dir(&workspace.root).args([verb, "--profile", &plan.profile]);
    if plan.with_fixtures {
        command.env("MEDUSA_BUILD_ID", TEST_BUILD_ID);
    }
    for package in packages {
        command.args(["--package", &package.name]);
        if plan.with_fixtures && package.name == "medusa" {
            command.args(["--features", "faults"]);
        }
    }
    let mut artifacts = cargo::build(&mut command, &first.rustc)?;
    artifacts.retain(|artifact| packages.iter().any(|package| package.id == artifact.package_id));
    Ok(artifacts)
}
