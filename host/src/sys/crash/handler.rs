//! The handler of fatal signals. It runs wherever a fault was, on a small stack of its own, and calls what is async-signal-safe only.

use std::{
    cell::{Cell, UnsafeCell},
    ffi::c_void,
    mem, ptr,
    sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use super::{CRASHES_MAX, Header, LOOP_NS, table};
use crate::sys::exec::{self, Image};

/// What is handled. SIGALRM tells that this program did not come to serve in its time.
const FATAL: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT, libc::SIGALRM];

/// So much of a stack is kept.
const STACK_BYTES: usize = 128 * 1024;
const BUFFER_BYTES: usize = 32 * 1024;

/// What is executed; null while a crash is what it is anywhere.
static IMAGE: AtomicPtr<Image> = AtomicPtr::new(ptr::null_mut());
/// What is executed instead where the host's own code is to blame: the program before this one, while this one is on probation.
static BACK: AtomicPtr<Image> = AtomicPtr::new(ptr::null_mut());
/// Who runs on the loop: a function of the type of [`arm`]'s.
static RUNNING: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
static TAKEOVER_MS: AtomicU32 = AtomicU32::new(10_000);
/// Whoever came first does it.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);
static TAKEN_BY: AtomicI32 = AtomicI32::new(0);
/// Who has kept the loop, and for how long.
static STALLED: AtomicU64 = AtomicU64::new(0);
static STALLED_MS: AtomicU32 = AtomicU32::new(0);
/// The turn that the loop has not had, if it was the host's own code that has kept it; 0 for none.
static MISSED: AtomicU64 = AtomicU64::new(0);
/// The last turn that the loop was asked for and has had.
static TURNED: AtomicU64 = AtomicU64::new(0);
/// A panic of the host's is what it ends by.
static PANICKED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// For whom this thread works, if it is not the loop's.
    static WORKS_FOR: Cell<u64> = const { Cell::new(0) };
    /// It was the host that began this thread.
    static IS_HOSTS: Cell<bool> = const { Cell::new(false) };
}

struct Buffer(UnsafeCell<[u8; BUFFER_BYTES]>);
// SAFETY: Only the thread that has set `IS_TAKEN` uses it.
unsafe impl Sync for Buffer {}
static BUFFER: Buffer = Buffer(UnsafeCell::new([0; BUFFER_BYTES]));

