//! Memory files: anonymous files whose content can be sealed for ever.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create},
    io::Errno,
};

/// How often a file is made anew that cannot be sealed just now. The kernel itself waits up to 150 ms each time.
const ATTEMPTS_MAX: u32 = 5;

const SEALS: SealFlags =
    SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// A memory file that holds what `fill` writes, and that nobody can change any more, this process included. `fill` is called again,
/// with an empty file, where the kernel cannot seal the first one just now.
///
/// `name` shows up in the mapping list as `/memfd:NAME (deleted)`; it may be 249 bytes long and must hold no NUL.
///
/// # Errors
/// Those of `fill`, and what the kernel says: no memory, no descriptors, or a policy that forbids executable memory files
/// (`vm.memfd_noexec=2`, EACCES).
pub fn sealed(
    name: &str,
    mut fill: impl FnMut(&mut File) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let mut attempts_left = ATTEMPTS_MAX;
    loop {
        let mut file = File::from(create(name)?);
        fill(&mut file)?;
        attempts_left -= 1;
        match fcntl_add_seals(&file, SEALS) {
            // The kernel holds one of its pages for a moment, to move it, say (fcntl(2), F_ADD_SEALS); other pages may be free.
            Err(Errno::BUSY) if attempts_left > 0 => {}
            sealed => return Ok(sealed.map(|()| file.into())?),
        }
    }
}

/// A memory file that can be written and sealed, executable where the kernel wants that said.
pub fn create(name: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(name, flags | MemfdFlags::EXEC) {
        // Kernels before 6.3 do not know the flag, and give executable files without it.
        Err(Errno::INVAL) => Ok(memfd_create(name, flags)?),
        other => Ok(other?),
    }
}

/// Whether the content of a memory file can no longer change.
pub fn is_sealed(file: impl AsFd) -> bool {
    fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// Whether code may be mapped from a file: false on file systems mounted `noexec` and where a policy forbids it.
pub fn may_execute(file: BorrowedFd<'_>) -> bool {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    let length = rustix::param::page_size();
    let protection = ProtFlags::READ | ProtFlags::EXEC;
    #[allow(unsafe_code)] // A mapping of our own, gone before the function ends.
    // SAFETY: The kernel chooses the address (null), so no memory in use is replaced; nobody learns the address, and it is unmapped
    // here with the length that it was mapped with.
    unsafe {
        match mmap(std::ptr::null_mut(), length, protection, MapFlags::PRIVATE, file, 0) {
            Ok(address) => munmap(address, length).is_ok(),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_sealed_file_keeps_its_bytes() {
        let file = File::from(sealed("test", |file| file.write_all(b"as it was")).unwrap());
        assert!(is_sealed(&file));
        assert!(may_execute(file.as_fd()));
        assert_eq!(file.set_len(1).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!((&file).write(b"new").is_err());
        let mut read = [0; 9];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).unwrap();
        assert_eq!(&read, b"as it was");
    }
}
