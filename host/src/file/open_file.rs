//! A file: opened, read, written and listed by polling.
//!
//! One operation of a file is outstanding at a time. Asking for another forgets the result of the one before; what that was writing is
//! written all the same, and first.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use medusa_abi::file::FileInfo;
use tokio::task::coop;

use crate::{
    file::{
        info,
        listing::{Entry, Listing},
    },
    sys::{
        beneath::{self, Wait},
        blocking::{self, Blocking, Ticket},
    },
};

/// A file beneath a root. Dropping it closes it as soon as nothing on the pool works on it.
pub struct File {
    state: RefCell<State>,
    /// What was last seen to be in memory, and when.
    seen_warm: Cell<Option<(Place, Instant)>>,
    pool: Rc<dyn Blocking>,
}

/// Most bytes that one read or write on the pool moves; more are for the next call.
pub const POOL_BYTES_MAX: usize = 256 * 1024;

/// For how long bytes that are in memory are taken to stay there: a file that many ask for is looked at once for all of them.
const WARM_FOR: Duration = Duration::from_secs(1);

/// What is in memory together; larger pages do no harm.
const PAGE_BYTES: u64 = 4096;

enum State {
    Opening(Ticket<io::Result<OwnedFd>>),
    Failed(i32),
    Open(Open),
}

struct Open {
    descriptor: Arc<OwnedFd>,
    pending: Option<Pending>,
    listing: Option<Listing>,
    /// Why the last batch of entries was not read, until it is told.
    listing_error: Option<io::Error>,
}

/// What the pool does for the file now.
enum Pending {
    Read(Place, Ticket<io::Result<Vec<u8>>>),
    Write(Place, Ticket<io::Result<usize>>),
    Sync(Ticket<io::Result<()>>),
    List(Ticket<io::Result<Listing>>),
}

/// Which bytes an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    offset: u64,
    length: usize,
}

impl Place {
    fn end(self) -> u64 {
        self.offset.saturating_add(self.length as u64)
    }

    fn covers(self, other: Place) -> bool {
        self.offset <= other.offset && other.end() <= self.end()
    }
}

impl File {
    pub(super) fn opened(descriptor: OwnedFd, pool: &Rc<dyn Blocking>) -> File {
        File::new(State::Open(Open::new(descriptor)), pool)
    }

    pub(super) fn opening(ticket: Ticket<io::Result<OwnedFd>>, pool: &Rc<dyn Blocking>) -> File {
        File::new(State::Opening(ticket), pool)
    }

    fn new(state: State, pool: &Rc<dyn Blocking>) -> File {
        File { state: RefCell::new(state), seen_warm: Cell::new(None), pool: pool.clone() }
    }

    /// Ready once it is open, with what `fstat` says.
    ///
    /// # Errors
    /// Why it is not: as [`crate::file::Root::open_file`].
    pub fn poll_open(&self, cx: &mut Context<'_>) -> Poll<io::Result<FileInfo>> {
        let mut state = self.state.borrow_mut();
        if let State::Opening(ticket) = &mut *state {
            let opened = ready!(answer(ticket, cx));
            *state = match opened {
                Ok(descriptor) => State::Open(Open::new(descriptor)),
                Err(error) => State::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
            };
        }
        drop(state);
        Poll::Ready(self.info())
    }

    /// What `fstat` says now.
    ///
    /// # Errors
    /// EBADF while it is not open; why it could not be opened.
    pub fn info(&self) -> io::Result<FileInfo> {
        let stat = rustix::fs::fstat(self.descriptor()?)?;
        Ok(info::from_stat(&stat))
    }

    /// The descriptor, to send from.
    ///
    /// # Errors
    /// As [`File::info`].
    pub fn descriptor(&self) -> io::Result<Arc<OwnedFd>> {
        match &*self.state.borrow() {
            State::Open(open) => Ok(open.descriptor.clone()),
            State::Opening(_) => Err(io::Error::from_raw_os_error(libc::EBADF)),
            State::Failed(errno) => Err(io::Error::from_raw_os_error(*errno)),
        }
    }

