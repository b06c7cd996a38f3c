//! Tells the loop that a thread ended which had to do with a plugin, or let go of something of its, so that what is pinned is looked
//! at again.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use rustix::event::{EventfdFlags, eventfd};
use tokio::io::unix::AsyncFd;

/// Ends of threads that plugins started, and of what others held of a plugin's. One watcher is enough; several share.
pub struct ThreadEnds {
    descriptor: AsyncFd<BorrowedFd<'static>>,
}

static ENDS: OnceLock<OwnedFd> = OnceLock::new();

impl ThreadEnds {
    /// Begins to watch, in the current runtime.
    ///
    /// # Errors
    /// No descriptor is left, or the runtime has no I/O.
    pub fn watch() -> io::Result<ThreadEnds> {
        prepare();
        let descriptor = ENDS.get().ok_or_else(|| io::Error::other("cannot make an eventfd"))?;
        // SAFETY: The descriptor is in a static and never closed.
        let descriptor = unsafe { AsyncFd::register(descriptor.as_fd())? };
        Ok(ThreadEnds { descriptor })
    }

    /// Waits until there was at least one end since the last call.
    ///
    /// # Errors
    /// The descriptor cannot be read; never so in practice.
    pub async fn next(&self) -> io::Result<()> {
        let read = |descriptor: &BorrowedFd<'_>| Ok(rustix::io::read(descriptor, &mut [0_u8; 8])?);
        self.descriptor.async_io(tokio::io::Interest::READABLE, read).await?;
        Ok(())
    }
}

pub(super) fn prepare() {
    if ENDS.get().is_none()
        && let Ok(made) = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
    {
        // Another thread may have been first; then this one is closed.
        let _ = ENDS.set(made);
    }
}

/// Runs at a thread's very end, too: neither allocates nor waits.
pub(in crate::plugin) fn announce() {
    if let Some(descriptor) = ENDS.get() {
        // The only error is a counter that is full, and then the loop knows already.
        let _ = rustix::io::write(descriptor, &1_u64.to_ne_bytes());
    }
}
