//! Why a library could not be loaded.

use std::{
    ffi::CStr,
    fmt, io,
    path::{Path, PathBuf},
};

use crate::plugin::{inspect::Refusal, interpose::WatchError};

/// Why a library could not be loaded; the next level is its `source`.
#[derive(Debug)]
pub enum LoadError {
    /// The file cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not one that this host could load and unload.
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do next.
        refusal: Refusal,
    },
    /// It cannot be copied to where code may be mapped from.
    Copy {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What it registers cannot be watched.
    Watch {
        /// The file.
        path: PathBuf,
        /// Why.
        source: WatchError,
    },
    /// The dynamic linker refuses it for another reason than those of [`Refusal`].
    Open {
        /// The file.
        path: PathBuf,
        /// The linker's words.
        reason: String,
    },
    /// It lacks a symbol that was asked for.
    Symbol {
        /// The file.
        path: PathBuf,
        /// The symbol.
        symbol: String,
    },
}

impl LoadError {
    /// Turns the dynamic linker's words into a refusal where they are known. `name` is what it was opened by.
    pub(super) fn from_linker(path: &Path, name: &CStr, error: &libloading::Error) -> LoadError {
        let words = std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| source.to_string());
        let words = words.replace(&*name.to_string_lossy(), &path.display().to_string());
        let path = path.to_owned();
        match refusal(&words) {
            Some(refusal) => LoadError::Refused { path, refusal },
            None => LoadError::Open { path, reason: words },
        }
    }
}

// glibc's sentences, as ld.so has written them for decades:
//   NAME: cannot open shared object file: No such file or directory
//   FILE: undefined symbol: SYMBOL[, version VERSION]
//   LIBRARY: version `VERSION' not found (required by FILE)
fn refusal(words: &str) -> Option<Refusal> {
    if let Some((library, _)) = words.split_once(": cannot open shared object file") {
        return Some(Refusal::MissingLibrary { library: library.to_owned() });
    }
    if let Some((_, symbol)) = words.split_once("undefined symbol: ") {
        return Some(Refusal::MissingSymbol { symbol: format!("the function {symbol}") });
    }
    let (library, rest) = words.split_once(": version `")?;
    let (version, _) = rest.split_once("' not found")?;
    Some(Refusal::MissingSymbol { symbol: format!("version {version} of {library}") })
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Read { path, .. } => write!(f, "cannot read {}", path.display()),
            LoadError::Refused { path, .. } => write!(f, "cannot load {}", path.display()),
            LoadError::Copy { path, .. } => write!(f, "cannot copy {}", path.display()),
            LoadError::Watch { path, .. } => write!(f, "cannot load {}", path.display()),
            LoadError::Open { path, reason } => {
                write!(f, "cannot load {}: the dynamic linker says: {reason}", path.display())
            }
            LoadError::Symbol { path, symbol } => {
                write!(f, "{} does not export `{symbol}`", path.display())
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LoadError::Read { source, .. } | LoadError::Copy { source, .. } => Some(source),
            LoadError::Refused { refusal, .. } => Some(refusal),
            LoadError::Watch { source, .. } => Some(source),
            LoadError::Open { .. } | LoadError::Symbol { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linkers_words_are_known() {
        let check = |words: &str, expected: &str| {
            let refusal = refusal(words).unwrap().to_string();
            assert!(refusal.contains(expected), "{words}: {refusal}");
        };
        check(
            "libx.so.1: cannot open shared object file: No such file or directory",
            "needs libx.so.1, which is not on this machine",
        );
        check("/p/a.so: undefined symbol: foo", "needs the function foo");
        check(
            "/lib/libc.so.6: version `GLIBC_2.99' not found (required by /p/a.so)",
            "needs version GLIBC_2.99 of /lib/libc.so.6",
        );
        assert_eq!(refusal("file too short"), None);
    }
}
