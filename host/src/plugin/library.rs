//! One loaded image: a sealed copy, opened, its range known, closed and verified.
//!
//! This is the only file with `dlopen` in it. A library is opened from a copy in memory (`stage`), so that overwriting the file on disk
//! harms nobody, and so that two versions of one file are two images. The copy's descriptor stays open until the image is gone: the
//! dynamic linker knows the image by the descriptor's number, and would hand it out again to whoever opens another file by that number.

// Loads code and calls the dynamic linker.
#![allow(unsafe_code)]

pub mod file;

mod error;
mod stage;

use std::{
    ffi::{CStr, CString, OsStr, c_void},
    fmt, io,
    ops::Range,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library as Handle, RTLD_LOCAL, RTLD_NOW};

pub use self::{
    error::LoadError,
    stage::{Original, Staged},
};
use super::{
    inspect::Inspection,
    interpose::{self, ImageId, Pending},
};
use crate::sys::{
    images,
    maps::{self, FileId},
};

/// A library that is mapped. Dropping it without [`Library::close`] leaves it mapped for ever.
#[derive(Debug)]
pub struct Library {
    image: ImageId,
    path: PathBuf,
    inspection: Inspection,
    range: Range<usize>,
    file: FileId,
    /// None once `dlclose` was called.
    handle: Option<Handle>,
    /// Open until the image is unmapped.
    copy: Option<OwnedFd>,
}

/// SHA-256 of a library's file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

/// Proof that an image is no longer mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmapped {
    /// The image that is gone.
    pub image: ImageId,
    /// Destructors that it registered while it was being closed, and that will never run.
    pub thrown_away: usize,
}

/// An image that is still mapped, and why. [`Library::close`] can be called again when something has changed.
#[derive(Debug)]
pub struct StillMapped {
    /// The library.
    pub library: Box<Library>,
    /// Why.
    pub reason: PinReason,
}

/// Why an image is still mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinReason {
    /// It was not closed, for something of it is still alive.
    Pending(Pending),
    /// It was not closed, for the host cannot see what of it is alive.
    NotInterposed,
    /// The dynamic linker refused.
    Close(String),
    /// It was closed, and the dynamic linker keeps it: something else refers to it.
    Kept,
    /// It was closed, and the mapping list cannot be read.
    Unverified(String),
}

impl Library {
    /// Copies and inspects a library. Blocks; may run on any thread.
    ///
    /// # Errors
    /// The file cannot be read or copied, or is refused.
    pub fn stage(path: &Path) -> Result<Staged, LoadError> {
        stage::stage(path)
    }

