//! Memory of whole pages: for what is large and needed once, such as a library's file.
//!
//! The allocator would keep such a block for the thread that freed it; with a pool of threads, once for each of them.

// Maps memory.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::sys::memfd;

/// Bytes in pages of their own, which go back to the system when it is dropped.
#[derive(Debug)]
pub struct Pages {
    address: NonNull<u8>,
    /// What is mapped, 1 at least.
    mapped: usize,
    /// What is used of it.
    length: usize,
}

impl Pages {
    /// `length` bytes that are zero.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn zeroed(length: usize) -> io::Result<Pages> {
        let mapped = length.max(1);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: The kernel chooses the address (null), so no memory in use is replaced.
        let address =
            unsafe { mmap_anonymous(ptr::null_mut(), mapped, protection, MapFlags::PRIVATE) }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { address, mapped, length })
    }

    /// What a sealed memory file holds, which is not copied.
    ///
    /// # Errors
    /// It is not sealed, so that it could be cut while somebody reads; or the system has no memory for it.
    pub fn of_sealed(file: &File) -> io::Result<Pages> {
        if !memfd::is_sealed(file) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not sealed"));
        }
        let length = file.metadata()?.len() as usize;
        if length == 0 {
            return Pages::zeroed(0);
        }
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: As above. The file keeps its length and bytes, as it is sealed, and what is written here is private.
        let address =
            unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::PRIVATE, file, 0) }?;
        let address = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Pages { address, mapped: length, length })
    }

    /// Forgets all but the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: The mapping is ours until the drop, at least so long, and was filled by the kernel.
        unsafe { slice::from_raw_parts(self.address.as_ptr(), self.length) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: As above, and nobody else knows the address.
        unsafe { slice::from_raw_parts_mut(self.address.as_ptr(), self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: Mapped above with this length, and nobody borrows it any more.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_sealed_file_is_read_where_it_lies() {
        let sealed = |bytes: &[u8]| {
            Pages::of_sealed(&memfd::sealed("test", |file| file.write_all(bytes)).unwrap().into())
        };
        let mut pages = sealed(&[7; 5_000]).unwrap();
        assert_eq!(&pages[..], &[7; 5_000]);
        pages[0] = 8;
        assert_eq!(pages[..2], [8, 7]);
        assert!(sealed(b"").unwrap().is_empty());
        Pages::of_sealed(&memfd::create("test").unwrap().into()).unwrap_err();
    }

    #[test]
    fn pages_hold_bytes() {
        let mut pages = Pages::zeroed(10_000).unwrap();
        assert!(pages.iter().all(|byte| *byte == 0));
        pages[9_999] = 7;
        assert_eq!((pages.len(), pages[9_999]), (10_000, 7));
        pages.truncate(5);
        assert_eq!(pages.len(), 5);
        assert!(Pages::zeroed(0).unwrap().is_empty());
        Pages::zeroed(usize::MAX).unwrap_err();
    }
}
