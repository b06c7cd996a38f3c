//! One session of the monitor: requests come in, each is run as a task of its own, and its answer goes out.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsRawFd, RawFd},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    task::{self, AbortHandle, JoinHandle},
    time::{sleep, timeout},
};

use crate::monitor::{
    Sent, Shared,
    audit::{self, Peer},
    command::{Call, Failure, Role},
    commands::{self, Found},
    output::{Output, Piece},
    protocol::{self, Reply, Request},
};
use crate::sys::exec;

/// A client and what it has sent.
pub(super) struct Session {
    shared: Rc<Shared>,
    peer: Peer,
    read: BufReader<OwnedReadHalf>,
    /// What there is of the next request.
    sent: Sent,
    write: Writer,
    /// Turns true when the host wants its sessions to end.
    stop: watch::Receiver<bool>,
}

/// The sending side. Dropped by a process that was left behind, it is not shut down: another process goes on with it.
struct Writer(Option<OwnedWriteHalf>);

impl Writer {
    fn get(&mut self) -> &mut OwnedWriteHalf {
        self.0.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if exec::is_left_behind()
            && let Some(write) = self.0.take()
        {
            write.forget();
        }
    }
}

/// What came of waiting for a request.
enum Line {
    Request(Vec<u8>),
    TooLong,
    End,
}

/// The columns of a reader that has none.
const WIDTH_UNLIMITED: usize = 10_000;

/// How often a client that has closed its sending side is looked at while its command runs.
const LOOK_MS: u64 = 2000;

impl Session {
    pub(super) fn new(
        stream: UnixStream,
        sent: Vec<u8>,
        peer: Peer,
        shared: Rc<Shared>,
        stop: watch::Receiver<bool>,
    ) -> Session {
        let (read, write) = stream.into_split();
        let (read, sent) = (BufReader::new(read), Rc::new(RefCell::new(sent)));
        Session { shared, peer, read, sent, write: Writer(Some(write)), stop }
    }

    /// Answers requests until the client leaves or the host stops.
    pub(super) async fn run(mut self) -> io::Result<()> {
        if !self.shared.admits(self.peer) {
            audit::refused(self.peer);
            let sentence = format!(
                "user {} may not use the monitor; ask as root or as the user of the host",
                self.peer.uid
            );
            return self.refuse(sentence, protocol::FAILED).await;
        }
        loop {
            let mut stop = self.stop.clone();
            let line = tokio::select! {
                line = self.line() => line?,
                _ = stop.wait_for(|stop| *stop) => Line::End,
            };
            match line {
                Line::End => return Ok(()),
                Line::Request(line) => self.answer(&line).await?,
                Line::TooLong => {
                    let limit = self.shared.limits.monitor_line_bytes_max;
                    let sentence = format!(
                        "the request is longer than {limit} bytes (monitor_line_bytes_max); nothing was done"
                    );
                    return self.refuse(sentence, protocol::USAGE).await;
                }
            }
        }
    }

    /// The next line, without its end. What is too long is not read to its end.
    async fn line(&mut self) -> io::Result<Line> {
        let limit = self.shared.limits.monitor_line_bytes_max as usize;
        let _waits = self.shared.waits(self.read.get_ref().as_ref().as_raw_fd(), &self.sent);
        loop {
            let bytes = self.read.fill_buf().await?;
            let mut line = self.sent.borrow_mut();
            if bytes.is_empty() {
                let line = std::mem::take(&mut *line);
                return Ok(if line.is_empty() { Line::End } else { Line::Request(line) });
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if line.len() + part.len() > limit {
                return Ok(Line::TooLong);
            }
            line.extend_from_slice(part);
            let used = end.map_or(part.len(), |end| end + 1);
            self.read.consume(used);
            if end.is_some() {
                return Ok(Line::Request(std::mem::take(&mut *line)));
            }
        }
    }

    async fn answer(&mut self, line: &[u8]) -> io::Result<()> {
        let request = match Request::parse(line) {
            Ok(request) => request,
            Err(sentence) => return self.refuse(sentence, protocol::USAGE).await,
        };
        let (out, pieces) = Output::channel(self.shared.limits.monitor_output_bytes_max);
        let found = commands::find(&request.command, &*self.shared.control);
        let changes = found.as_ref().is_ok_and(Found::changes);
        let session = Some(AsRef::<UnixStream>::as_ref(self.write.get()).as_raw_fd());
        let run = run(self.shared.clone(), self.peer, request, found, out, session);
        let (exit, task) = self.shared.spawn(run);
        let task = Running { exit, task, changes };
        self.forward(pieces, task).await
    }

    /// Sends what a command says until it ends, or until the client has left.
    async fn forward(
        &mut self,
        mut pieces: mpsc::Receiver<Piece>,
        mut task: Running,
    ) -> io::Result<()> {
        let mut listening = true;
        loop {
            let piece = tokio::select! {
                piece = pieces.recv() => piece,
                left = left(&mut self.read, self.write.get()), if listening => {
                    if left {
                        return Ok(());
                    }
                    // It has sent the next request already; whether it is there shows when it is written to.
                    listening = false;
                    continue;
                }
            };
            match piece {
                Some(Piece::Out(text)) => self.send(Reply::Out(text)).await?,
                Some(Piece::Err(text)) => self.send(Reply::Err(text)).await?,
                None => break,
            }
        }
        let exit = (&mut task.exit).await.unwrap_or(protocol::FAILED);
        self.send(Reply::Exit(exit)).await
    }

    async fn refuse(&mut self, sentence: String, exit: u8) -> io::Result<()> {
        self.send(Reply::Err(sentence + "\n")).await?;
        self.send(Reply::Exit(exit)).await
    }

    async fn send(&mut self, reply: Reply) -> io::Result<()> {
        let patience = Duration::from_millis(self.shared.limits.monitor_write_ms_max);
        timeout(patience, self.write.get().write_all(&reply.line())).await?
    }
}

/// A command's task. One that changes nothing ends with its client; one that changes something is left to finish.
struct Running {
    exit: oneshot::Receiver<u8>,
    task: AbortHandle,
    changes: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.changes {
            self.task.abort();
        }
    }
}

