//! Messages to the service manager, as sd_notify(3) has them: datagrams of lines, one of which may carry a descriptor.
//!
//! What the lines mean is known above.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    ffi::OsStr,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    rc::Rc,
    time::Duration,
};

use crate::sys::exec;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
        SocketFlags, SocketType, sendmsg_addr, socket_with,
    },
};

/// Sends to the service manager, from the loop, which it never keeps waiting.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    to: SocketAddrUnix,
    /// Those for which the manager's queue had no room.
    waiting: RefCell<VecDeque<Message>>,
    is_retrying: Cell<bool>,
}

#[derive(Debug)]
struct Message {
    lines: String,
    descriptor: Option<OwnedFd>,
}

/// How many messages wait for a manager that does not read; with more, the oldest is lost.
const WAITING_MAX: usize = 1024;
/// How long until its queue is tried again. The kernel tells of room only to sockets that are connected, and those do not outlive a
/// manager that starts anew.
const RETRY_AFTER: Duration = Duration::from_millis(50);

impl Notifier {
    /// One that sends to a socket by the name in `NOTIFY_SOCKET`: an absolute path, or `@` with an abstract name. It is not connected, so
    /// that the manager may start anew.
    ///
    /// # Errors
    /// It is no such name, or there is no socket to be had.
    pub fn new(name: &OsStr) -> io::Result<Notifier> {
        let to = match name.as_bytes() {
            [b'@', rest @ ..] if !rest.is_empty() => SocketAddrUnix::new_abstract_name(rest)?,
            [b'/', ..] => SocketAddrUnix::new(name.as_bytes())?,
            _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        Ok(Notifier { socket, to, waiting: RefCell::default(), is_retrying: Cell::new(false) })
    }

    /// Sends lines, and a descriptor with them if there is one; later, if the manager's queue is full. Must be called on the loop.
    pub fn send(self: &Rc<Self>, lines: &str, descriptor: Option<BorrowedFd<'_>>) {
        if self.waiting.borrow().is_empty() {
            match self.try_send(lines, descriptor) {
                Err(Errno::AGAIN) => {}
                other => return say(other),
            }
        }
        let descriptor = match descriptor.map(|it| it.try_clone_to_owned()).transpose() {
            Ok(descriptor) => descriptor,
            Err(error) => {
                return tracing::warn!("the service manager is not given a socket: {error}");
            }
        };
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(Message { lines: lines.to_owned(), descriptor });
        if waiting.len() > WAITING_MAX {
            waiting.pop_front();
        }
        if !self.is_retrying.replace(true) {
            tokio::task::spawn_local(self.clone().retry());
        }
    }

    /// Sends lines that are worth nothing later: if there is no room now, they are lost.
    pub fn send_now(&self, lines: &str) {
        if self.waiting.borrow().is_empty() {
            match self.try_send(lines, None) {
                Err(Errno::AGAIN) => {}
                other => say(other),
            }
        }
    }

    async fn retry(self: Rc<Self>) {
        loop {
            tokio::time::sleep(RETRY_AFTER).await;
            let mut waiting = self.waiting.borrow_mut();
            while let Some(Message { lines, descriptor }) = waiting.front() {
                match self.try_send(lines, descriptor.as_ref().map(AsFd::as_fd)) {
                    Err(Errno::AGAIN) => break,
                    other => say(other),
                }
                waiting.pop_front();
            }
            if waiting.is_empty() {
                return self.is_retrying.set(false);
            }
        }
    }

    fn try_send(&self, lines: &str, descriptor: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
        if exec::is_left_behind() {
            // The manager hears of the process that goes on.
            return Ok(());
        }
        let descriptors = descriptor.as_slice();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        // There is room for the one.
        let _ =
            descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors));
        let lines = [IoSlice::new(lines.as_bytes())];
        sendmsg_addr(&self.socket, &self.to, &lines, &mut control, SendFlags::NOSIGNAL).map(drop)
    }
}

fn say(sent: rustix::io::Result<()>) {
    if let Err(error) = sent {
        tracing::warn!("the service manager cannot be told: {error} (NOTIFY_SOCKET)");
    }
}
