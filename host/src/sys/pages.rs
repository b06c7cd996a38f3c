//! Memory of whole pages: for what is large and needed once, such as a library's file.
//!
//! The allocator would keep such a block for the thread that freed it; with a pool of threads, once for each of them.

// Maps memory.
#![allow(unsafe_code)]

use std::{
    io,
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

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

    /// Forgets all but the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: The mapping is ours until the drop, at least so long, and was zeroed by the kernel.
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
        // SAFETY: Mapped by `zeroed` with this length, and nobody borrows it any more.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
