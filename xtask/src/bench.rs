//! `cargo xtask bench`: the paired measurements of `benches`, recorded under `benches/runs`.

use std::{fs, process::Command};

use crate::{
    Result,
    arguments::Arguments,
    build::{self, Plan},
    cargo::{cargo, check, output},
    soak::{date, machine},
    workspace::Workspace,
};

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let rounds = arguments.option("--rounds")?.unwrap_or_else(|| "7".into());
    let seconds = arguments.option("--seconds")?.unwrap_or_else(|| "3".into());
    arguments.finish()?;

    let workspace = Workspace::read()?;
    let plan = Plan {
        profile: "release".into(),
        tree: workspace.target_dir.join("medusa"),
        with_fixtures: false,
    };
    let tree = build::build(&workspace, &plan)?;
    let mut compile = cargo();
    compile.current_dir(&workspace.root);
    check(compile.args(["build", "--release", "--package", "medusa-benches"]))?;

    let program = workspace.target_dir.join("release/medusa-benches");
    let mut measure = Command::new(program);
    measure.args([&rounds, &seconds]).env("MEDUSA_TREE", &tree.root);
    let table = output(&mut measure)?;
    println!("{table}");

    let command = format!("cargo xtask bench --rounds {rounds} --seconds {seconds}");
    let record = format!("# Bench\n\n{}\n- command: `{command}`\n\n{table}", machine(&workspace));
    let file = format!("benches/runs/{}-bench.md", date()?);
    fs::create_dir_all(workspace.root.join("benches/runs"))?;
    fs::write(workspace.root.join(&file), record)
        .map_err(|error| format!("cannot write {file}: {error}"))?;
    println!("recorded in {file}");
    Ok(())
}
