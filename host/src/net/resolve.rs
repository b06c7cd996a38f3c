//! Looks host names up, on the pool, for getaddrinfo(3) blocks.

use std::{
    cell::{Ref, RefCell},
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use crate::sys::blocking::{self, Blocking, Ticket};

/// Looks names up, a bounded number at a time, so that a slow name server does not take all of the pool.
pub struct Resolver {
    pool: Rc<dyn Blocking>,
    lookups_max: usize,
    lookups: Arc<AtomicUsize>,
}

/// A lookup. Dropping it gives it up; one that waits for a thread is then not made at all.
#[derive(Debug)]
pub struct Lookup {
    state: RefCell<State>,
    is_given_up: Arc<AtomicBool>,
}

/// Why a lookup was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The name is empty, too long, or holds a NUL.
    Name,
    /// As many are under way as may be.
    TooMany,
    /// The pool has as much to do as it may.
    Busy,
}

/// The longest name in text form (RFC 1035 section 2.3.4), with a final dot.
const NAME_BYTES_MAX: usize = 254;
/// How many addresses of a name are kept.
const ADDRESSES_MAX: usize = 256;

#[derive(Debug)]
enum State {
    Running(Ticket<io::Result<Vec<SocketAddr>>>),
    Done(Result<Vec<SocketAddr>, i32>),
}

impl Resolver {
    /// At most `lookups_max` lookups are under way at a time.
    #[must_use]
    pub fn new(pool: Rc<dyn Blocking>, lookups_max: usize) -> Resolver {
        Resolver { pool, lookups_max, lookups: Arc::default() }
    }

    /// Begins to look `host` up; the addresses will have `port`. An address in text form is answered without a look.
    ///
    /// # Errors
    /// The name is none, or too much is under way.
    pub fn lookup(&self, host: &str, port: u16) -> Result<Lookup, LookupError> {
        if host.is_empty() || host.len() > NAME_BYTES_MAX || host.contains('\0') {
            return Err(LookupError::Name);
        }
        let is_given_up = Arc::new(AtomicBool::new(false));
        if let Ok(address) = host.parse::<IpAddr>() {
            let state = State::Done(Ok(vec![SocketAddr::new(address, port)]));
            return Ok(Lookup { state: RefCell::new(state), is_given_up });
        }
        if self.lookups.load(Ordering::Relaxed) >= self.lookups_max {
            return Err(LookupError::TooMany);
        }
        let running = Running::new(&self.lookups);
        let (host, gives_up) = (host.to_owned(), is_given_up.clone());
        let job = move || {
            let _running = running;
            if gives_up.load(Ordering::Relaxed) {
                return Ok(Vec::new());
            }
            Ok((host.as_str(), port).to_socket_addrs()?.take(ADDRESSES_MAX).collect())
        };
        let ticket = blocking::run(&*self.pool, job).map_err(|_| LookupError::Busy)?;
        Ok(Lookup { state: RefCell::new(State::Running(ticket)), is_given_up })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("lookups", &self.lookups).finish_non_exhaustive()
    }
}

impl Lookup {
    /// The addresses, best first; may be asked again.
    ///
    /// # Errors
    /// ENOENT where the name has no address, or the name servers do not answer: getaddrinfo's own errors are no errnos.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<io::Result<Ref<'_, [SocketAddr]>>> {
        let mut done = None;
        if let State::Running(ticket) = &mut *self.state.borrow_mut() {
            let answer = match ready!(Pin::new(ticket).poll(cx)) {
                Ok(Ok(addresses)) => Ok(addresses),
                Ok(Err(error)) => {
                    tracing::debug!("a name was not found: {error}");
                    Err(error.raw_os_error().unwrap_or(libc::ENOENT))
                }
                Err(no_answer) => {
                    tracing::warn!("a lookup came to nothing: {no_answer}");
                    Err(libc::EIO)
                }
            };
            done = Some(answer);
        }
        if let Some(answer) = done {
            self.state.replace(State::Done(answer));
        }
        let addresses = Ref::filter_map(self.state.borrow(), |state| match state {
            State::Done(Ok(addresses)) => Some(&addresses[..]),
            _ => None,
        });
        Poll::Ready(addresses.map_err(|state| match &*state {
            State::Done(Err(errno)) => io::Error::from_raw_os_error(*errno),
            _ => io::ErrorKind::Other.into(),
        }))
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }
}

/// Counts a lookup for as long as it is queued or runs, whoever still waits for it.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn new(lookups: &Arc<AtomicUsize>) -> Running {
        lookups.fetch_add(1, Ordering::Relaxed);
        Running(lookups.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LookupError::Name => "that is no host name: it is empty, too long, or holds a NUL",
            LookupError::TooMany => "as many names are being looked up as may be; try again later",
            LookupError::Busy => "the pool has as much to do as it may; try again later",
        })
    }
}

impl std::error::Error for LookupError {}
