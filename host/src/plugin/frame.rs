//! Who is being called: the frame that is set while the loop is inside a plugin's code.
//!
//! Every hook is called through [`enter`], and every callback begins with [`current`]: that is how a callback off the loop's
//! thread, or from nobody's call, is told apart, and how the watchdog knows whose code is running.

#![allow(unsafe_code)] // Frames are on the stack, and reached from callbacks by a raw pointer.

use std::{
    any::type_name,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    task::Waker,
    time::Duration,
};

use medusa_abi::{
    code::{self, Code},
    data::InstanceId,
};

use crate::{
    plugin::{
        generation::Generation,
        misuse::{Misuse, callback},
        off_loop::OffLoop,
        registry::Clock,
        waker::WakerCell,
    },
    sys::process,
};

/// One call into a plugin.
struct Frame {
    generation: *const Rc<Generation>,
    polling: Option<(*const WakerCell, *const Waker)>,
    previous: *const Frame,
}

thread_local! {
    static CURRENT: Cell<*const Frame> = const { Cell::new(ptr::null()) };
    /// When the outermost call that is under way was first asked for the time; 0 if it was not.
    static BEGAN_NS: Cell<u64> = const { Cell::new(0) };
    /// Whose time it is; 0 for nobody's, or if nobody's is counted.
    static CHARGED: Cell<InstanceId> = const { Cell::new(0) };
    /// When the clock was last looked at for it.
    static LOOKED_NS: Cell<u64> = const { Cell::new(0) };
    /// How much of it was others'.
    static OTHERS_NS: Cell<u64> = const { Cell::new(0) };
}

/// The instance whose code the loop is in, 0 for none; and a number that changes at each entry. Read by the watchdog.
static RUNNING: AtomicU64 = AtomicU64::new(0);
static ENTRIES: AtomicU64 = AtomicU64::new(0);

/// The instance of which the watchdog has told that it blocks the loop, 0 for none: what has been told need not be told again.
static TOLD: AtomicU64 = AtomicU64::new(0);

/// No limit on a poll is below it.
const STALL_NS_MIN: u64 = 1_000_000;

/// Calls a hook of `generation`.
pub fn enter<R>(generation: &Rc<Generation>, hook: impl FnOnce() -> R) -> R {
    charge(generation, || enter_with(generation, None, hook))
}

/// Calls a hook of `generation` that takes what another one gives. It has not much to do, so the time stays with the giver: to look at
/// the clock would take as long.
pub fn enter_sink<R>(generation: &Rc<Generation>, hook: impl FnOnce() -> R) -> R {
    enter_with(generation, None, hook)
}

/// Has what `work` calls of `generation` count as one poll of its instance, less what that calls of others. The clock is looked at
/// before and after, unless the time is the generation's already.
pub fn charge<R>(generation: &Rc<Generation>, work: impl FnOnce() -> R) -> R {
    let before = CHARGED.get();
    let instance = &generation.instance;
    let Some(polls) = instance.polls.as_ref().filter(|_| before != generation.id) else {
        return work();
    };
    let clock = instance.registry.clock;
    let began_ns = clock.now_ns();
    if before == 0 {
        BEGAN_NS.set(began_ns);
    }
    CHARGED.set(generation.id);
    let others_ns = OTHERS_NS.replace(0);
    let answer = work();
    let ended_ns = clock.now_ns();
    LOOKED_NS.set(ended_ns);
    let took_ns = ended_ns.saturating_sub(began_ns);
    let own_ns = took_ns.saturating_sub(OTHERS_NS.get());
    polls.record(own_ns);
    if own_ns >= STALL_NS_MIN {
        check_stall(generation, Duration::from_nanos(own_ns));
    }
    OTHERS_NS.set(others_ns + took_ns);
    CHARGED.set(before);
    answer
}

/// Counts a poll that took longer than it may, and tells of one that was over before the watchdog saw it.
#[cold]
fn check_stall(generation: &Generation, took: Duration) {
    if took < generation.off_loop.stall {
        return;
    }
    generation.instance.registry.stalls.fetch_add(1, Ordering::Relaxed);
    generation.off_loop.stalls.fetch_add(1, Ordering::Relaxed);
    if TOLD.swap(0, Ordering::Relaxed) != generation.id {
        let took_ms = took.as_millis();
        tracing::warn!(
            instance = generation.name(),
            took_ms,
            "the plugin blocked the loop: nobody else was served meanwhile; let it use `blocking` for slow work"
        );
    }
}

/// The watchdog has told that this instance blocks the loop.
pub fn told_of(instance: InstanceId) {
    TOLD.store(instance, Ordering::Relaxed);
}

/// When the last of what was called within the poll that is under way came back, if polls are counted and it began at `began_ns`.
pub fn looked_ns(began_ns: u64) -> Option<u64> {
    let is_this_one = CHARGED.get() != 0 && BEGAN_NS.get() == began_ns;
    Some(LOOKED_NS.get()).filter(|looked_ns| is_this_one && *looked_ns >= began_ns)
}

/// Calls a hook that polls an object whose waker is `cell`, on behalf of `waker`.
pub fn enter_polling<R>(
    generation: &Rc<Generation>,
    cell: &WakerCell,
    waker: &Waker,
    hook: impl FnOnce() -> R,
) -> R {
    cell.refresh(waker);
    let polling = (ptr::from_ref(cell), ptr::from_ref(waker));
    charge(generation, || enter_with(generation, Some(polling), hook))
}

