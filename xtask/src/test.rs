//! `cargo xtask test`: formatting, lints, tidy, then every test against a tree built for it.

use std::{env, fs};

use crate::{
    Result,
    arguments::Arguments,
    build::{self, Plan, TEST_BUILD_ID},
    cargo::{cargo, check},
    tidy,
    tree::Tree,
    workspace::{Kind, Workspace},
};

/// The profile that tests run with: optimized enough for long counts, built without LTO.
pub(crate) const PROFILE: &str = "test-run";

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let quick = arguments.flag("--quick");
    let filter = arguments.positional();
    arguments.finish()?;

    let workspace = Workspace::read()?;
    if !quick {
        check_text(&workspace)?;
    }
    let tree = build_tree(&workspace)?;
    let outcome = run_tests(&workspace, &tree, filter.as_deref());
    report_skipped(&tree)?;
    outcome
}

/// Builds the tree that tests use: fixtures included, apart from the one that `cargo xtask build` leaves.
pub(crate) fn build_tree(workspace: &Workspace) -> Result<Tree> {
    let plan = Plan {
        profile: PROFILE.into(),
        tree: workspace.target_dir.join("medusa-test"),
        with_fixtures: true,
    };
    build::build(workspace, &plan)
}

/// Runs the tests of every member, those of plugins apart from the rest.
///
/// Two runs, for the reason that `build` has: the features of the host's tokio stay out of the plugins, and what was
/// compiled for the tree is used again.
fn run_tests(workspace: &Workspace, tree: &Tree, filter: Option<&str>) -> Result<()> {
    let _ = fs::remove_file(tree.root.join("skipped.txt"));
    let mut outcome = Ok(());
    for kinds in [&[Kind::Plugin][..], &[Kind::Other]] {
        let members = workspace.packages.iter().filter(|package| kinds.contains(&package.kind));
        let names: Vec<&str> = members.map(|package| package.name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        let mut command = cargo();
        command.current_dir(&workspace.root).args(["test", "--profile", PROFILE, "--no-fail-fast"]);
        command.args(names.iter().flat_map(|name| ["--package", name]));
        command.args(filter);
        // The build id is the tree's, so that what was compiled for it is used again.
        command.env("MEDUSA_TREE", &tree.root).env("MEDUSA_BUILD_ID", TEST_BUILD_ID);
        // Both run in any case: whoever mends tests wants to see all that fail.
        outcome = outcome.and(check(&mut command));
    }
    outcome
}

fn check_text(workspace: &Workspace) -> Result<()> {
    check(cargo().current_dir(&workspace.root).args(["fmt", "--all", "--check"]))
        .map_err(|error| format!("{error}; `cargo fmt --all` mends it"))?;
    tidy::check(&workspace.root)?;
    check(cargo().current_dir(&workspace.root).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// Tests that could not run say so in a file, because the output of a test that passes is not shown.
fn report_skipped(tree: &Tree) -> Result<()> {
    let Ok(skipped) = fs::read_to_string(tree.root.join("skipped.txt")) else { return Ok(()) };
    println!("\nSKIPPED:");
    skipped.lines().for_each(|line| println!("  {line}"));
    match env::var("CI").as_deref() {
        Ok("true") => Err("tests were skipped, which must not be in CI".into()),
        _ => Ok(()),
    }
}
