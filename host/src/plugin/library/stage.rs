//! The part of loading that blocks: copy the file, and look at the copy.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{Digest, Library, LoadError, file};
use crate::{
    plugin::inspect::{self, Inspection},
    sys::{memfd, pages::Pages},
};

/// The kernel takes 249 bytes.
const NAME_BYTES_MAX: usize = 200;

/// A library that was copied and inspected, and not yet opened. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Staged {
    pub(super) path: PathBuf,
    pub(super) inspection: Inspection,
    pub(super) copy: OwnedFd,
}

impl Staged {
    /// What its file states.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// SHA-256 of its copy; none if that cannot be read, for want of memory. Takes about a millisecond for each MiB.
    pub fn digest(&self) -> Option<Digest> {
        digest(&self.copy)
    }

    /// Opens the library; runs its constructors. On the loop.
    ///
    /// # Errors
    /// The dynamic linker refuses, say for a library that it needs; or too many are mapped.
    pub fn open(self) -> Result<Library, LoadError> {
        Library::open(self)
    }
}

/// The copy that a library was opened from: the same bytes, whatever has become of its file since.
#[derive(Debug)]
pub struct Original {
    pub(super) path: PathBuf,
    pub(super) copy: OwnedFd,
}

impl Original {
    /// The copy that another image of the host has opened a library from.
    pub fn inherited(path: PathBuf, copy: OwnedFd) -> Original {
        Original { path, copy }
    }

    /// Stages the copy itself, which is mapped nowhere in this process. Blocks; may run on any thread.
    ///
    /// # Errors
    /// It is no library.
    pub fn into_staged(self) -> Result<Staged, LoadError> {
        let Original { path, copy } = self;
        if !memfd::is_sealed(&copy) {
            return Original { path, copy }.stage();
        }
        let file = File::from(copy);
        let failed = |source| LoadError::Copy { path: path.clone(), source };
        let inspection = inspect::inspect(&contents(&file).map_err(failed)?)
            .map_err(|refusal| LoadError::Refused { path: path.clone(), refusal })?;
        Ok(Staged { path, inspection, copy: file.into() })
    }

    /// The file that it was read from, which may have changed since.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As [`Library::stage`]. Blocks; may run on any thread.
    ///
    /// # Errors
    /// There is no memory or descriptor for another copy.
    pub fn stage(&self) -> Result<Staged, LoadError> {
        let copy = format!("/proc/self/fd/{}", self.copy.as_raw_fd());
        stage_from(Path::new(&copy), &self.path)
    }
}

pub(super) fn stage(path: &Path) -> Result<Staged, LoadError> {
    stage_from(path, path)
}

/// Stages what is in the file `from`, as the library that `path` names.
fn stage_from(from: &Path, path: &Path) -> Result<Staged, LoadError> {
    let (source, length) =
        file::open(from).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let failed = |source| LoadError::Copy { path: path.to_owned(), source };
    let copy = copy(&name(&source), source, length).map_err(failed)?;
    // What is looked at is what will be opened, whoever writes to the file meanwhile.
    let inspection = inspect::inspect(&contents(&copy).map_err(failed)?)
        .map_err(|refusal| LoadError::Refused { path: path.to_owned(), refusal })?;
    Ok(Staged { path: path.to_owned(), inspection, copy: copy.into() })
}

pub(super) fn digest(copy: &OwnedFd) -> Option<Digest> {
    let copy = File::from(copy.try_clone().ok()?);
    Some(Digest(Sha256::digest(&*contents(&copy).ok()?).into()))
}

/// What the mapping list calls the image. Of a file that changes meanwhile it may say what was true before.
fn name(source: &File) -> String {
    let mut name = format!("medusa:{}", inspect::title(source).unwrap_or_default());
    name.retain(|letter| letter.is_ascii_graphic());
    name.truncate(NAME_BYTES_MAX);
    name
}

/// A memory file where code may be mapped from it; else a file that has no name any more, in a folder where it may.
fn copy(name: &str, mut source: File, length: u64) -> io::Result<File> {
    let mut fill = |copy: &mut File| {
        source.seek(SeekFrom::Start(0))?;
        // If it was cut meanwhile, whether what is left is a library is found out next.
        io::copy(&mut Read::by_ref(&mut source).take(length), copy).map(drop)
    };
    let in_memory = memfd::sealed(name, &mut fill).and_then(executable);
    let copy = in_memory.or_else(|first| {
        nameless(fill).and_then(executable).map_err(|second| {
            let reason = format!(
                "neither as a memory file ({first}) nor in {} ({second}); set TMPDIR to a folder that is not mounted noexec",
                std::env::temp_dir().display()
            );
            io::Error::new(second.kind(), reason)
        })
    })?;
    Ok(copy.into())
}

fn contents(copy: &File) -> io::Result<Pages> {
    if memfd::is_sealed(copy) { Pages::of_sealed(copy) } else { file::read_all(copy) }
}

fn executable(copy: OwnedFd) -> io::Result<OwnedFd> {
    if memfd::may_execute(copy.as_fd()) {
        return Ok(copy);
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "code may not be mapped from there"))
}

fn nameless(fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    let folder = std::env::temp_dir();
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut file = File::from(openat(CWD, &folder, flags, Mode::RWXU)?);
    fill(&mut file)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_is_not_a_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let error = |path: &Path| stage(path).unwrap_err().to_string();
        assert!(error(folder.path()).contains("cannot read"));
        assert!(error(&folder.path().join("none")).contains("cannot read"));
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert!(error(&pipe).contains("cannot read"));
        let text = folder.path().join("text");
        std::fs::write(&text, "#!/bin/sh\n").unwrap();
        assert!(error(&text).contains("cannot load"));
    }

    #[test]
    fn what_was_opened_can_be_staged_again_when_its_file_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good.so");
        std::fs::write(&path, crate::plugin::inspect::tests::good()).unwrap();
        let library = stage(&path).unwrap().open().unwrap();
        std::fs::remove_file(&path).unwrap();
        let again = library.original().unwrap().stage().unwrap();
        assert_eq!(again.digest(), library.digest());
        let second = again.open().unwrap();
        assert_eq!(second.path(), path);
        assert_ne!(second.file(), library.file());
        library.close().unwrap();
        second.close().unwrap();
    }

    #[test]
    fn a_copy_in_a_file_without_a_name_will_do_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("good.so");
        std::fs::write(&path, crate::plugin::inspect::tests::good()).unwrap();
        let mut staged = stage(&path).unwrap();
        assert!(memfd::is_sealed(&staged.copy));
        let digest = staged.digest().unwrap();
        let fill = |copy: &mut File| copy.write_all(&std::fs::read(&path)?);
        staged.copy = nameless(fill).and_then(executable).unwrap();
        assert_eq!(staged.digest(), Some(digest));
        let library = staged.open().unwrap();
        assert!(crate::sys::maps::is_mapped(library.file()).unwrap());
        let file = library.file();
        library.close().unwrap();
        assert!(!crate::sys::maps::is_mapped(file).unwrap());
    }
}