fn enter_with<R>(
    generation: &Rc<Generation>,
    polling: Option<(*const WakerCell, *const Waker)>,
    hook: impl FnOnce() -> R,
) -> R {
    let frame = Frame { generation, polling, previous: CURRENT.get() };
    if frame.previous.is_null() && CHARGED.get() == 0 {
        BEGAN_NS.set(0);
    }
    CURRENT.set(&frame);
    let before = RUNNING.load(Ordering::Relaxed);
    RUNNING.store(generation.id, Ordering::Relaxed);
    // Only the loop writes it, so this need not be one atomic step.
    ENTRIES.store(ENTRIES.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    if generation.depth.get() == 0 {
        // What an earlier call said and nobody asked for is not this one's.
        generation.take_said();
    }
    generation.depth.set(generation.depth.get() + 1);
    let answer = hook();
    generation.depth.set(generation.depth.get() - 1);
    RUNNING.store(before, Ordering::Relaxed);
    CURRENT.set(frame.previous);
    answer
}

/// The time, to be told to what is called within the outermost call that is under way: the clock is looked at once for all of it.
pub fn began_ns(clock: Clock) -> u64 {
    if CURRENT.get().is_null() {
        return clock.now_ns();
    }
    if BEGAN_NS.get() == 0 {
        BEGAN_NS.set(clock.now_ns());
    }
    BEGAN_NS.get()
}

/// Whose code the loop is in, 0 for nobody's. Any thread may ask, a handler of signals too.
pub fn whose() -> InstanceId {
    RUNNING.load(Ordering::Relaxed)
}

/// Has what `work` does count as code of `id`, which is no generation yet.
pub fn blame<R>(id: InstanceId, work: impl FnOnce() -> R) -> R {
    let before = RUNNING.swap(id, Ordering::Relaxed);
    let answer = work();
    RUNNING.store(before, Ordering::Relaxed);
    answer
}

/// Whose code the loop is in (0: nobody's), and the number of the entry. Any thread may ask.
pub fn running() -> (InstanceId, u64) {
    (RUNNING.load(Ordering::Relaxed), ENTRIES.load(Ordering::Relaxed))
}

/// The body of a callback: calls `f` with the generation that is being called, if that is `instance`, else answers
/// `WRONG_THREAD`. A panic in the host's own code is our bug; it is logged and does not cross.
pub fn current<F: FnOnce(&Rc<Generation>) -> Code>(instance: InstanceId, f: F) -> Code {
    current_of(instance, type_name::<F>(), f)
}

/// As [`current`], for a helper of callbacks: `closure` is the type that names the callback.
pub fn current_of(
    instance: InstanceId,
    closure: &'static str,
    f: impl FnOnce(&Rc<Generation>) -> Code,
) -> Code {
    let answer = current_for_others(instance, closure, f);
    if answer == code::INVALID
        && let Some(generation) = running_generation()
        && generation.id == instance
    {
        generation.off_loop.misused(
            Misuse::Argument,
            format_args!(
                "an argument of `{}` makes no sense: a pointer that is null, a length that no memory has, or what is not known",
                callback(closure)
            ),
        );
    }
    answer
}

/// As [`current_of`], for callbacks that pass on what peers or other plugins gave, or answer: that it makes no sense is not this
/// plugin's doing.
pub fn current_for_others(
    instance: InstanceId,
    closure: &'static str,
    f: impl FnOnce(&Rc<Generation>) -> Code,
) -> Code {
    match running_generation() {
        Some(generation) if generation.id == instance => catch_unwind(AssertUnwindSafe(|| f(generation)))
            .unwrap_or_else(|_| {
                tracing::error!(instance = %generation.name(), "a callback of the host panicked; this is a bug in medusa");
                code::INVALID
            }),
        running => {
            refuse(instance, running, callback(closure));
            code::WRONG_THREAD
        }
    }
}

/// The generation whose code the loop is in.
fn running_generation<'a>() -> Option<&'a Rc<Generation>> {
    // SAFETY: A frame that is set is on the stack of this thread, below us, and borrows the `Rc` for as long as it is set.
    unsafe { CURRENT.get().as_ref().map(|frame| &*frame.generation) }
}

fn refuse(instance: InstanceId, running: Option<&Rc<Generation>>, callback: &str) {
    let claimed = OffLoop::find(instance);
    if let Some(running) = running {
        let claimed = claimed.map_or("nobody".to_owned(), |claimed| format!("`{}`", claimed.name));
        let what = format_args!(
            "it called `{callback}` in the name of {claimed}, by a number that is not its own"
        );
        running.off_loop.misused(Misuse::Instance, what);
    } else if let Some(claimed) = claimed {
        // The system knows it; a thread that the plugin started is none of this standard library's.
        let thread = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let name = process::thread_name(thread).unwrap_or_default();
        let what = format_args!(
            "it called `{callback}` on the thread `{name}` and in no call of its own; outside of those, only `log` and `post` are possible"
        );
        claimed.misused(Misuse::Thread, what);
    }
}

/// Calls `f` with the waker of the poll that is under way, if `cell` is its cell. Answers whether it was.
pub fn with_polling_waker(cell: &WakerCell, f: impl FnOnce(&Waker)) -> bool {
    let mut at = CURRENT.get();
    // SAFETY: A frame that is set is on the stack of this thread, below us; so are those that it links to.
    while let Some(frame) = unsafe { at.as_ref() } {
        if let Some((polled, waker)) = frame.polling
            && ptr::eq(polled, cell)
        {
            // SAFETY: The frame borrows the waker for as long as it is set.
            f(unsafe { &*waker });
            return true;
        }
        at = frame.previous;
    }
    false
}
