//! `cargo xtask tidy`: what the compiler does not see: layers, file heads, unsafe code, documents, links.

mod documents;
mod layers;
mod rules;
mod source;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use crate::{Result, arguments::Arguments, workspace};
use source::Source;

/// Something to mend, and where.
#[derive(Debug)]
struct Problem {
    /// Relative to the workspace.
    file: PathBuf,
    /// Counted from 1.
    line: usize,
    sentence: String,
}

/// A text file of the project; its path is relative to the workspace.
struct TextFile {
    path: PathBuf,
    text: String,
}

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    arguments.finish()?;
    check(&workspace::root())
}

/// Checks everything and prints every problem; an error if there is one.
pub(crate) fn check(root: &Path) -> Result<()> {
    println!("$ tidy");
    let mut files = Vec::new();
    gather(root, Path::new(""), &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let mut problems = Vec::new();
    for file in &files {
        match file.path.extension().and_then(|it| it.to_str()) {
            Some("rs") => {
                let source = Source::of(file);
                rules::check(&source, &mut problems);
                layers::check(&source, &mut problems);
            }
            Some("md") => documents::check_links(root, file, &mut problems),
            _ => {}
        }
        rules::check_paths(root, file, &mut problems);
    }
    documents::check_abi(root, &files, &mut problems);

    problems.iter().for_each(|problem| println!("{problem}"));
    match problems.len() {
        0 => Ok(()),
        1 => Err("tidy found one problem".into()),
        n => Err(format!("tidy found {n} problems").into()),
    }
}

/// Reads the project's text files below `folder`: those that a person writes.
fn gather(root: &Path, folder: &Path, files: &mut Vec<TextFile>) -> Result<()> {
    const FOREIGN: [&str; 4] = [".git", "target", "corpus", "runs"];
    const WRITTEN: [&str; 6] = ["rs", "md", "toml", "html", "css", "sh"];
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = folder.join(&name);
        if entry.file_type()?.is_dir() {
            if !FOREIGN.iter().any(|foreign| name == *foreign) {
                gather(root, &path, files)?;
            }
        } else if path
            .extension()
            .and_then(|it| it.to_str())
            .is_some_and(|it| WRITTEN.contains(&it))
        {
            let text = fs::read_to_string(root.join(&path))
                .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            files.push(TextFile { path, text });
        }
    }
    Ok(())
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.sentence)
    }
}
