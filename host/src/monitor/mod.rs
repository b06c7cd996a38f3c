//! The monitor: commands over a Unix socket, for `medusa ctl` and `medusa monitor`.
//!
//! It acts on [`control::Control`] only, and knows neither plugins nor sockets other than its own.

pub mod client;
pub mod command;
pub mod commands;
pub mod console;
pub mod control;
pub mod output;
pub mod protocol;
pub mod socket;
pub mod table;
pub mod words;

mod audit;
mod session;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    io::Write as _,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    sync::{Notify, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    config::Limits,
    log::Log,
    monitor::{
        audit::Peer,
        control::{Asker, Control, HostUpgradeOutcome},
        protocol::Reply,
        session::Session,
        socket::MonitorSocket,
    },
};

/// The monitor, bound to its socket.
pub struct Monitor {
    socket: MonitorSocket,
    shared: Rc<Shared>,
    /// Sessions of another image of the host, and what each has sent of its next request.
    inherited: RefCell<Vec<(UnixStream, Vec<u8>)>>,
    /// It is to end at once.
    closed: Rc<Closed>,
}

/// Whether a monitor is to end at once.
#[derive(Default)]
struct Closed {
    is_closed: Cell<bool>,
    told: Notify,
}

impl Closed {
    /// Resolves when it is.
    async fn wait(&self) {
        while !self.is_closed.get() {
            self.told.notified().await;
        }
    }
}

/// What all sessions share.
struct Shared {
    control: Rc<dyn Control>,
    log: Log,
    limits: Limits,
    /// The host's own user.
    uid: u32,
    /// The commands that run, also those whose client has left.
    running: RefCell<JoinSet<()>>,
    /// The sessions that wait for a request.
    waiting: RefCell<HashMap<RawFd, Sent>>,
}

/// What a session has sent of its next request.
type Sent = Rc<RefCell<Vec<u8>>>;

/// While it lives, a session waits for a request.
struct Waits<'a> {
    shared: &'a Shared,
    descriptor: RawFd,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.shared.waiting.borrow_mut().remove(&self.descriptor);
    }
}

/// How long commands and their last words may take once the host has stopped. A constant: all that they could wait for has ended, and
/// what takes longer is a client that does not read.
const CLOSE_MS_MAX: u64 = 2000;

/// The pause after `accept` has failed (too many open files, say), so that the loop does not spin.
const ACCEPT_PAUSE_MS: u64 = 100;

impl Monitor {
    /// A monitor on this socket.
    pub fn new(
        socket: MonitorSocket,
        control: Rc<dyn Control>,
        log: Log,
        limits: Limits,
    ) -> Monitor {
        let uid = rustix::process::geteuid().as_raw();
        let (running, waiting) = (RefCell::default(), RefCell::default());
        let shared = Shared { control, log, limits, uid, running, waiting };
        Monitor {
            socket,
            shared: Rc::new(shared),
            inherited: RefCell::default(),
            closed: Rc::default(),
        }
    }

    /// What it accepts by.
    pub fn descriptor(&self) -> RawFd {
        self.socket.listener.as_raw_fd()
    }

    /// Tells the sessions that wait for a request, and what each has sent of it: another image can [`resume`](Monitor::resume) them.
    pub fn waiting(&self) -> Rc<dyn Fn() -> Vec<(RawFd, Vec<u8>)>> {
        let shared = self.shared.clone();
        Rc::new(move || {
            let waiting = shared.waiting.borrow();
            waiting.iter().map(|(descriptor, sent)| (*descriptor, sent.borrow().clone())).collect()
        })
    }

    /// Goes on with a session of another image of the host that has waited for a request, and has sent so much of it.
    pub fn resume(&self, session: OwnedFd, sent: Vec<u8>) {
        let stream = std::os::unix::net::UnixStream::from(session);
        let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
        match stream {
            Ok(stream) => self.inherited.borrow_mut().push((stream, sent)),
            Err(error) => tracing::debug!("a session of the monitor is over: {error}"),
        }
    }

    /// Ends every session at once, and has nobody begin another, without a word to those that wait: this process is not the one that they
    /// look for any more.
    pub fn closer(&self) -> Rc<dyn Fn()> {
        let closed = self.closed.clone();
        Rc::new(move || {
            closed.is_closed.set(true);
            closed.told.notify_one();
        })
    }

