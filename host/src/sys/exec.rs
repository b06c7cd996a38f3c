//! The process going on as another program: what survives the exec, the way back if that program fails before it serves, and the fork
//! that stands by meanwhile.

#![allow(unsafe_code)] // Calls exec and fork, and handles descriptors by their numbers.

use std::{
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::Command,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd},
};

/// The signals that an operator or a supervisor may send at any time: they wait while nobody could handle them.
const OPERATORS: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];

/// What ends a program that fails before it serves, and what the watchdog of the exec sends.
const FATAL: [i32; 6] =
    [libc::SIGALRM, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGABRT, libc::SIGFPE];

/// A program with its arguments and its environment, ready to be executed without an allocation.
pub struct Image {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    pointers: [Vec<*const libc::c_char>; 2],
}

// SAFETY: The pointers are to the strings beside them, which are never changed.
unsafe impl Send for Image {}
// SAFETY: As above.
unsafe impl Sync for Image {}

impl Image {
    /// The program at `path`, with this process's arguments, and with its environment but for `variables`, of which those with a value
    /// are set.
    ///
    /// # Errors
    /// A NUL is in one of them.
    pub fn new(path: &Path, variables: &[(&str, Option<OsString>)]) -> io::Result<Image> {
        Image::with_arguments(path, std::env::args_os(), variables)
    }

    fn with_arguments(
        path: &Path,
        arguments: impl Iterator<Item = OsString>,
        variables: &[(&str, Option<OsString>)],
    ) -> io::Result<Image> {
        let arguments = arguments.map(|argument| text(&argument));
        let arguments = arguments.collect::<io::Result<Vec<_>>>()?;
        let is_kept = |name: &OsStr| variables.iter().all(|(changed, _)| name != *changed);
        let kept = std::env::vars_os().filter(|(name, _)| is_kept(name));
        let set = variables.iter().filter_map(|(name, value)| Some((name.into(), value.clone()?)));
        let environment = kept.chain(set).map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(&name)
        });
        let environment = environment.collect::<io::Result<Vec<_>>>()?;
        let pointers = [pointers(&arguments), pointers(&environment)];
        Ok(Image { path: text(path.as_os_str())?, arguments, environment, pointers })
    }

    /// The same with another value of a variable that it has.
    ///
    /// # Errors
    /// A NUL is in it.
    fn with(&self, variable: &str, value: &str) -> io::Result<Image> {
        let is_it = |text: &CString| {
            text.to_bytes().strip_prefix(variable.as_bytes()).is_some_and(|it| it.starts_with(b"="))
        };
        let mut environment = self.environment.clone();
        environment.retain(|text| !is_it(text));
        environment.push(text(OsStr::new(&format!("{variable}={value}")))?);
        let (path, arguments) = (self.path.clone(), self.arguments.clone());
        let pointers = [pointers(&arguments), pointers(&environment)];
        Ok(Image { path, arguments, environment, pointers })
    }

    /// Goes on as this program. Returns if that cannot be done. Async-signal-safe.
    pub fn execute(&self) -> io::Error {
        debug_assert_eq!(self.pointers[0].len(), self.arguments.len() + 1);
        debug_assert_eq!(self.pointers[1].len(), self.environment.len() + 1);
        // SAFETY: Both lists end in null, and their strings live as long as `self`.
        unsafe {
            libc::execve(self.path.as_ptr(), self.pointers[0].as_ptr(), self.pointers[1].as_ptr());
        }
        io::Error::last_os_error()
    }
}

fn text(text: &OsStr) -> io::Result<CString> {
    Ok(CString::new(text.as_bytes())?)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// This very program, whatever becomes of its file.
///
/// # Errors
/// `/proc` is not mounted.
pub fn own_program() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Says whether a descriptor of this process's goes on in the next program.
///
/// # Errors
/// There is no such descriptor.
pub fn set_inherited(descriptor: RawFd, is_inherited: bool) -> io::Result<()> {
    let flags = if is_inherited { FdFlags::empty() } else { FdFlags::CLOEXEC };
    // SAFETY: It is borrowed for the call; the kernel refuses one that is not open.
    Ok(fcntl_setfd(unsafe { borrowed(descriptor)? }, flags)?)
}

/// None of these descriptors goes on in the next program, whatever was said of it before. One that is not open does no harm.
pub fn keep_back(mut descriptors: Vec<RawFd>) {
    descriptors.retain(|descriptor| *descriptor >= 0);
    descriptors.sort_unstable();
    // There may be very many, and most of them follow one another.
    for run in descriptors.chunk_by(|one, next| next - one <= 1) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let (from, to) = (first.cast_unsigned(), last.cast_unsigned());
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        // SAFETY: Numbers are passed, and no descriptor is closed.
        if unsafe { libc::syscall(libc::SYS_close_range, from, to, flags) } != 0 {
            // A kernel before 5.11.
            for descriptor in run {
                let _ = set_inherited(*descriptor, false);
            }
        }
    }
}

/// Has a child that is about to be run inherit these descriptors under their numbers, and be `program` with these words and nothing else:
/// the search along a path, and a shell for what the system does not execute, are left out.
///
/// # Errors
/// A NUL is in one of them.
pub fn pass(
    command: &mut Command,
    program: &Path,
    words: &[&str],
    descriptors: Vec<RawFd>,
) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let arguments = [program.as_os_str().to_owned()].into_iter();
    let arguments = arguments.chain(words.iter().map(OsString::from));
    let image = Image::with_arguments(program, arguments, &[])?;
    let pass = move || {
        descriptors.iter().try_for_each(|descriptor| set_inherited(*descriptor, true))?;
        Err(image.execute())
    };
    // SAFETY: The closure makes system calls only, and allocates nothing.
    unsafe { command.pre_exec(pass) };
    Ok(())
}

