//! `cargo xtask bench`: the paired measurements of `benches`, recorded under `benches/runs`.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::{
    Result,
    arguments::{Arguments, Usage},
    build::{self, Plan},
    cargo::{cargo, check},
    packages,
    soak::{date, machine},
    workspace::Workspace,
};

/// What medusa is measured beside, and the load; as programs and as Debian's packages.
const PROGRAMS: [&str; 3] = ["nginx", "lighttpd", "wrk"];

/// What `--quick` stands for: enough to see that everything can be measured, and no figure to believe.
const QUICK: [(&str, &str); 3] = [("--rounds", "1"), ("--seconds", "1"), ("--held", "500")];

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let is_quick = arguments.flag("--quick");
    let only = arguments.option("--only")?;
    let mut options: Vec<String> = Vec::new();
    for (name, quick) in QUICK {
        let given = arguments.option(name)?;
        if let Some(value) = given.or_else(|| is_quick.then(|| quick.to_owned())) {
            options.extend([name.to_owned(), number(name, value)?]);
        }
    }
    if let Some(word) = &only {
        options.extend(["--only".to_owned(), word.clone()]);
    }
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
    packages::install(&PROGRAMS);

    let mut measure = Command::new(workspace.target_dir.join("release/medusa-benches"));
    measure.args(&options).env("MEDUSA_TREE", &tree.root).stderr(Stdio::inherit());
    let output = measure.output().map_err(|error| format!("cannot measure: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if text.is_empty() {
        return Err("nothing was measured".into());
    }
    let command = format!("cargo xtask bench {}", options.join(" "));
    let command = command.trim_end();
    let record = format!("# Bench\n\n{}\n- command: `{command}`\n{text}", machine(&workspace));
    println!("\n{record}");
    if !is_quick {
        let file = format!("benches/runs/{}-bench{}.md", date()?, suffix(only.as_deref()));
        fs::create_dir_all(workspace.root.join("benches/runs"))?;
        fs::write(workspace.root.join(&file), record)
            .map_err(|error| format!("cannot write {file}: {error}"))?;
        println!("recorded in {file}");
    }
    if output.status.success() { Ok(()) } else { Err("some rows could not be measured".into()) }
}

fn number(name: &str, value: String) -> Result<String> {
    match value.parse::<u32>() {
        Ok(1..) => Ok(value),
        _ => Err(Usage::of(format!("`{name}` wants a number from 1 on, not `{value}`"))),
    }
}

/// What tells the record of some rows from that of all.
fn suffix(only: Option<&str>) -> String {
    let Some(word) = only else { return String::new() };
    let is_plain = |it: char| it.is_ascii_alphanumeric();
    format!("-{}", word.replace(|it| !is_plain(it), "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_of_some_rows_has_a_name_of_its_own() {
        assert_eq!(suffix(None), "");
        assert_eq!(suffix(Some("lighttpd")), "-lighttpd");
        assert_eq!(suffix(Some("../1 KiB")), "----1-KiB");
    }

    #[test]
    fn a_number_starts_at_one() {
        assert_eq!(number("--rounds", "3".to_owned()).unwrap(), "3");
        for wrong in ["0", "-1", "many", ""] {
            let error = number("--rounds", wrong.to_owned()).unwrap_err();
            assert!(error.is::<Usage>(), "{wrong}");
        }
    }
}
