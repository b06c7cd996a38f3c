//! Bytes between descriptors and memory that a plugin names: the kernel checks the memory, so a wrong pointer is an errno and not
//! undefined behaviour.
//!
//! Nothing here waits: sockets are asked with MSG_DONTWAIT, and EAGAIN is an answer like others.

// The kernel is handed pointers that were never Rust references.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::net::RecvFlags;
use tokio::io::ReadBuf;

/// Most bytes that one [`send_file`] moves, so that a fast reader cannot keep the loop.
pub const SEND_FILE_BYTES_MAX: usize = 1 << 20;
/// Most pieces of one [`send_vectored`] (UIO_MAXIOV).
pub const PIECES_MAX: usize = 1024;

/// Whether more bytes follow at once, so that the kernel may wait to fill a segment (MSG_MORE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More {
    /// Nothing follows.
    No,
    /// More follows.
    Yes,
}

/// Receives at most `length` bytes to `buffer`; 0 at the end of the input (or for length 0).
///
/// # Errors
/// EFAULT where the memory cannot be written, [`io::ErrorKind::WouldBlock`] where nothing is there, and what recv(2) says.
///
/// # Safety
/// What is written over must be the caller's to give: no Rust reference to `buffer..buffer + length` is alive. The memory need not
/// be mapped.
pub unsafe fn receive(socket: BorrowedFd<'_>, buffer: *mut u8, length: usize) -> io::Result<usize> {
    // SAFETY: The kernel checks that the memory can be written (EFAULT), and the caller vouches that nobody else relies on it.
    let count =
        unsafe { libc::recv(socket.as_raw_fd(), buffer.cast(), length, libc::MSG_DONTWAIT) };
    answer(count)
}

/// As [`receive`], into the unfilled part of `buffer`.
///
/// # Errors
/// As [`receive`].
pub fn receive_into(socket: BorrowedFd<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: Nothing in it is made uninitialized.
    let unfilled = unsafe { buffer.unfilled_mut() };
    // Not libc's: that can be cancelled, which it has to prepare for in a process with several threads.
    let ((filled, _), _) = rustix::net::recv(socket, unfilled, RecvFlags::DONTWAIT)?;
    let count = filled.len();
    // SAFETY: As many bytes as the kernel says have been written.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(count)
}

/// Looks at the bytes that [`receive`] would take, and leaves them.
///
/// # Errors
/// As [`receive`].
///
/// # Safety
/// As [`receive`].
pub unsafe fn peek(socket: BorrowedFd<'_>, buffer: *mut u8, length: usize) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
    // SAFETY: As in `receive`.
    answer(unsafe { libc::recv(socket.as_raw_fd(), buffer.cast(), length, flags) })
}

/// Sends at most `length` bytes from `bytes`; how many were taken. Never raises SIGPIPE.
///
/// # Errors
/// EFAULT where the memory cannot be read, [`io::ErrorKind::WouldBlock`] where the socket is full, and what send(2) says.
///
/// # Safety
/// Nobody writes to `bytes..bytes + length` meanwhile. The memory need not be mapped.
pub unsafe fn send(
    socket: BorrowedFd<'_>,
    bytes: *const u8,
    length: usize,
    more: More,
) -> io::Result<usize> {
    // SAFETY: The kernel checks that the memory can be read (EFAULT), and only reads it.
    answer(unsafe { libc::send(socket.as_raw_fd(), bytes.cast(), length, send_flags(more)) })
}

/// Sends pieces, one after the other; how many bytes were taken. `pieces` points to `count` iovecs; more than [`PIECES_MAX`] are
/// cut off there. Never raises SIGPIPE.
///
/// # Errors
/// EFAULT where a piece or the list cannot be read, [`io::ErrorKind::WouldBlock`] where the socket is full, and what sendmsg(2) says.
///
/// # Safety
/// Nobody writes to the list or the pieces meanwhile. The memory need not be mapped.
pub unsafe fn send_vectored(
    socket: BorrowedFd<'_>,
    pieces: *const libc::iovec,
    count: usize,
    more: More,
) -> io::Result<usize> {
    // SAFETY: All zeroes is a valid msghdr: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.cast_mut();
    message.msg_iovlen = count.min(PIECES_MAX) as _;
    // SAFETY: The kernel checks list and pieces (EFAULT), and only reads them; `message` is ours.
    answer(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, send_flags(more)) })
}