    /// How many bytes were read at `offset` into `buffer`; 0 at the end. May be fewer than the buffer takes. After a `Pending` it
    /// is to be asked again with the same offset and length.
    ///
    /// # Errors
    /// As [`File::info`]; [`io::ErrorKind::ResourceBusy`] if the pool has as much to do as it may; what the system says.
    pub fn poll_read(
        &self,
        cx: &mut Context<'_>,
        offset: u64,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // Reading from memory never waits, and would never give others their turn.
        let step = ready!(coop::poll_proceed(cx));
        let mut state = self.state.borrow_mut();
        let open = state.open()?;
        let place = Place { offset, length: buffer.len() };
        loop {
            if let Some(Pending::Read(pending, ticket)) = &mut open.pending
                && *pending == place
            {
                let bytes = ready!(answer(ticket, cx));
                step.made_progress();
                open.pending = None;
                return Poll::Ready(bytes.map(|bytes| {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    bytes.len()
                }));
            }
            ready!(open.poll_settled(cx));
            match beneath::read_at(&open.descriptor, buffer, offset, Wait::Never) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    step.made_progress();
                    return Poll::Ready(result);
                }
            }
            let (descriptor, length) = (open.descriptor.clone(), place.length.min(POOL_BYTES_MAX));
            let read = move || read_piece(&descriptor, offset, length);
            open.pending = Some(Pending::Read(place, blocking::run(&*self.pool, read)?));
        }
    }

    /// Has the `length` bytes at `offset` read into memory, if a look at both ends shows that they are not there; none if they are,
    /// or were within [`WARM_FOR`].
    /// Whoever sends them then waits for no disk. Read errors are left for the sender. Does not count as an operation of the file,
    /// for one file may be sent to many at a time.
    ///
    /// # Errors
    /// As [`File::poll_read`], but none of reading.
    pub fn warm(&self, offset: u64, length: usize) -> io::Result<Option<Ticket<()>>> {
        let place = Place { offset, length };
        let now = Instant::now();
        let is_fresh = |(seen, at): (Place, Instant)| seen.covers(place) && now < at + WARM_FOR;
        if self.seen_warm.get().is_some_and(is_fresh) {
            return Ok(None);
        }
        let descriptor = self.descriptor()?;
        if is_warm(&descriptor, place) {
            self.seen_warm.set(Some((place, now)));
            return Ok(None);
        }
        Ok(Some(blocking::run(&*self.pool, move || read_through(&descriptor, place))?))
    }

    /// How many of `bytes` were written at `offset`. They are copied at the first call; after a `Pending` it is to be asked again with the
    /// same offset and length, and the bytes are not looked at.
    ///
    /// # Errors
    /// As [`File::poll_read`].
    pub fn poll_write(
        &self,
        cx: &mut Context<'_>,
        offset: u64,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        let open = state.open()?;
        let place = Place { offset, length: bytes.len() };
        loop {
            if let Some(Pending::Write(pending, ticket)) = &mut open.pending
                && *pending == place
            {
                let count = ready!(answer(ticket, cx));
                open.pending = None;
                return Poll::Ready(count);
            }
            ready!(open.poll_settled(cx));
            let descriptor = open.descriptor.clone();
            let piece = bytes[..bytes.len().min(POOL_BYTES_MAX)].to_vec();
            let write = move || Ok(rustix::io::pwrite(&*descriptor, &piece, offset)?);
            open.pending = Some(Pending::Write(place, blocking::run(&*self.pool, write)?));
        }
    }

    /// Ready when all that was written is on the disk.
    ///
    /// # Errors
    /// As [`File::poll_read`].
    pub fn poll_sync(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let open = state.open()?;
        loop {
            if let Some(Pending::Sync(ticket)) = &mut open.pending {
                let done = ready!(answer(ticket, cx));
                open.pending = None;
                return Poll::Ready(done);
            }
            ready!(open.poll_settled(cx));
            let descriptor = open.descriptor.clone();
            let sync = move || Ok(rustix::fs::fsync(&*descriptor)?);
            open.pending = Some(Pending::Sync(blocking::run(&*self.pool, sync)?));
        }
    }

    /// The next entry of a directory: its name and what `lstat` says of it; none after the last. In no order, without `.` and `..`.
    ///
    /// # Errors
    /// As [`File::poll_read`]; ENOTDIR where it is no directory.
    pub fn poll_dir_next(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Entry>>> {
        let step = ready!(coop::poll_proceed(cx));
        let mut state = self.state.borrow_mut();
        let open = state.open()?;
        loop {
            ready!(open.poll_settled(cx));
            if let Some(error) = open.listing_error.take() {
                return Poll::Ready(Err(error));
            }
            if let Some(listing) = &mut open.listing {
                let entry = listing.entries.pop_front();
                if entry.is_some() || listing.is_done {
                    step.made_progress();
                    return Poll::Ready(Ok(entry));
                }
            }
            let (descriptor, begun) = (open.descriptor.clone(), open.listing.take());
            let list = move || {
                let mut listing = begun.map_or_else(|| Listing::begin(descriptor.as_fd()), Ok)?;
                listing.read_batch()?;
                Ok(listing)
            };
            open.pending = Some(Pending::List(blocking::run(&*self.pool, list)?));
        }
    }
}

