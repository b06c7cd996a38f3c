//! Listening sockets that the service manager keeps: those that it has passed to this process, and those that it is given to keep, so that
//! they outlive this process and their clients wait in the kernel's queue for the next one.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::Path,
    rc::Rc,
};

use crate::{
    net::{
        address::Address,
        listener::{ListenError, Listener, SocketFile, listens_on},
    },
    sys::notify::Notifier,
};

/// All that are kept. Without a service manager there are none, and listening is only that.
#[derive(Debug, Default)]
pub struct KeptSockets {
    manager: RefCell<Option<Rc<Notifier>>>,
    passed: RefCell<Vec<Rc<Passed>>>,
    /// Whether listeners that close from now on stay with the manager.
    is_stopping: Rc<Cell<bool>>,
}

/// A socket that was passed, and that listens.
#[derive(Debug)]
pub struct Passed {
    /// As the manager calls it.
    name: String,
    address: Address,
    socket: OwnedFd,
}

/// What a listener has of a socket that is kept elsewhere too.
#[derive(Debug)]
pub(super) enum Held {
    /// The manager keeps it because it was asked to by this server: until the listener is closed, but over the server's own end.
    Stored {
        manager: Rc<Notifier>,
        name: String,
        file: Option<SocketFile>,
        is_stopping: Rc<Cell<bool>>,
    },
    /// The manager has bound it and never gives it up; so neither does this process, to have it for the next who is to listen there.
    Managers { _socket: Rc<Passed> },
}

/// What the names of sockets begin with that this server has given to the manager.
const STORED: &str = "medusa-listener-";
/// The longest name that the manager takes (sd_pid_notify_with_fds(3)).
const NAME_BYTES_MAX: usize = 255;

impl KeptSockets {
    /// The service manager is told of sockets from now on.
    pub fn set_manager(&self, manager: Rc<Notifier>) {
        self.manager.replace(Some(manager));
    }

    /// Takes a descriptor that was passed under this name. One that is no listening socket is closed, with a warning.
    pub fn add(&self, name: String, socket: OwnedFd) {
        match listens_on(socket.as_fd()) {
            Ok(address) => {
                tracing::debug!("the socket `{name}` on {address} was passed");
                self.passed.borrow_mut().push(Rc::new(Passed { name, address, socket }));
            }
            Err(error) => {
                tracing::warn!("the descriptor `{name}` that was passed is closed: {error}");
                self.forget(&name);
            }
        }
    }

    /// Takes a passed socket out, if there is one on this address.
    pub fn take(&self, address: &Address) -> Option<OwnedFd> {
        let mut passed = self.passed.borrow_mut();
        let at = passed.iter().position(|it| it.address == *address)?;
        match Rc::try_unwrap(passed.remove(at)) {
            Ok(passed) => Some(passed.socket),
            // A listener has it.
            Err(shared) => {
                passed.push(shared);
                None
            }
        }
    }

