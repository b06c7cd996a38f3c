//! Rules for single files: how they begin, what they must not hold, where `unsafe` may stand.

use std::path::Path;

use super::{Problem, TextFile, source::Source};

/// Where `unsafe` may stand: what touches the ABI or the system. Elsewhere the compiler denies it as well; this list
/// is what keeps somebody from allowing it.
const UNSAFE_HERE: [&str; 7] = [
    "plugin-api/abi/src",
    "plugin-api/derive/src",
    "plugin-api/src",
    "host/src/plugin",
    "host/src/sys",
    "tests/fixtures",
    "host/tests",
];

/// Macros that stand for work not done.
const UNFINISHED: [&str; 3] = ["todo", "dbg", "unimplemented"];

/// First folders of paths that exist on somebody's machine only. `/home` is not among them: examples use it.
const MACHINE_FOLDERS: [&str; 4] = ["Users", "work", "workspace", "root/."];

/// Checks a Rust file.
pub(super) fn check(source: &Source<'_>, problems: &mut Vec<Problem>) {
    if !source.text.starts_with("//!") {
        problems.push(
            source.problem(0, "begin the file with `//!` and one sentence that says what it is"),
        );
    }
    for name in UNFINISHED {
        let calls = source.word(name).filter(|at| source.code[at + name.len()..].starts_with('!'));
        problems.extend(
            calls.map(|at| source.problem(at, format!("`{name}!` is for drafts; finish it"))),
        );
    }
    if !UNSAFE_HERE.iter().any(|folder| source.path.starts_with(folder)) {
        let sentence = format!("`unsafe` may stand only in {}", UNSAFE_HERE.join(", "));
        problems.extend(source.word("unsafe").map(|at| source.problem(at, &sentence)));
        let allowed = source.code.match_indices("allow(unsafe_code)");
        problems.extend(allowed.map(|(at, _)| source.problem(at, &sentence)));
    }
}

/// Checks any text file for paths of one machine, that of this checkout above all.
pub(super) fn check_paths(root: &Path, file: &TextFile, problems: &mut Vec<Problem>) {
    let root = root.display().to_string();
    for (number, line) in file.text.lines().enumerate() {
        if line.contains(&root) || MACHINE_FOLDERS.iter().any(|folder| names_folder(line, folder)) {
            let sentence = "a path that exists on one machine only".into();
            problems.push(Problem { file: file.path.clone(), line: number + 1, sentence });
        }
    }
}

/// Whether an absolute path that begins with this folder stands in the line.
fn names_folder(line: &str, folder: &str) -> bool {
    let closing = if folder.ends_with('.') { "" } else { "/" };
    line.match_indices(&format!("/{folder}{closing}")).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|it| !it.is_alphanumeric() && !"._-/)}>$~*".contains(it))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_file(path: &str, text: &str, expected: &[&str]) {
        let file = TextFile { path: path.into(), text: text.into() };
        let mut problems = Vec::new();
        check(&Source::of(&file), &mut problems);
        check_paths(Path::new("/srv/checkout"), &file, &mut problems);
        let found: Vec<_> =
            problems.iter().map(|it| format!("{}: {}", it.line, it.sentence)).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(
            found.iter().zip(expected).all(|(found, expected)| found.contains(expected)),
            "{found:?}"
        );
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        check_file("host/src/app/run.rs", "//! Fine.\nfn f() {}\n", &[]);
        check_file("host/src/app/run.rs", "fn f() {}\n", &["1: begin"]);
        check_file(
            "host/src/app/run.rs",
            concat!("//! A.\nfn f() { to", "do!() }\n"),
            &["2: `todo!`"],
        );
        check_file("host/src/app/run.rs", "//! A.\n\nunsafe fn f() {}\n", &["3: `unsafe`"]);
        check_file(
            "host/src/app/run.rs",
            "//! unsafe in words.\n#![allow(unsafe_code)]\n",
            &["2: `unsafe`"],
        );
        check_file(
            "host/src/sys/fork.rs",
            "//! A.\n#![allow(unsafe_code)]\nunsafe fn f() {}\n",
            &[],
        );
        check_file("host/src/sys/fork.rs", concat!("//! See /wo", "rk/notes.\n"), &["1: a path"]);
        check_file("host/src/sys/fork.rs", "//! A.\n// In /srv/checkout/notes.\n", &["2: a path"]);
        check_file(
            "host/src/sys/fork.rs",
            "//! See docs/work/notes and https://example.org/work/.\n",
            &[],
        );
    }
}
