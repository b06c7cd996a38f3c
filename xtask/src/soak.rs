//! `cargo xtask soak`: the tests of endurance with their full counts, recorded under `benches/runs`.
//!
//! A test of endurance has `soak` in its name or in its file's. `cargo xtask test` runs it too, with a count that takes
//! seconds; here `MEDUSA_SOAK=1` makes it take the count that is promised.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Write as _},
    process::{Command, Stdio},
    time::Instant,
};

use crate::{
    Result,
    arguments::Arguments,
    cargo::{cargo, check, output},
    test,
    workspace::Workspace,
};

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let list = arguments.flag("--list");
    let name = arguments.positional().unwrap_or_else(|| "soak".into());
    arguments.finish()?;

    let workspace = Workspace::read()?;
    if list {
        return check(runner(&workspace, &name).args(["--", "--list", "--include-ignored"]));
    }
    let tree = test::build_tree(&workspace)?;
    // Compiled beforehand, so that the record holds no word of it.
    check(runner(&workspace, &name).args(["--no-run"]))?;
    let mut command = runner(&workspace, &name);
    command.arg("--");
    // One at a time: what is measured is the server's memory and time, not the neighbour's.
    command.args(["--nocapture", "--include-ignored", "--test-threads=1"]);
    command.env("MEDUSA_TREE", &tree.root).env("MEDUSA_SOAK", "1");
    let started = Instant::now();
    let (text, succeeded) = watched(&mut command)?;
    let minutes = started.elapsed().as_secs_f64() / 60.0;
    if !text.lines().any(|line| line.starts_with("running ") && line != "running 0 tests") {
        return Err(format!(
            "no test has `{name}` in its name; `cargo xtask soak --list` shows those of endurance"
        )
        .into());
    }

    let record = format!(
        "# Soak `{name}`\n\n{}\n- took: {minutes:.1} minutes\n- outcome: {}\n\n```text\n{text}```\n",
        machine(&workspace),
        if succeeded { "passed" } else { "FAILED" },
    );
    let prefix = if name.contains("soak") { "" } else { "soak-" };
    let file = format!("benches/runs/{}-{prefix}{}.md", date()?, name.replace("::", "-"));
    fs::create_dir_all(workspace.root.join("benches/runs"))?;
    fs::write(workspace.root.join(&file), record)
        .map_err(|error| format!("cannot write {file}: {error}"))?;
    println!("recorded in {file}");
    if succeeded { Ok(()) } else { Err("a test of endurance failed".into()) }
}

/// Runs the files that have `name` in theirs; if there is none, the tests.
fn runner(workspace: &Workspace, name: &str) -> Command {
    let mut command = cargo();
    command.current_dir(&workspace.root);
    command.args(["test", "--profile", test::PROFILE, "--no-fail-fast"]);
    command.args(["--package", "medusa-tests"]);
    let files = files_named(workspace, name);
    if files.is_empty() {
        command.arg(name);
    }
    command.args(files.iter().flat_map(|file| ["--test", file]));
    command
}

/// The files of tests that have `name` in theirs, in order.
fn files_named(workspace: &Workspace, name: &str) -> Vec<String> {
    let entries = fs::read_dir(workspace.root.join("tests/tests")).into_iter().flatten().flatten();
    let stem = |entry: fs::DirEntry| Some(entry.path().file_stem()?.to_str()?.to_owned());
    let mut files: Vec<String> = entries.filter_map(stem).filter(|it| it.contains(name)).collect();
    files.sort();
    files
}

/// Runs the command, showing its output as it comes, and keeping it.
fn watched(command: &mut Command) -> Result<(String, bool)> {
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().map_err(|error| format!("cannot run cargo test: {error}"))?;
    // Our copies of the pipe's writing end must be closed, or reading would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut text = String::new();
    for line in BufReader::new(reader).lines() {
        let line = line?;
        writeln!(std::io::stdout(), "{line}")?;
        writeln!(text, "{line}")?;
    }
    Ok((text, child.wait()?.success()))
}

/// What the figures were taken on.
pub(crate) fn machine(workspace: &Workspace) -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory =
        memory.lines().next().and_then(|line| line.split_whitespace().nth(1)).unwrap_or("0");
    let memory_gib = memory.parse::<f64>().unwrap_or(0.0) / 1_048_576.0;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let rustc = output(Command::new("rustc").arg("--version")).unwrap_or_default();
    let revision = output(
        Command::new("git").current_dir(&workspace.root).args(["describe", "--always", "--dirty"]),
    );
    format!(
        "- processor: {model}, {cores} cores, {memory_gib:.1} GiB\n- kernel: {}\n- compiler: {}\n- revision: {}",
        kernel.trim(),
        rustc.trim(),
        revision.unwrap_or_default().trim(),
    )
}

/// Today, as 2026-01-31.
pub(crate) fn date() -> Result<String> {
    Ok(output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned())
}