/// Sends from a file, without a copy through this process, at most `length` and at most [`SEND_FILE_BYTES_MAX`] bytes from `*offset`,
/// which moves on; 0 at the end of the file.
///
/// The socket must be non-blocking, for sendfile(2) knows no other way to say so. Pages that are not in memory are waited for.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] where the socket is full, and what sendfile(2) says.
pub fn send_file(
    socket: impl AsFd,
    file: impl AsFd,
    offset: &mut u64,
    length: usize,
) -> io::Result<usize> {
    let length = length.min(SEND_FILE_BYTES_MAX);
    Ok(rustix::fs::sendfile(socket, file, Some(offset), length)?)
}

fn send_flags(more: More) -> i32 {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    match more {
        More::No => flags,
        More::Yes => flags | libc::MSG_MORE,
    }
}

fn answer(count: isize) -> io::Result<usize> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    const UNMAPPED: *mut u8 = 16 as *mut u8;

    #[test]
    fn bytes_arrive() {
        let (here, there) = UnixStream::pair().unwrap();
        let pieces = [b"one".as_slice(), b" two"].map(|piece| libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        });
        let mut buffer = [0_u8; 16];
        // SAFETY: Pieces and buffer are alive, and nobody else uses them.
        unsafe {
            assert_eq!(send_vectored(here.as_fd(), pieces.as_ptr(), 2, More::No).unwrap(), 7);
            assert_eq!(send(here.as_fd(), b"!".as_ptr(), 1, More::No).unwrap(), 1);
            assert_eq!(peek(there.as_fd(), buffer.as_mut_ptr(), 3).unwrap(), 3);
            assert_eq!(receive(there.as_fd(), buffer.as_mut_ptr(), 16).unwrap(), 8);
            assert_eq!(&buffer[..8], b"one two!");
            let empty = receive(there.as_fd(), buffer.as_mut_ptr(), 16).unwrap_err();
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
            drop(here);
            assert_eq!(receive(there.as_fd(), buffer.as_mut_ptr(), 16).unwrap(), 0);
            let broken = send(there.as_fd(), b"!".as_ptr(), 1, More::No).unwrap_err();
            assert_eq!(broken.kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[test]
    fn a_wrong_pointer_is_an_errno() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(b"x").unwrap();
        let piece = libc::iovec { iov_base: UNMAPPED.cast(), iov_len: 8 };
        // SAFETY: The first page is never mapped, so nobody relies on it.
        let errors = unsafe {
            [
                receive(there.as_fd(), UNMAPPED, 8),
                send(there.as_fd(), UNMAPPED, 8, More::No),
                send_vectored(there.as_fd(), &raw const piece, 1, More::No),
                send_vectored(there.as_fd(), UNMAPPED.cast(), 1, More::No),
            ]
        };
        for error in errors {
            assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EFAULT));
        }
        (&there).read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_file_is_sent_in_pieces() {
        let (here, mut there) = UnixStream::pair().unwrap();
        let file = crate::sys::memfd::sealed("test", |file| file.write_all(b"0123456789")).unwrap();
        let mut offset = 2;
        assert_eq!(send_file(&here, &file, &mut offset, 3).unwrap(), 3);
        assert_eq!(offset, 5);
        assert_eq!(send_file(&here, &file, &mut offset, usize::MAX).unwrap(), 5);
        assert_eq!(send_file(&here, &file, &mut offset, 1).unwrap(), 0);
        let mut read = [0; 8];
        there.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"23456789");
    }
}
