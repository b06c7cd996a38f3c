//! The host's layers: arrows point down only.

use std::path::Path;

use super::{Problem, source::Source};

/// The modules of the host from top to bottom; those in one row do not know each other, save for `SIDEWAYS`.
const LAYERS: [&[&str]; 6] = [
    &["app"],
    &["monitor", "update"],
    &["plugin"],
    &["net", "tls", "http", "file"],
    &["config", "status", "log", "error"],
    &["sys"],
];

/// What may use what within a row.
const SIDEWAYS: [(&str, &str); 5] = [
    ("monitor", "update"),
    ("net", "tls"),
    ("config", "error"),
    ("status", "error"),
    ("log", "error"),
];

/// Checks a file of the host; others are none of our business.
pub(super) fn check(source: &Source<'_>, problems: &mut Vec<Problem>) {
    let Some(module) = module_of(source.path) else { return };
    let Some(row) = row_of(&module) else {
        let sentence = format!(
            "the module `{module}` is in no layer; give it its place in xtask's table of layers"
        );
        return problems.push(source.problem(0, sentence));
    };
    for (offset, used) in uses(&source.code) {
        let Some(used_row) = row_of(used) else { continue };
        let is_fine =
            used_row > row || used == module || SIDEWAYS.contains(&(module.as_str(), used));
        if !is_fine {
            let sentence = format!(
                "`{module}` uses `{used}`, which lies above or beside it; arrows point down only"
            );
            problems.push(source.problem(offset, sentence));
        }
    }
}

/// `host/src/NAME.rs` or `host/src/NAME/…`, but neither the root of the library nor the program.
fn module_of(path: &Path) -> Option<String> {
    let first = path.strip_prefix("host/src").ok()?.components().next()?;
    let name = Path::new(&first).file_stem()?.to_str()?.to_owned();
    (!matches!(name.as_str(), "lib" | "main" | "bin")).then_some(name)
}

fn row_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// The first names of all paths that begin with `crate::`, those in braces too, with where they stand.
fn uses(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let start = at + prefix.len();
        match code[start..].strip_prefix('{') {
            Some(_) => found.extend(names_in_braces(code, start + 1)),
            None => found.push((start, name_at(code, start))),
        }
    }
    found
}

fn names_in_braces(code: &str, start: usize) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut depth, mut wants_name) = (1, true);
    for (at, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 1 => wants_name = true,
            _ if byte.is_ascii_whitespace() => {}
            _ if wants_name => {
                found.push((at, name_at(code, at)));
                wants_name = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found
}

fn name_at(code: &str, start: usize) -> &str {
    let rest = &code[start..];
    let end = rest.find(|it: char| !it.is_alphanumeric() && it != '_').unwrap_or(rest.len());
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use super::{super::TextFile, *};

    fn check_file(path: &str, text: &str, expected: &[&str]) {
        let file = TextFile { path: path.into(), text: text.into() };
        let mut problems = Vec::new();
        check(&Source::of(&file), &mut problems);
        let found: Vec<_> =
            problems.iter().map(|it| format!("{}: {}", it.line, it.sentence)).collect();
        assert_eq!(found.len(), expected.len(), "{found:?}");
        assert!(
            found.iter().zip(expected).all(|(found, expected)| found.contains(expected)),
            "{found:?}"
        );
    }

    #[test]
    fn arrows_point_down() {
        check_file(
            "host/src/net/listener.rs",
            "use crate::{config::Limits, net::tls, sys};\n",
            &[],
        );
        check_file(
            "host/src/net/listener.rs",
            "use crate::plugin::Registry;\n",
            &["1: `net` uses `plugin`"],
        );
        check_file(
            "host/src/sys/mod.rs",
            "fn f() {\n  crate::log::warn();\n}\n",
            &["2: `sys` uses `log`"],
        );
        check_file(
            "host/src/config/mod.rs",
            "use crate::{\n  error::{A, app},\n  app::B,\n};\n",
            &["3: `config` uses `app`"],
        );
        check_file("host/src/config/mod.rs", "// crate::app is above us\n", &[]);
    }

    #[test]
    fn every_module_has_its_place() {
        check_file("host/src/surprise.rs", "", &["1: the module `surprise`"]);
        check_file("host/src/lib.rs", "pub mod surprise;", &[]);
        check_file("plugins/echo/src/lib.rs", "use crate::app;", &[]);
    }
}
