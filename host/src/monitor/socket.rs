//! The monitor's Unix socket: nobody but its owner can connect, a stale one is replaced, a live one is not.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt},
            net::UnixListener as StdListener,
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, Mode, fchmod, flock};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use crate::{config::address::UNIX_PATH_BYTES_MAX, sys::exec};

/// A bound socket; its name is removed when this is dropped, if it still is this socket's.
pub struct MonitorSocket {
    /// What accepts.
    pub listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the name, if it is this host's to remove.
    identity: Option<(u64, u64)>,
}

impl MonitorSocket {
    /// Binds, and listens. The folder is made if it is not there, for its owner alone. Must be called on the runtime.
    ///
    /// The error is a sentence: something else has that name, another host is listening there, the system refuses.
    pub fn bind(path: &Path) -> Result<MonitorSocket, String> {
        let cannot = |error: io::Error| {
            format!("cannot listen on the monitor's socket {}: {error}", path.display())
        };
        let length = path.as_os_str().len();
        if length > UNIX_PATH_BYTES_MAX {
            let sentence = "cannot listen on the monitor's socket: its path has";
            return Err(format!(
                "{sentence} {length} bytes, the system takes {UNIX_PATH_BYTES_MAX}; set a shorter one below [monitor]"
            ));
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(cannot)?;
        // Held until the socket listens, so that of two hosts that start at once one sees the other.
        let lock = File::open(folder).map_err(cannot)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| cannot(error.into()))?;
        clear(path)?;
        let listener = bind_private(path).map_err(cannot)?;
        MonitorSocket::of(listener, path).map_err(cannot)
    }

    /// Goes on with the socket of another image of the host.
    ///
    /// The error is a sentence, as above.
    pub fn inherit(socket: OwnedFd, path: &Path) -> Result<MonitorSocket, String> {
        MonitorSocket::of(socket.into(), path).map_err(|error| {
            format!("cannot go on listening on the monitor's socket {}: {error}", path.display())
        })
    }

    fn of(listener: StdListener, path: &Path) -> io::Result<MonitorSocket> {
        let metadata = fs::symlink_metadata(path)?;
        let listener = UnixListener::from_std(listener)?;
        Ok(MonitorSocket {
            listener,
            path: path.to_owned(),
            identity: Some((metadata.dev(), metadata.ino())),
        })
    }

    /// Takes a socket that listens by this name already: the service manager has bound it, and it removes the name. Must be called on
    /// the runtime.
    ///
    /// The error is a sentence: others than its owner can connect, or the name is gone.
    pub fn adopt(path: &Path, passed: OwnedFd) -> Result<MonitorSocket, String> {
        let shown = path.display();
        let cannot = |error: io::Error| {
            format!("cannot use the monitor's socket {shown} that was passed: {error}")
        };
        let mode = fs::symlink_metadata(path).map_err(cannot)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(format!(
                "the monitor's socket {shown} that was passed is open to others (mode {mode:04o}); set SocketMode=0600, and \
                 SocketUser= to the server's user, in its .socket unit"
            ));
        }
        let listener = StdListener::from(passed);
        listener.set_nonblocking(true).map_err(cannot)?;
        let listener = UnixListener::from_std(listener).map_err(cannot)?;
        tracing::info!("the monitor listens by the socket {shown} that was passed");
        Ok(MonitorSocket { listener, path: path.to_owned(), identity: None })
    }
}

impl Drop for MonitorSocket {
    fn drop(&mut self) {
        if self.identity.is_none() || exec::is_left_behind() {
            return;
        }
        let current =
            fs::symlink_metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino()));
        if current.is_ok_and(|identity| Some(identity) == self.identity) {
            // Nothing can be done about a failure here, and the next start replaces a stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Sessions that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Whether somebody accepts connections there.
pub fn is_alive(path: &Path) -> bool {
    let connect = || -> io::Result<()> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // A host that is alive and busy has a full queue, and must not make us wait: that is `WouldBlock`.
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connect() {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn clear(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cannot look at the monitor's socket {shown}: {error}")),
    };
    if !metadata.file_type().is_socket() {
        return Err(format!(
            "the monitor's socket would replace {shown}, which is something else; move it away"
        ));
    }
    if is_alive(path) {
        return Err(format!(
            "another medusa is listening on the monitor's socket {shown}; stop it first (medusa ctl --socket {shown} \
             shutdown), or give this one a socket of its own below [monitor]"
        ));
    }
    fs::remove_file(path)
        .map_err(|error| format!("cannot remove the stale socket {shown}: {error}"))
}

/// Binds a socket that has its mode before it has its name (Linux takes the mode of the descriptor, less the umask), so that there
/// is no moment in which another user could connect, and no umask to change for the whole process.
fn bind_private(path: &Path) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn the_socket_is_its_owners_alone_and_goes_with_the_host() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/medusa.sock");
        let socket = MonitorSocket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(is_alive(&path));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sock");
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists() && !is_alive(&path));
        let socket = MonitorSocket::bind(&path).unwrap();
        let error = MonitorSocket::bind(&path).err().unwrap();
        assert!(error.contains("another medusa is listening"), "{error}");
        drop(socket);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("precious");
        fs::write(&path, "data").unwrap();
        let error = MonitorSocket::bind(&path).err().unwrap();
        assert!(error.contains("something else") && path.exists(), "{error}");
        let long = folder.path().join("x".repeat(120));
        assert!(MonitorSocket::bind(&long).err().unwrap().contains("shorter"));
    }

    #[tokio::test]
    async fn a_name_that_another_socket_has_taken_over_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sock");
        let first = MonitorSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = MonitorSocket::bind(&path).unwrap();
        drop(first);
        assert!(is_alive(&path));
        drop(second);
    }
}