    /// Goes on with a session of another image of the host: its command is answered so, and it may ask on.
    pub fn inherit(&self, session: OwnedFd, asker: Asker, outcome: &HostUpgradeOutcome) {
        let exit = if outcome.reason.is_none() { protocol::DONE } else { protocol::FAILED };
        let said = match serde_json::to_string(outcome) {
            Ok(json) if asker.json => Reply::Out(format!("{json}\n")),
            _ if exit == protocol::DONE => Reply::Out(format!("{outcome}\n")),
            _ => Reply::Err(format!("{outcome}\n")),
        };
        let lines = [said.line(), Reply::Exit(exit).line()].concat();
        let mut stream = std::os::unix::net::UnixStream::from(session);
        if stream.set_nonblocking(true).is_ok() {
            // A client that does not read has room for two lines, or is gone.
            let _ = stream.write(&lines);
        }
        self.resume(stream.into(), Vec::new());
    }

    /// Serves until `stop` resolves, then lets commands that run say their last words, and removes the socket.
    /// Must be polled within a `LocalSet`.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let (stopped, stop_seen) = watch::channel(false);
        let mut sessions = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        for (stream, sent) in self.inherited.take() {
            self.admit(stream, sent, &mut sessions, &stop_seen);
        }
        loop {
            tokio::select! {
                biased;
                () = self.closed.wait() => break,
                accepted = self.socket.listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(stream, Vec::new(), &mut sessions, &stop_seen),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a monitor session");
                        sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    }
                },
                Some(_) = sessions.join_next() => {}
                () = &mut stop => break,
            }
        }
        drop(self.socket);
        if self.closed.is_closed.get() {
            sessions.abort_all();
            // What the host has yet to do has no monitor.
            return stop.await;
        }
        // Nobody listens if there is no session.
        let _ = stopped.send(true);
        let close = async {
            while sessions.join_next().await.is_some() {}
            let mut running = self.shared.running.take();
            while running.join_next().await.is_some() {}
        };
        if timeout(Duration::from_millis(CLOSE_MS_MAX), close).await.is_err() {
            tracing::warn!("monitor sessions were cut at the end");
        }
    }

    fn admit(
        &self,
        mut stream: UnixStream,
        sent: Vec<u8>,
        sessions: &mut JoinSet<()>,
        stop: &watch::Receiver<bool>,
    ) {
        let limit = self.shared.limits.monitor_sessions_max;
        if sessions.len() as u64 >= limit {
            let sentence = format!(
                "there are {limit} monitor sessions already (monitor_sessions_max); end one of them\n"
            );
            sessions.spawn_local(async move {
                let lines =
                    [Reply::Err(sentence).line(), Reply::Exit(protocol::FAILED).line()].concat();
                // A fresh socket has room for two lines; a client that is gone needs no answer.
                let _ = stream.try_write(&lines);
                let _ = stream.shutdown().await;
            });
            return;
        }
        let peer = match stream.peer_cred() {
            Ok(cred) => Peer::from(cred),
            Err(error) => {
                return tracing::warn!(%error, "a monitor session without credentials was closed");
            }
        };
        tracing::debug!(uid = peer.uid, pid = peer.pid, "monitor session begins");
        let session = Session::new(stream, sent, peer, self.shared.clone(), stop.clone());
        sessions.spawn_local(async move {
            if let Err(error) = session.run().await {
                tracing::debug!(%error, "a monitor session broke off");
            }
        });
    }
}

impl Shared {
    /// A session waits for a request, for as long as the answer lives.
    fn waits(&self, descriptor: RawFd, sent: &Sent) -> Waits<'_> {
        self.waiting.borrow_mut().insert(descriptor, sent.clone());
        Waits { shared: self, descriptor }
    }

    /// Starts a command; it tells its exit status, and can be ended before. It is counted until then, whoever waits for it.
    fn spawn(
        &self,
        command: impl Future<Output = u8> + 'static,
    ) -> (oneshot::Receiver<u8>, AbortHandle) {
        let (sender, receiver) = oneshot::channel();
        let mut running = self.running.borrow_mut();
        while running.try_join_next().is_some() {}
        let task = running.spawn_local(async move {
            // The client may have left.
            let _ = sender.send(command.await);
        });
        (receiver, task)
    }
}
