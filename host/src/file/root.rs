//! A root: a directory that files are opened beneath.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use medusa_abi::file::{
    OPEN_CREATE, OPEN_DIRECTORY, OPEN_EXCLUSIVE, OPEN_NO_SYMLINKS, OPEN_READ, OPEN_TRUNCATE,
    OPEN_WRITE,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::{
    file::open_file::File,
    sys::{
        beneath::{self, Links, Wait},
        blocking::{self, Blocking},
    },
};

/// A directory that files are opened beneath.
#[derive(Debug)]
pub struct Root {
    directory: Arc<OwnedFd>,
    path: PathBuf,
}

/// Why a root was not opened.
#[derive(Debug)]
pub struct RootError {
    /// The directory.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
    /// Whether the directory is fine and the kernel cannot open beneath it.
    pub is_unsupported: bool,
}

/// How a file is to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    flags: OFlags,
    mode: Mode,
    links: Links,
}

/// All flags of the ABI.
const OPEN_ALL: u32 = OPEN_READ
    | OPEN_WRITE
    | OPEN_CREATE
    | OPEN_TRUNCATE
    | OPEN_EXCLUSIVE
    | OPEN_DIRECTORY
    | OPEN_NO_SYMLINKS;

impl Root {
    /// Opens a directory by its absolute path. May block.
    ///
    /// # Errors
    /// The path is not absolute, or names no directory; or the kernel has no openat2(2).
    pub fn open(path: &Path) -> Result<Root, RootError> {
        let failed = |error: io::Error, is_unsupported| RootError {
            path: path.into(),
            error,
            is_unsupported,
        };
        if !path.is_absolute() {
            return Err(failed(Errno::INVAL.into(), false));
        }
        let directory = beneath::open_root(path).map_err(|error| failed(error, false))?;
        // A probe: where the call is missing, or a container's filter refuses it, nothing beneath can be opened.
        let probe = beneath::open(
            &directory,
            Path::new("."),
            OFlags::DIRECTORY,
            Mode::empty(),
            Links::Refused,
            Wait::Allowed,
        );
        if let Err(error) = probe
            && is_refused_by_the_system(&error)
        {
            return Err(failed(error, true));
        }
        Ok(Root { directory: Arc::new(directory), path: path.into() })
    }

    /// Where it is, as it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file beneath: `path` is relative, empty for the root itself; `flags` are the ABI's `OPEN_*`; `mode` has the
    /// permission bits of a file that is made. Done at once where the kernel knows the way by heart, else on the pool.
    ///
    /// # Errors
    /// EINVAL for a NUL in the path and for flags that make no sense; [`io::ErrorKind::ResourceBusy`] if the pool has as much
    /// to do as it may; EXDEV where the path leads out of the root; ELOOP at a link that is not followed; what else the system
    /// says at once, ENOENT say.
    pub fn open_file(
        &self,
        pool: &Rc<dyn Blocking>,
        path: &Path,
        flags: u32,
        mode: u32,
    ) -> io::Result<File> {
        let how = How::new(flags, mode)?;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        if path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Errno::INVAL.into());
        }
        match how.open(&self.directory, path, Wait::Never) {
            Ok(descriptor) => Ok(File::opened(descriptor, pool)),
            // The answer is not in memory, or the kernel cannot be asked not to wait: before 5.12 that is EINVAL.
            Err(error) if is_for_the_pool(&error) => {
                let (directory, path) = (self.directory.clone(), path.to_owned());
                let open = move || how.open(&directory, &path, Wait::Allowed);
                Ok(File::opening(blocking::run(&**pool, open)?, pool))
            }
            Err(error) => Err(error),
        }
    }
}

impl How {
    fn new(flags: u32, mode: u32) -> io::Result<How> {
        let has = |flag| flags & flag != 0;
        let access = match (has(OPEN_READ), has(OPEN_WRITE)) {
            (_, false) => OFlags::RDONLY,
            (false, true) => OFlags::WRONLY,
            (true, true) => OFlags::RDWR,
        };
        let changes = has(OPEN_WRITE | OPEN_CREATE | OPEN_TRUNCATE | OPEN_EXCLUSIVE);
        let is_sound = flags & !OPEN_ALL == 0
            && has(OPEN_READ | OPEN_WRITE | OPEN_DIRECTORY)
            && !(has(OPEN_DIRECTORY) && changes)
            && (has(OPEN_WRITE) || !has(OPEN_CREATE | OPEN_TRUNCATE))
            && (has(OPEN_CREATE) || !has(OPEN_EXCLUSIVE))
            && mode & !0o777 == 0;
        if !is_sound {
            return Err(Errno::INVAL.into());
        }
        let mut open = access | OFlags::NOCTTY;
        open.set(OFlags::CREATE, has(OPEN_CREATE));
        open.set(OFlags::TRUNC, has(OPEN_TRUNCATE));
        open.set(OFlags::EXCL, has(OPEN_EXCLUSIVE));
        open.set(OFlags::DIRECTORY, has(OPEN_DIRECTORY));
        // The kernel refuses a mode where no file can be made.
        let mode = if has(OPEN_CREATE) { Mode::from_raw_mode(mode) } else { Mode::empty() };
        let links = if has(OPEN_NO_SYMLINKS) { Links::Refused } else { Links::Beneath };
        Ok(How { flags: open, mode, links })
    }

    fn open(&self, root: &OwnedFd, path: &Path, wait: Wait) -> io::Result<OwnedFd> {
        beneath::open(root, path, self.flags, self.mode, self.links, wait)
    }
}

fn is_for_the_pool(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AGAIN | Errno::INVAL))
}

fn is_refused_by_the_system(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSYS | Errno::PERM))
}

impl fmt::Display for RootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match Errno::from_io_error(&self.error) {
            _ if self.is_unsupported => write!(
                f,
                "cannot open files beneath {path}: this system refuses the call openat2, which keeps paths beneath their root; it \
                 needs Linux 5.6, and a container's filter must let the call pass ({})",
                self.error
            ),
            Some(Errno::INVAL) if !self.path.is_absolute() => {
                write!(f, "cannot open files beneath `{path}`: the path is not absolute")
            }
            Some(Errno::NOENT) => write!(
                f,
                "cannot open files beneath {path}: there is no such directory; make it, or name another one"
            ),
            Some(Errno::NOTDIR) => {
                write!(f, "cannot open files beneath {path}: that is not a directory")
            }
            _ => write!(f, "cannot open files beneath {path}: {}", self.error),
        }
    }
}

impl std::error::Error for RootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}