/// Takes a descriptor that the program before has left open for this one. Each may be taken once.
///
/// # Errors
/// There is no such descriptor.
pub fn take(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: As in `set_inherited`.
    fcntl_getfd(unsafe { borrowed(descriptor)? })?;
    // SAFETY: It is open, nobody else in this program knows of it, and the caller takes it once.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A copy of such a descriptor, which stays where it is.
///
/// # Errors
/// There is no such descriptor, or no room for another.
pub fn copy(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: As in `set_inherited`.
    Ok(fcntl_dupfd_cloexec(unsafe { borrowed(descriptor)? }, 3)?)
}

/// # Safety
/// It must not be closed while it is borrowed.
unsafe fn borrowed<'a>(descriptor: RawFd) -> io::Result<BorrowedFd<'a>> {
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: The caller's promise; -1 is excluded.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}

/// Has operators' signals wait, for whom the next program has no handlers yet; or come again.
pub fn hold_signals(is_held: bool) {
    let how = if is_held { libc::SIG_BLOCK } else { libc::SIG_UNBLOCK };
    // SAFETY: The set is ours and initialized before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        OPERATORS.iter().for_each(|signal| {
            libc::sigaddset(&raw mut set, *signal);
        });
        libc::pthread_sigmask(how, &raw const set, ptr::null_mut());
    }
}

/// Has SIGALRM come after a time, over an exec as well; never, if that is zero. Async-signal-safe.
pub fn set_alarm(after: Duration) {
    let micros = i64::from(after.subsec_micros());
    let seconds = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
    let value = libc::timeval { tv_sec: seconds, tv_usec: micros };
    let once =
        libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: value };
    // SAFETY: The structure lives for the call.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const once, ptr::null_mut()) };
}

/// The way back, for as long as it is open.
static BACK: AtomicPtr<Image> = AtomicPtr::new(ptr::null_mut());
/// How long the program of the way back may take, in milliseconds.
static BACK_MS: AtomicU32 = AtomicU32::new(0);

/// From now on whatever ends this program, has it panic, or keeps it for longer than the alarm, has the process go on as `back`, which
/// has `limit` until its own alarm.
pub fn guard(back: Image, limit: Duration) {
    BACK_MS.store(u32::try_from(limit.as_millis()).unwrap_or(u32::MAX), Ordering::Relaxed);
    BACK.store(Box::into_raw(Box::new(back)), Ordering::Release);
    for signal in FATAL {
        // SAFETY: The handler calls setitimer and exec, which are async-signal-safe. The signal is not blocked meanwhile: the mask goes
        // over.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fatal as *const () as usize;
            action.sa_flags = libc::SA_NODEFER | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        go_back();
    }));
}

/// The program serves, and begins to keep what outlives a crash: the way back is another from then on, see `crash::arm_back`.
pub fn unguard() {
    set_alarm(Duration::ZERO);
    BACK.store(ptr::null_mut(), Ordering::Release);
    for signal in FATAL {
        // SAFETY: The default action is set.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// As [`go_back`], where the reason is known: the program of the way back is told by this variable.
pub fn go_back_for(variable: &str, reason: &str) {
    // SAFETY: As in `go_back`.
    let Some(back) = (unsafe { BACK.load(Ordering::Acquire).as_ref() }) else { return };
    let Ok(image) = back.with(variable, reason) else { return go_back() };
    set_alarm(Duration::from_millis(u64::from(BACK_MS.load(Ordering::Relaxed))));
    image.execute();
}

/// Goes the way back, if there is one. Returns if there is none, or it cannot be gone.
pub fn go_back() {
    // SAFETY: What is stored was leaked, and is never freed.
    if let Some(back) = unsafe { BACK.load(Ordering::Acquire).as_ref() } {
        set_alarm(Duration::from_millis(u64::from(BACK_MS.load(Ordering::Relaxed))));
        back.execute();
    }
}

extern "C" fn on_fatal(signal: libc::c_int) {
    go_back();
    // SAFETY: Both are async-signal-safe; the default action ends the process.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

/// Which of two processes this is after a [`fork`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that was there before; the other's number.
    Parent(u32),
    /// The new one. It has this thread alone.
    Child,
}

/// Makes another process of this one. What another thread holds is held for ever in the child: the caller sees to it that there is
/// nothing such that the child uses.
///
/// # Errors
/// The system has no room for another process.
pub fn fork() -> io::Result<Side> {
    // SAFETY: The child has a copy of all memory, and the C library's own locks are in order in it. A lock that another thread held is a
    // wait without end, not unsoundness.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Side::Child),
        child => Ok(Side::Parent(child.unsigned_abs())),
    }
}

/// Ends this process at once: nothing is dropped, and nothing that is to be done at the end is done.
pub fn end_at_once(status: i32) -> ! {
    // SAFETY: The call takes a number.
    unsafe { libc::_exit(status) }
}

/// Whether this process has only what could not go on in another: names, and what the service manager knows, are the other's.
static IS_LEFT_BEHIND: AtomicBool = AtomicBool::new(false);

/// This process only brings to an end what it has.
pub fn leave_behind() {
    IS_LEFT_BEHIND.store(true, Ordering::Relaxed);
}

/// Whether this process only brings to an end what it has.
#[must_use]
pub fn is_left_behind() -> bool {
    IS_LEFT_BEHIND.load(Ordering::Relaxed)
}
