//! A library's file as bytes: a regular file of a sane size, or a sentence that says what is in its place.
//!
//! It blocks; the running host reads on the pool.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use crate::{config::words, sys::pages::Pages};

/// Most bytes that a library may have. A constant, as it only guards against a file that is no library: the largest known, with
/// symbols, has a fifth of it.
const LIBRARY_BYTES_MAX: u64 = 512 << 20;

/// Opens a library's file; how many bytes it has.
///
/// # Errors
/// It is not there (`NotFound`, with the libraries that are), is not a regular file, or is too large.
pub(super) fn open(path: &Path) -> io::Result<(File, u64)> {
    // Non-blocking, so that a named pipe is refused and not waited for.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(io::ErrorKind::NotFound, absent(path)),
        _ => error,
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file; name the library's file"));
    }
    if metadata.len() > LIBRARY_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it has more than {LIBRARY_BYTES_MAX} bytes, so it is not a plugin's library; name another file"
        )));
    }
    Ok((file, metadata.len()))
}

/// Reads a library's file.
///
/// # Errors
/// As [`open`], or it cannot be read.
pub fn read(path: &Path) -> io::Result<Pages> {
    let (file, _) = open(path)?;
    read_all(&file)
}

/// Reads all of a regular file, wherever it was read from before.
pub(super) fn read_all(file: &File) -> io::Result<Pages> {
    let mut bytes = Pages::zeroed(file.metadata()?.len() as usize)?;
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], length as u64) {
            // It was cut meanwhile; whether what is left is a library is found out next.
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// The names under which the libraries in a folder are loaded, sorted. It blocks.
///
/// # Errors
/// The folder cannot be read.
pub fn libraries(folder: &Path) -> io::Result<Vec<String>> {
    let libraries = fs::read_dir(folder)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension() == Some("so".as_ref()));
    let mut names: Vec<String> = libraries.filter_map(|path| stem(&path)).collect();
    names.sort();
    Ok(names)
}

fn stem(path: &Path) -> Option<String> {
    Some(path.file_stem()?.to_str()?.to_owned())
}

/// What there is instead of the file.
fn absent(path: &Path) -> String {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let shown = folder.display();
    let Ok(names) = libraries(folder) else {
        return format!("there is no folder {shown}; name another, or build the library into it");
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        return format!("there is no such file, and no library at all in {shown}");
    }
    let hint = words::suggest(&stem(path).unwrap_or_default(), &names, "libraries there");
    format!("there is no such file in {shown}; {hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_there_is_told_with_those_that_are() {
        let folder = tempfile::tempdir().unwrap();
        let check = |name: &str, expected: &str| {
            let error = read(&folder.path().join(name)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        };
        check("echo.so", "no library at all in");
        for name in ["echo.so", "http.so", "README.md"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        check("ehco.so", "did you mean `echo`?");
        check("weather.so", "the libraries there are `echo`, `http`");
        check("none/echo.so", "there is no folder");
    }
}