/// From now on a fatal fault has the process go on as `image`, which is this program anew. `running` says whose code the loop is in.
pub fn arm(image: Image, running: fn() -> u64) {
    RUNNING.store(running as *mut c_void, Ordering::Relaxed);
    // What was stored before may be in use.
    IMAGE.store(Box::into_raw(Box::new(image)), Ordering::Release);
    for signal in FATAL {
        // SAFETY: The handler does what is async-signal-safe. The signal is not blocked meanwhile: the mask goes over.
        unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_fatal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

/// From now on a fault in the host's own code has the process go on as `image`, if any, instead of as this program; it finds the same.
/// A fault in a plugin's code is answered as ever.
pub fn arm_back(image: Option<Image>) {
    let image = image.map_or(ptr::null_mut(), |image| Box::into_raw(Box::new(image)));
    // What was stored before may be in use.
    BACK.store(image, Ordering::Release);
}

/// A fatal fault is what it is anywhere from now on.
pub fn disarm() {
    IMAGE.store(ptr::null_mut(), Ordering::Release);
}

/// While it lives, a fatal fault is what it is anywhere: another process stands by, and takes over.
pub struct Disarmed(*mut Image);

/// Has a fatal fault be what it is anywhere, for as long as the answer lives.
#[must_use]
pub fn disarmed() -> Disarmed {
    Disarmed(IMAGE.swap(ptr::null_mut(), Ordering::AcqRel))
}

impl Drop for Disarmed {
    fn drop(&mut self) {
        IMAGE.store(self.0, Ordering::Release);
    }
}

/// How long this program may take after a crash until it serves.
pub fn leave_time(takeover: Duration) {
    let ms = u32::try_from(takeover.as_millis()).unwrap_or(u32::MAX);
    TAKEOVER_MS.store(ms.max(1), Ordering::Relaxed);
}

/// Calls `work`, which is for `whose`, on a thread that is not the loop's.
pub fn working_for<R>(whose: u64, work: impl FnOnce() -> R) -> R {
    struct Reset(u64);
    impl Drop for Reset {
        fn drop(&mut self) {
            WORKS_FOR.set(self.0);
        }
    }
    let _reset = Reset(WORKS_FOR.replace(whose));
    work()
}

/// `whose` code has kept the loop for so long that the process is to go on without it. To be called on another thread than the loop's,
/// again and again while it does. False where nothing can be done.
pub fn stalls(whose: u64, for_ms: u32) -> bool {
    if IMAGE.load(Ordering::Acquire).is_null() || exec::is_left_behind() {
        return false;
    }
    STALLED_MS.store(for_ms.max(1), Ordering::Relaxed);
    STALLED.store(whose, Ordering::Release);
    // SAFETY: The loop's thread is the process's first, which lives as long as the process.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::getpid(), libc::SIGABRT) == 0 }
}

/// This thread is one of the host's: what it does for nobody is the host's own.
pub fn of_host() {
    IS_HOSTS.set(true);
}

/// The loop has had the turn that it was asked for by this number.
pub fn turned(turn: u64) {
    TURNED.store(turn, Ordering::Release);
}

/// Whether the loop has had the turn of this number.
pub fn has_turned(turn: u64) -> bool {
    TURNED.load(Ordering::Acquire) >= turn
}

/// The host's own code has kept the loop from this turn for so long that the process is not to wait any more. To be called as
/// [`stalls`].
pub fn misses(turn: u64, for_ms: u32) -> bool {
    if IMAGE.load(Ordering::Acquire).is_null() || exec::is_left_behind() {
        return false;
    }
    STALLED_MS.store(for_ms.max(1), Ordering::Relaxed);
    MISSED.store(turn, Ordering::Release);
    // SAFETY: As in `stalls`.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::getpid(), libc::SIGABRT) == 0 }
}

/// The host's own code has panicked, on the loop. Returns if there is no program before this one to go back to, or if it is a plugin's
/// code that the loop is in.
pub fn panicked(message: &str) {
    // SAFETY: The calls take nothing.
    let is_loop = unsafe { libc::getpid() == libc::gettid() };
    let has_way = !BACK.load(Ordering::Acquire).is_null() && !exec::is_left_behind();
    let Some(table) = table().filter(|_| has_way && is_loop && running() == 0) else { return };
    let words = super::words::<{ super::PANIC_BYTES / 8 }>(message);
    for (place, word) in table.report.panic.iter().zip(words) {
        place.store(word, Ordering::Relaxed);
    }
    PANICKED.store(true, Ordering::Relaxed);
    // SAFETY: The call takes a number.
    unsafe { libc::raise(libc::SIGABRT) };
}

fn running() -> u64 {
    let running = RUNNING.load(Ordering::Relaxed);
    if running.is_null() {
        return 0;
    }
    // SAFETY: What is stored is such a function.
    unsafe { mem::transmute::<*mut c_void, fn() -> u64>(running)() }
}

extern "C" fn on_fatal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: The kernel gives both.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    // SAFETY: The calls take nothing.
    let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
    if signal == libc::SIGABRT && code == libc::SI_TKILL && is_stale_stall(thread == process) {
        return;
    }
    let is_fault = code > 0;
    let is_own = is_fault || sender == process;
    let mut image = IMAGE.load(Ordering::Acquire);
    if !is_own || image.is_null() || exec::is_left_behind() {
        return by_default(signal);
    }
    if IS_TAKEN.swap(true, Ordering::AcqRel) {
        if TAKEN_BY.load(Ordering::Relaxed) == thread {
            return by_default(signal);
        }
        // Another thread is about to end this one.
        loop {
            // SAFETY: The call takes nothing.
            unsafe { libc::pause() };
        }
    }
    TAKEN_BY.store(thread, Ordering::Relaxed);
    let Some(table) = table() else { return by_default(signal) };
    note(table, signal, info, context, thread == process);
    let back = BACK.load(Ordering::Acquire);
    let is_back = !back.is_null() && is_hosts_own(thread == process);
    let is_loop = is_loop(table);
    if is_back {
        image = back;
    } else if is_loop {
        say(
            b"medusa: the process has crashed once more, and too often within a minute to go on; it ends, for its supervisor to \
              start it again\n",
        );
        return by_default(signal);
    }
    dump(table);
    go_over(table, true);
    exec::hold_signals(true);
    exec::set_alarm(Duration::from_millis(u64::from(TAKEOVER_MS.load(Ordering::Relaxed))));
    // SAFETY: What is stored was leaked, and is never freed.
    let _ = unsafe { (*image).execute() };
    exec::set_alarm(Duration::ZERO);
    exec::hold_signals(false);
    say(b"medusa: the process has crashed, and its program cannot be executed anew\n");
    by_default(signal);
}

/// Whether the code that runs on this thread is the host's own.
fn is_hosts_own(is_loop: bool) -> bool {
    match is_loop {
        true => running() == 0,
        false => IS_HOSTS.get() && WORKS_FOR.get() == 0,
    }
}

/// Whether the signal is the watchdog's, and the loop has been let go meanwhile.
fn is_stale_stall(is_loop: bool) -> bool {
    let (whose, turn) = (STALLED.load(Ordering::Acquire), MISSED.load(Ordering::Acquire));
    let is_kept = (whose != 0 && running() == whose)
        || (turn != 0 && running() == 0 && !has_turned(turn))
        || PANICKED.load(Ordering::Relaxed);
    if !is_loop || is_kept || (whose, turn) == (0, 0) {
        return false;
    }
    STALLED.store(0, Ordering::Relaxed);
    MISSED.store(0, Ordering::Relaxed);
    STALLED_MS.store(0, Ordering::Relaxed);
    true
}

/// Has the signal do what it does anywhere.
fn by_default(signal: i32) {
    // SAFETY: Both are async-signal-safe.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn say(text: &[u8]) {
    // SAFETY: The bytes live for the call.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

fn note(
    table: &Header,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
    is_loop: bool,
) {
    let report = &table.report;
    // SAFETY: The kernel gives both; an address is there for faults.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as u64) };
    report.signal.store(signal, Ordering::Relaxed);
    report.code.store(code, Ordering::Relaxed);
    report.address.store(if code > 0 { address } else { 0 }, Ordering::Relaxed);
    let (instruction, stack) = place(context);
    report.instruction.store(instruction, Ordering::Relaxed);
    report.stack.store(stack, Ordering::Relaxed);
    let whose = if is_loop { running() } else { WORKS_FOR.get() };
    report.whose.store(whose, Ordering::Relaxed);
    let is_panic = PANICKED.load(Ordering::Relaxed);
    if !is_panic {
        report.panic[0].store(0, Ordering::Relaxed);
    }
    let is_stall = is_loop && !is_panic;
    let stalled_ms = if is_stall { STALLED_MS.load(Ordering::Relaxed) } else { 0 };
    report.stalled_ms.store(stalled_ms, Ordering::Relaxed);
    // SAFETY: The call takes nothing.
    report.thread.store(unsafe { libc::gettid() }.unsigned_abs(), Ordering::Relaxed);
    let mut name = [0_u64; 2];
    // SAFETY: The kernel writes up to 16 bytes.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    for (place, word) in report.thread_name.iter().zip(name) {
        place.store(word, Ordering::Relaxed);
    }
    let (seconds, _) = now(libc::CLOCK_REALTIME);
    report.time_s.store(seconds, Ordering::Relaxed);
}

/// Where code ran, and where its stack was.
fn place(context: *mut c_void) -> (u64, u64) {
    // SAFETY: The kernel gives a context of the machine's.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    {
        let registers = &context.uc_mcontext.gregs;
        let register = |at: i32| registers[at as usize].cast_unsigned();
        (register(libc::REG_RIP), register(libc::REG_RSP))
    }
    #[cfg(target_arch = "aarch64")]
    {
        (context.uc_mcontext.pc, context.uc_mcontext.sp)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        (0, 0)
    }
}

