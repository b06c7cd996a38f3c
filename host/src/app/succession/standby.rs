//! The standby: a fork of the old image that waits until the new one serves.
//!
//! If that comes to serve, the standby brings to an end what could not go over, and ends. If the process dies before, which only a
//! program can do that does not get as far as its own way back, the standby goes on in its place, with everything that the old image had.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
};

use crate::{
    app::watchdog,
    log::Log,
    plugin::pool::{AtRest, Pool},
    sys::{
        exec::{self, Side},
        maps,
    },
};

/// The next image serves.
const SERVES: u8 = b'S';
/// There was no exec: nothing is to be done.
const STAYS: u8 = b'-';

/// Beyond its own time, the next image may take so long to be seen to have failed.
const GRACE: Duration = Duration::from_secs(2);

/// What the process that goes on knows of its standby.
pub(super) struct Standby {
    /// Its number.
    pub(super) process: u32,
    tell: OwnedFd,
}

/// What the standby finds that it is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// To bring to an end what could not go over.
    Drain,
    /// To go on as the server.
    Serve,
}

/// Which process this is after [`stand_by`].
pub(super) enum Forked {
    /// The one that goes on.
    Parent(Standby),
    /// The standby, when it knows its fate.
    Standby(Fate),
}

impl Standby {
    /// What the next image is to be left, to tell that it serves.
    pub(super) fn descriptor(&self) -> RawFd {
        self.tell.as_raw_fd()
    }

    /// There was no exec: has the standby end, and waits for it.
    pub(super) fn dismiss(self) {
        drop(self);
    }
}

impl Drop for Standby {
    // Not in `dismiss` alone: after a panic before the exec there would be two who take themselves for the server.
    fn drop(&mut self) {
        // If it has died, that is as well.
        let _ = rustix::io::write(&self.tell, &[STAYS]);
        if let Some(process) = pid(self.process) {
            let _ = waitpid(Some(process), WaitOptions::empty());
        }
    }
}

fn pid(process: u32) -> Option<Pid> {
    i32::try_from(process).ok().and_then(Pid::from_raw)
}

/// Tells the standby, by what the image before has left, that this image serves.
///
/// # Errors
/// It is not there any more.
pub(super) fn tell_serving(tell: OwnedFd) -> io::Result<()> {
    Ok(rustix::io::write(&tell, &[SERVES]).map(drop)?)
}

/// Forks. The child waits for its fate, for as long as the next image may take and a little more. None if a thread of the host's has
/// work, without which the child could not go on.
///
/// # Errors
/// The system has no room for another process.
pub(super) fn stand_by(
    log: &Log,
    pools: [&Pool; 2],
    limit: Duration,
) -> io::Result<Option<Forked>> {
    let (heard, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let log_at_rest = log.at_rest();
    let _watchdog = watchdog::at_rest();
    let Some(pools) = pools.into_iter().map(Pool::at_rest).collect::<Option<Vec<_>>>() else {
        return Ok(None);
    };
    let parent = rustix::process::getpid();
    // The threads are the pools', the log's and the watchdog's: they wait, and what they share with this one is held here.
    // Plugins' threads were seen not to be there, and those of their jobs are the pool's.
    match exec::fork()? {
        Side::Parent(process) => Ok(Some(Forked::Parent(Standby { process, tell }))),
        Side::Child => {
            drop(tell);
            let fate = wait(&heard, parent, limit + GRACE);
            let revived = log
                .revive(log_at_rest)
                .and_then(|()| pools.into_iter().try_for_each(AtRest::revive));
            match (revived, fate) {
                // What could not go over is cut, rather than that two processes take themselves for the server.
                (Err(_), Fate::Drain) => exec::end_at_once(1),
                (Err(error), Fate::Serve) => tracing::error!(
                    "this process goes on as the server without all of its threads: {error}"
                ),
                (Ok(()), _) => {}
            }
            if let Err(error) = maps::open_anew() {
                tracing::error!("whether libraries are unmapped cannot be seen any more: {error}");
            }
            Ok(Some(Forked::Standby(fate)))
        }
    }
}

/// Waits for the fate of this process, the standby of `parent`.
fn wait(heard: &OwnedFd, parent: Pid, limit: Duration) -> Fate {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = rustix::event::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polled = [PollFd::new(heard, PollFlags::IN)];
        if matches!(poll(&mut polled, Some(&left)), Ok(0)) {
            // It neither serves nor has it died, and its own alarm has not ended it. What it was given is needed here.
            let _ = kill_process(parent, Signal::KILL);
            continue;
        }
        let mut told = [0];
        match rustix::io::read(heard, &mut told) {
            Ok(1) if told[0] == SERVES => return Fate::Drain,
            Ok(1) if told[0] == STAYS => exec::end_at_once(0),
            Ok(0) => return Fate::Serve,
            // Interrupted.
            _ => {}
        }
    }
}
