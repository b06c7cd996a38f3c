//! How long a TCP connection has carried no data: the kernel keeps that (`TCP_INFO`, tcp(7)), so nothing has to be noted at each read
//! and write.

// The kernel fills a structure whose size it is told.
#![allow(unsafe_code)]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

/// The time since data last went out or came in, to the millisecond; keep-alive probes and bare acknowledgements are no data.
///
/// # Errors
/// What getsockopt(2) says: EOPNOTSUPP where the socket is not one of TCP.
pub fn idle(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    // SAFETY: All fields are numbers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: The kernel writes at most `length` bytes to `info`, which is that large, and the length itself.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let ms = info.tcpi_last_data_sent.min(info.tcpi_last_data_recv);
    Ok(Duration::from_millis(u64::from(ms)))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::{fd::AsFd, unix::net::UnixStream},
        time::Instant,
    };

    use super::*;

    #[test]
    fn data_in_either_direction_ends_idleness() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (served, _) = listener.accept().unwrap();
        let idle_of = |stream: &TcpStream| idle(stream.as_fd()).unwrap();
        let until_idle =
            || while idle_of(&served).min(idle_of(&client)) < Duration::from_millis(40) {};
        until_idle();
        let begun = Instant::now();
        (&client).write_all(b"x").unwrap();
        (&served).read_exact(&mut [0]).unwrap();
        let found = idle_of(&served).max(idle_of(&client));
        // The kernel counts in ticks, of 10 ms at most.
        assert!(found <= begun.elapsed() + Duration::from_millis(20), "{found:?}");
        until_idle();
        (&served).write_all(b"y").unwrap();
        assert!(idle_of(&served) <= begun.elapsed());
    }

    #[test]
    fn what_is_not_tcp_says_so() {
        let (one, _other) = UnixStream::pair().unwrap();
        idle(one.as_fd()).unwrap_err();
    }
}