/// Resolves when the client has left (true), or has sent more (false). A client that has only closed its sending side, as
/// `nc -N` does, is still there.
async fn left(read: &mut BufReader<OwnedReadHalf>, write: &OwnedWriteHalf) -> bool {
    match read.fill_buf().await {
        Ok([]) => {}
        Ok(_) => return false,
        Err(_) => return true,
    }
    loop {
        match write.ready(tokio::io::Interest::WRITABLE).await {
            Ok(ready) if !ready.is_write_closed() => sleep(Duration::from_millis(LOOK_MS)).await,
            _ => return true,
        }
    }
}

/// Runs a command to its end, says how it ended, and leaves a line in the audit.
async fn run(
    shared: Rc<Shared>,
    peer: Peer,
    request: Request,
    found: Result<Found, Failure>,
    out: Output,
    session: Option<RawFd>,
) -> u8 {
    let is_audited = found.as_ref().map_or(true, Found::is_audited);
    let mut entry = is_audited.then(|| audit::Entry::begin(peer, request.command.clone()));
    // A task of its own, so that a panic in it is an answer and not the end of the session.
    let result = match found {
        Ok(found) if shared.role(peer).is_none_or(|role| role < found.role()) => {
            Err(Failure::Refused(format!("`{}` is for the role {}", found.name(), found.role())))
        }
        Ok(found) => {
            let task =
                Abort(task::spawn_local(found.run(shared.call(request, out.clone(), session))));
            task.join().await
        }
        Err(failure) => Err(failure),
    };
    let exit = match result {
        Ok(()) => protocol::DONE,
        Err(failure) => report(failure, &out).await,
    };
    if let Some(entry) = &mut entry {
        entry.exit = exit;
    }
    exit
}

async fn report(failure: Failure, out: &Output) -> u8 {
    let (text, exit) = match failure {
        Failure::Refused(text) => (text, protocol::FAILED),
        Failure::Usage(text) => (text, protocol::USAGE),
        Failure::Reported | Failure::Gone => return protocol::FAILED,
    };
    // Nobody is left to be told if this fails.
    let _ = out.error(&format!("{}\n", text.trim_end())).await;
    exit
}

/// A task that does not outlive the one that waits for it.
struct Abort(JoinHandle<Result<(), Failure>>);

impl Abort {
    async fn join(mut self) -> Result<(), Failure> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) => {
                tracing::error!(%error, "a monitor command panicked");
                Err(Failure::Refused(
                    "the command failed by a fault of the host; the log says more (`log`)"
                        .to_owned(),
                ))
            }
        }
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Shared {
    fn call(&self, request: Request, out: Output, session: Option<RawFd>) -> Call {
        Call {
            control: self.control.clone(),
            log: self.log.clone(),
            arguments: Default::default(),
            json: request.json || commands::wants_json(&request.command),
            width: request.width.map_or(WIDTH_UNLIMITED, |width| usize::from(width).max(20)),
            folder: request.cwd.filter(|cwd: &PathBuf| cwd.is_absolute()),
            out,
            session,
        }
    }

    fn admits(&self, peer: Peer) -> bool {
        self.role(peer).is_some()
    }

    /// Root and the host's own user may do everything, everybody else nothing.
    fn role(&self, peer: Peer) -> Option<Role> {
        role_of(peer, self.uid)
    }
}

fn role_of(peer: Peer, host_uid: u32) -> Option<Role> {
    (peer.uid == 0 || peer.uid == host_uid).then_some(Role::Admin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_hosts_own_user_are_let_in() {
        let check = |uid, expected| {
            assert_eq!(
                role_of(Peer { uid, gid: 0, pid: None }, 1000).is_some(),
                expected,
                "user {uid}"
            );
        };
        check(0, true);
        check(1000, true);
        check(1001, false);
        check(u32::MAX, false);
    }
}