impl State {
    fn open(&mut self) -> io::Result<&mut Open> {
        match self {
            State::Open(open) => Ok(open),
            State::Opening(_) => Err(io::Error::from_raw_os_error(libc::EBADF)),
            State::Failed(errno) => Err(io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl Open {
    fn new(descriptor: OwnedFd) -> Open {
        Open { descriptor: Arc::new(descriptor), pending: None, listing: None, listing_error: None }
    }

    /// Ready when nothing is pending: what only reads is forgotten, what changes the file, or the place in a directory, is waited for.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.pending {
            None | Some(Pending::Read(..)) => {}
            Some(Pending::Write(_, ticket)) => drop(ready!(answer(ticket, cx))),
            Some(Pending::Sync(ticket)) => drop(ready!(answer(ticket, cx))),
            Some(Pending::List(ticket)) => match ready!(answer(ticket, cx)) {
                Ok(listing) => self.listing = Some(listing),
                Err(error) => self.listing_error = Some(error),
            },
        }
        self.pending = None;
        Poll::Ready(())
    }
}

fn is_warm(descriptor: &OwnedFd, place: Place) -> bool {
    let is_there = |offset| {
        let look = beneath::read_at(descriptor, &mut [0], offset, Wait::Never);
        !look.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    };
    let last = place.offset.saturating_add(place.length.saturating_sub(1) as u64);
    is_there(place.offset) && (place.offset / PAGE_BYTES == last / PAGE_BYTES || is_there(last))
}

fn read_piece(descriptor: &OwnedFd, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let count = beneath::read_at(descriptor, &mut bytes, offset, Wait::Allowed)?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Reads for the effect that it is in memory afterwards.
fn read_through(descriptor: &OwnedFd, place: Place) {
    let mut piece = [0; 64 * 1024];
    let mut read = 0;
    while read < place.length {
        let length = piece.len().min(place.length - read);
        let offset = place.offset.saturating_add(read as u64);
        match beneath::read_at(descriptor, &mut piece[..length], offset, Wait::Allowed) {
            Ok(count) if count > 0 => read += count,
            _ => return,
        }
    }
}

/// A ticket's answer; a job that panicked is an error like others.
fn answer<T>(ticket: &mut Ticket<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
    Pin::new(ticket).poll(cx).map(|answer| answer.unwrap_or_else(|none| Err(none.into())))
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("descriptor", &self.descriptor().ok()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_speaks_for_its_parts_alone() {
        let seen = Place { offset: 100, length: 50 };
        let check = |offset, length, expected| {
            assert_eq!(seen.covers(Place { offset, length }), expected, "{length} at {offset}");
        };
        check(100, 50, true);
        check(120, 30, true);
        check(150, 0, true);
        check(100, 51, false);
        check(99, 2, false);
        check(149, 2, false);
        check(u64::MAX, 1, false);
        assert!(!Place { offset: 0, length: 0 }.covers(seen));
    }
}