    /// Listens by a socket that was passed, if there is one on this very address that nobody uses; else binds as [`Listener::bind`] does,
    /// and gives the socket to the service manager to keep. Where the system is to choose the port nothing is kept: the next start
    /// would not know it again. Must be called on the loop.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn listen(&self, address: &Address, backlog: u32) -> Result<Listener, ListenError> {
        let failed = |error| ListenError { address: address.clone(), error };
        while let Some(passed) = self.unused(address) {
            let is_stored = passed.name.starts_with(STORED);
            if is_stored && !is_reachable(address) {
                self.drop_passed(&passed);
                continue;
            }
            let socket = passed.socket.try_clone().map_err(failed)?;
            let mut listener = Listener::adopt(socket, backlog).map_err(failed)?;
            tracing::info!(
                "listening on {address} by the socket `{}` that was passed",
                passed.name
            );
            if is_stored {
                listener.own_file().map_err(failed)?;
                self.passed.borrow_mut().retain(|other| !Rc::ptr_eq(other, &passed));
                self.hold(&mut listener, &passed.name);
            } else {
                listener.hold(|_| Held::Managers { _socket: passed });
            }
            return Ok(listener);
        }
        let mut listener = Listener::bind(address, backlog)?;
        if let Some(name) = stored_name(address) {
            self.hold(&mut listener, &name);
            self.store(&listener, &name);
        }
        Ok(listener)
    }

    /// The sockets of the manager's own, with its names for them.
    pub fn managers(&self) -> Vec<(String, RawFd)> {
        let passed = self.passed.borrow();
        passed.iter().map(|it| (it.name.clone(), it.socket.as_raw_fd())).collect()
    }

    /// Goes on listening by a socket of another image of the host, which the manager keeps if it kept it then. Must be called on the
    /// loop.
    ///
    /// # Errors
    /// It is no socket that listens; the file of a Unix socket is not there.
    pub fn inherit(&self, socket: OwnedFd, backlog: u32) -> io::Result<Listener> {
        let mut listener = Listener::adopt(socket, backlog)?;
        listener.own_file()?;
        if let Some(name) = stored_name(listener.address()) {
            self.hold(&mut listener, &name);
        }
        Ok(listener)
    }

    /// Closes the sockets that were passed and that are for none of these addresses, nor in use.
    pub fn close_others(&self, is_wanted: impl Fn(&Address) -> bool) {
        let passed = self.passed.borrow().clone();
        let is_free = |passed: &Rc<Passed>| Rc::strong_count(passed) == 2;
        for passed in passed.iter().filter(|it| is_free(it) && !is_wanted(&it.address)) {
            let Passed { name, address, .. } = &**passed;
            tracing::warn!(
                "the socket `{name}` on {address} that was passed is closed: no instance that is enabled has that address in `listen`"
            );
            self.drop_passed(passed);
        }
    }

    /// This server is about to end: what it has given the manager stays there, and so do the files of Unix sockets.
    pub fn stop(&self) {
        self.is_stopping.set(true);
    }

    fn unused(&self, address: &Address) -> Option<Rc<Passed>> {
        let passed = self.passed.borrow();
        passed.iter().find(|it| it.address == *address && Rc::strong_count(it) == 1).cloned()
    }

    fn drop_passed(&self, passed: &Rc<Passed>) {
        self.passed.borrow_mut().retain(|other| !Rc::ptr_eq(other, passed));
        self.forget(&passed.name);
    }

    fn hold(&self, listener: &mut Listener, name: &str) {
        let Some(manager) = self.manager.borrow().clone() else { return };
        let (name, is_stopping) = (name.to_owned(), self.is_stopping.clone());
        listener.hold(|file| Held::Stored { manager, name, file, is_stopping });
    }

    fn store(&self, listener: &Listener, name: &str) {
        if let Some(manager) = &*self.manager.borrow() {
            manager.send(&format!("FDSTORE=1\nFDNAME={name}"), Some(listener.as_fd()));
        }
    }

    /// Has the manager give up what this server gave it; of what is its own, it cannot.
    fn forget(&self, name: &str) {
        if let Some(manager) = &*self.manager.borrow()
            && name.starts_with(STORED)
        {
            remove(manager, name);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Held::Stored { manager, name, file, is_stopping } = self else { return };
        if !is_stopping.get() {
            remove(manager, name);
        } else if let Some(file) = file.take() {
            file.leave();
        }
    }
}

fn remove(manager: &Rc<Notifier>, name: &str) {
    manager.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None);
}

/// Whether clients find a socket there: the path of a Unix socket may be gone, and the socket with it for all but its owner.
fn is_reachable(address: &Address) -> bool {
    let is_socket =
        |path: &Path| fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket());
    match address {
        Address::Tcp(_) => true,
        Address::Unix(path) => is_socket(path),
    }
}

/// The name under which the manager keeps a socket. It takes printable ASCII without colons; the rest is written as in URLs.
fn stored_name(address: &Address) -> Option<String> {
    let text = match address {
        Address::Tcp(tcp) if tcp.port() == 0 => return None,
        Address::Tcp(tcp) => tcp.to_string().into_bytes(),
        Address::Unix(path) => path.as_os_str().as_bytes().to_vec(),
    };
    let mut name = STORED.to_owned();
    for byte in text {
        if byte.is_ascii_graphic() && !b":%".contains(&byte) {
            name.push(char::from(byte));
        } else {
            // Writing to a string never fails.
            let _ = write!(name, "%{byte:02X}");
        }
    }
    if name.len() > NAME_BYTES_MAX {
        tracing::warn!(
            "{address} has too long a name for the service manager to keep its socket over a restart"
        );
        return None;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_manager_takes() {
        let check = |address: Address, expected: Option<&str>| {
            assert_eq!(stored_name(&address).as_deref(), expected);
        };
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        check(tcp("127.0.0.1:80"), Some("medusa-listener-127.0.0.1%3A80"));
        check(tcp("[::1]:80"), Some("medusa-listener-[%3A%3A1]%3A80"));
        check(tcp("127.0.0.1:0"), None);
        check(Address::Unix("/run/a b%".into()), Some("medusa-listener-/run/a%20b%25"));
        check(Address::Unix(format!("/{}", "\u{fc}".repeat(50)).into()), None);
    }
}