/// Seconds and nanoseconds.
fn now(clock: libc::clockid_t) -> (u64, u64) {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: The kernel writes the time.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    (time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned())
}

/// Counts the crash. Answers whether there were too many.
fn is_loop(table: &Header) -> bool {
    let (seconds, nanos) = now(libc::CLOCK_MONOTONIC);
    let now_ns = seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos);
    table.report.at_ns.store(now_ns, Ordering::Relaxed);
    let count = table.crashes.load(Ordering::Relaxed);
    let place = &table.times_ns[usize::try_from(count).unwrap_or(0) % CRASHES_MAX];
    let oldest_ns = place.load(Ordering::Relaxed);
    if count >= CRASHES_MAX as u64 && now_ns.wrapping_sub(oldest_ns) < LOOP_NS {
        return true;
    }
    place.store(now_ns, Ordering::Relaxed);
    table.crashes.store(count + 1, Ordering::Relaxed);
    false
}

/// Keeps the mapping list and the stack, to say where it was.
fn dump(table: &Header) {
    let to = table.dump.load(Ordering::Relaxed);
    let mut length: libc::off_t = 0;
    // SAFETY: The path ends in NUL; the buffer is this thread's, see there, and as long as is said.
    unsafe {
        let from = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let buffer = BUFFER.0.get().cast::<c_void>();
        loop {
            let count = libc::read(from, buffer, BUFFER_BYTES);
            if count <= 0 || libc::pwrite(to, buffer, count.unsigned_abs(), length) != count {
                break;
            }
            length += libc::off_t::try_from(count).unwrap_or(0);
        }
        libc::close(from);
    }
    table.report.maps_bytes.store(u32::try_from(length).unwrap_or(0), Ordering::Relaxed);
    let stack = table.report.stack.load(Ordering::Relaxed) as *const c_void;
    // SAFETY: The kernel reads as much as there is, and answers for what is not.
    let count = unsafe { libc::pwrite(to, stack, STACK_BYTES, length) };
    table.report.stack_bytes.store(u32::try_from(count).unwrap_or(0), Ordering::Relaxed);
}

/// Has what is kept stay open over the exec.
fn go_over(table: &Header, is_kept: bool) {
    let flags = if is_kept { 0 } else { libc::FD_CLOEXEC };
    let set = |descriptor: i32| {
        if descriptor >= 0 {
            // SAFETY: The call takes numbers; one that is not open is an error and nothing worse.
            unsafe { libc::fcntl(descriptor, libc::F_SETFD, flags) };
        }
    };
    set(table.memory.load(Ordering::Relaxed));
    set(table.spare.load(Ordering::Relaxed));
    set(table.dump.load(Ordering::Relaxed));
    set(super::FILE.load(Ordering::Relaxed));
    let count = table.descriptors.load(Ordering::Acquire) as usize;
    table.descriptor.iter().take(count).for_each(|it| set(it.load(Ordering::Relaxed)));
    let used = i32::try_from(table.slots_used.load(Ordering::Relaxed)).unwrap_or(0);
    for descriptor in 0..used {
        if let Some(slot) = table.slot(descriptor)
            && slot.is_resting()
        {
            set(descriptor);
        }
    }
}
