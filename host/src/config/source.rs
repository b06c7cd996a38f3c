//! Where configuration text came from: a file, or the words of a `load` command.

use std::{
    ops::Range,
    path::{Component, Path, PathBuf},
    rc::Rc,
};

/// A range of bytes in the text.
pub type Span = Range<usize>;

/// One text and the folder that relative paths in it are relative to.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// What messages call it: the path as it was given, or `--set`.
    pub name: String,
    /// The folder that relative paths are relative to, absolute.
    pub folder: PathBuf,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// A text that is in memory.
    pub fn new(
        name: impl Into<String>,
        folder: impl Into<PathBuf>,
        text: impl Into<String>,
    ) -> Rc<Source> {
        Rc::new(Source { name: name.into(), folder: folder.into(), text: text.into() })
    }

    /// Makes a path absolute, and removes `.` from it; `..` stays, for what is before it may be a link.
    pub fn path(&self, path: &str) -> PathBuf {
        let joined = self.folder.join(path);
        joined.components().filter(|part| !matches!(part, Component::CurDir)).collect()
    }

    /// The file that this text was read from.
    pub fn file(&self) -> PathBuf {
        self.folder.join(Path::new(&self.name).file_name().unwrap_or_default())
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    pub fn line_column(&self, at: usize) -> (usize, usize) {
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        (line, before.rsplit('\n').next().unwrap_or("").chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_from_one() {
        let source = Source::new("f", "/etc", "a\nbä = 1\n");
        let check = |at, expected| assert_eq!(source.line_column(at), expected, "at {at}");
        check(0, (1, 1));
        check(2, (2, 1));
        check(5, (2, 3));
        check(999, (3, 1));
    }

    #[test]
    fn paths_are_relative_to_the_folder() {
        let source = Source::new("f", "/etc/medusa", "");
        let check = |path: &str, expected: &str| assert_eq!(source.path(path), Path::new(expected));
        check("site", "/etc/medusa/site");
        check("./site/", "/etc/medusa/site");
        check("/srv/www", "/srv/www");
        check("../x", "/etc/medusa/../x");
    }
}
