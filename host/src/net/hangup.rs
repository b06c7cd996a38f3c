//! Learns when a peer has gone altogether, without a look at what it sends.
//!
//! A descriptor in epoll with no events asked for reports EPOLLHUP and EPOLLERR alone. The reactor cannot be asked for that beside
//! reading and writing, so those who are watched are in a second epoll instance, which is in the reactor. It is made when the
//! first connection is watched.

use std::{
    cell::RefCell,
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
};

use rustix::event::epoll;
use tokio::{io::unix::AsyncFd, task::JoinHandle};

use crate::sys::reactor;

/// Everybody who is watched.
#[derive(Debug, Default)]
pub(super) struct Hangups {
    watched: Rc<RefCell<Watched>>,
    reactor: RefCell<Option<Reactor>>,
}

/// One connection that is watched; dropping it ends that. The descriptor must be closed soon after.
#[derive(Debug)]
pub(super) struct Watch {
    watched: Rc<RefCell<Watched>>,
    id: u64,
}

type Watched = HashMap<u64, Peer>;

#[derive(Debug, Default)]
struct Peer {
    is_gone: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Reactor {
    epoll: Rc<AsyncFd<OwnedFd>>,
    /// Aborted when the table goes.
    task: JoinHandle<()>,
}

/// How many hang-ups are taken from the kernel in one call.
const EVENTS_MAX: usize = 64;

impl Hangups {
    /// Takes from the system what it needs. Must be called on a local runtime.
    pub(super) fn open(&self) -> io::Result<()> {
        self.epoll().map(drop)
    }

    /// Watches `socket` under the number `id`, which nobody else has. Must be called on a local runtime.
    pub(super) fn watch(&self, id: u64, socket: BorrowedFd<'_>) -> io::Result<Watch> {
        let epoll = self.epoll()?;
        self.watched.borrow_mut().insert(id, Peer::default());
        let watch = Watch { watched: self.watched.clone(), id };
        let once = epoll::EventFlags::ONESHOT;
        epoll::add(epoll.get_ref(), socket, epoll::EventData::new_u64(id), once)?;
        Ok(watch)
    }

    fn epoll(&self) -> io::Result<Rc<AsyncFd<OwnedFd>>> {
        let mut reactor = self.reactor.borrow_mut();
        if let Some(reactor) = &*reactor {
            return Ok(reactor.epoll.clone());
        }
        let epoll = Rc::new(reactor::readable(epoll::create(epoll::CreateFlags::CLOEXEC)?)?);
        let task = tokio::task::spawn_local(run(epoll.clone(), Rc::downgrade(&self.watched)));
        *reactor = Some(Reactor { epoll: epoll.clone(), task });
        Ok(epoll)
    }
}

impl Watch {
    /// Ready when the peer has gone.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut watched = self.watched.borrow_mut();
        let peer =
            watched.get_mut(&self.id).expect("a watch is the only one that removes its peer");
        if peer.is_gone {
            return Poll::Ready(());
        }
        match &mut peer.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A plugin's waker may run its code when it is dropped: not while the table is borrowed.
        let peer = self.watched.borrow_mut().remove(&self.id);
        drop(peer);
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(epoll: Rc<AsyncFd<OwnedFd>>, watched: Weak<RefCell<Watched>>) {
    let mut events = Vec::with_capacity(EVENTS_MAX);
    loop {
        // Only a runtime that shuts down fails here.
        let Ok(mut guard) = epoll.readable().await else { return };
        let Some(watched) = watched.upgrade() else { return };
        if let Err(error) = take(epoll.as_fd(), &mut events) {
            tracing::error!("cannot ask who has hung up: {error}");
            return;
        }
        if events.len() < EVENTS_MAX {
            guard.clear_ready();
        }
        for event in events.drain(..) {
            // The event is packed.
            let id = { event.data }.u64();
            let waker = watched.borrow_mut().get_mut(&id).and_then(|peer| {
                peer.is_gone = true;
                peer.waker.take()
            });
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

fn take(epoll: BorrowedFd<'_>, events: &mut Vec<epoll::Event>) -> rustix::io::Result<()> {
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(&now)) {
        Err(rustix::io::Errno::INTR) => Ok(()),
        other => other.map(drop),
    }
}