    /// Opens a copy; runs the library's constructors. On the loop, for what runs is to be attributed to one image at a time.
    fn open(staged: Staged) -> Result<Library, LoadError> {
        let Staged { path, inspection, copy } = staged;
        let name = CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd()))
            .expect("a number holds no NUL");
        let failed = |reason| LoadError::Open { path: path.clone(), reason };

        // Whoever opens it has to be able to see that it is gone, when no descriptor may be left.
        maps::keep_open().map_err(|error| failed(format!("the mapping list: {error}")))?;
        let image = interpose::begin_open(&name)
            .map_err(|source| LoadError::Watch { path: path.clone(), source })?;
        let handle = match open_now(&name) {
            Ok(handle) => handle,
            Err(error) => {
                interpose::unregister(image);
                return Err(LoadError::from_linker(&path, &name, &error));
            }
        };
        let mut library = Library {
            image,
            inspection,
            range: 0..0,
            file: FileId { device: (0, 0), inode: 0 },
            handle: Some(handle),
            copy: Some(copy),
            path: path.clone(),
        };
        // From here on an error drops `library`, which leaves it mapped: nothing is known of it that would allow more.
        let range = images::range_by_name(&name)
            .ok_or_else(|| failed("the dynamic linker does not list it".to_owned()))?;
        interpose::register(image, range.clone());
        library.file = maps::mapping_at(range.start)
            .map_err(|error| failed(error.to_string()))?
            .ok_or_else(|| failed("it is not in the mapping list".to_owned()))?
            .file;
        library.range = range;
        Ok(library)
    }

    /// The image's number.
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// The file that it was read from, which may have changed since.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes that it was opened from, to be staged once more.
    ///
    /// # Errors
    /// It was closed, or there is no descriptor left.
    pub fn original(&self) -> io::Result<Original> {
        let copy = self.copy.as_ref().ok_or_else(|| io::Error::other("it was closed"))?;
        Ok(Original { path: self.path.clone(), copy: copy.try_clone()? })
    }

    /// The descriptor of the copy that it was opened from; none once it was unmapped.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.copy.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// What its file stated.
    pub fn inspection(&self) -> &Inspection {
        &self.inspection
    }

    /// SHA-256 of the bytes that it was opened from, as [`Staged::digest`]; none once it was unmapped.
    pub fn digest(&self) -> Option<Digest> {
        stage::digest(self.copy.as_ref()?)
    }

    /// Device and inode of its mapping, as in `/proc/self/maps`.
    pub fn file(&self) -> FileId {
        self.file
    }

    /// The addresses that it takes.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Whether an address is its.
    pub fn contains(&self, address: *const ()) -> bool {
        self.range.contains(&(address as usize))
    }

    /// The address of an exported symbol, as a pointer or function pointer.
    ///
    /// # Errors
    /// The library does not export it.
    ///
    /// # Safety
    /// The symbol is a `T` (a static, if `T` is a pointer; a function with that signature, if it is a function pointer), and is used
    /// only as long as the library is mapped.
    pub unsafe fn symbol<T: Copy>(&self, name: &CStr) -> Result<T, LoadError> {
        let missing = || LoadError::Symbol {
            path: self.path.clone(),
            symbol: name.to_string_lossy().into_owned(),
        };
        let handle = self.handle.as_ref().ok_or_else(missing)?;
        const { assert!(size_of::<T>() == size_of::<*mut c_void>(), "T is not a pointer") };
        // SAFETY: Asked for as a plain pointer, which any symbol is.
        let symbol = unsafe { handle.get::<*mut c_void>(name) }.map_err(|_| missing())?;
        let address = symbol.as_raw_ptr();
        if address.is_null() {
            return Err(missing());
        }
        // SAFETY: Of the same size as asserted; that it is a `T`, by the caller.
        Ok(unsafe { std::mem::transmute_copy::<*mut c_void, T>(&address) })
    }

    /// Unmaps the library, and verifies that it is gone.
    ///
    /// Everything that is the library's has to be gone before, and every thread that ran its code cleaned
    /// ([`interpose::clean_current_thread`]); what is found to be left is a reason not to try. On the loop.
    ///
    /// # Errors
    /// It is still mapped; the library comes back, to be closed again when something has changed.
    pub fn close(mut self) -> Result<Unmapped, StillMapped> {
        match self.try_close() {
            Ok(unmapped) => Ok(unmapped),
            Err(reason) => Err(StillMapped { library: Box::new(self), reason }),
        }
    }

    fn try_close(&mut self) -> Result<Unmapped, PinReason> {
        if self.handle.is_some() {
            interpose::install().map_err(|_| PinReason::NotInterposed)?;
            let pending = interpose::pending(self.image);
            if !pending.is_empty() {
                return Err(PinReason::Pending(pending));
            }
        }
        if let Some(handle) = self.handle.take() {
            interpose::delete_keys(self.image);
            handle.close().map_err(|error| PinReason::Close(error.to_string()))?;
        }
        let unverified = |error: std::io::Error| PinReason::Unverified(error.to_string());
        if maps::is_mapped(self.file).map_err(unverified)? || self.is_listed() {
            return Err(PinReason::Kept);
        }
        self.copy = None;
        Ok(Unmapped { image: self.image, thrown_away: interpose::unregister(self.image) })
    }

    /// Whether the dynamic linker still lists the image. By name, not by address: another may have taken its place already.
    fn is_listed(&self) -> bool {
        let Some(copy) = &self.copy else { return false };
        CString::new(format!("/proc/self/fd/{}", copy.as_raw_fd()))
            .is_ok_and(|name| images::range_by_name(&name).is_some())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        // Closing it here could unmap code that is still referred to. Both stay: the image, and the number that it is known by.
        std::mem::forget(copy);
        std::mem::forget(self.handle.take());
        tracing::warn!(library = %self.path.display(), image = self.image.number(), "a library was not closed and stays mapped");
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl fmt::Display for PinReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PinReason::Pending(pending) => write!(f, "{pending}"),
            PinReason::NotInterposed => write!(f, "{}", interpose::WatchError::NotActive),
            PinReason::Close(error) => write!(f, "the dynamic linker refused to close it: {error}"),
            PinReason::Kept => f.write_str(
                "the dynamic linker keeps it: another library refers to it, or C code in it registered with the C library directly",
            ),
            PinReason::Unverified(error) => {
                write!(f, "whether it is unmapped cannot be verified: {error}")
            }
        }
    }
}

impl fmt::Display for StillMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is still mapped: {}", self.library.path.display(), self.reason)
    }
}

impl std::error::Error for StillMapped {}

fn open_now(name: &CStr) -> Result<Handle, libloading::Error> {
    let name = OsStr::from_bytes(name.to_bytes());
    // SAFETY: The library's constructors run. It has the manifest and the entry of a plugin, so an operator gave it as one, and an
    // operator's plugins are trusted code; RTLD_LOCAL keeps its symbols from others.
    unsafe { Handle::open(Some(name), RTLD_NOW | RTLD_LOCAL) }
}
