//! The tables of the test host: the instance itself, work, and what it offers.

use std::{
    cell::RefCell,
    ffi::c_void,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
};

use medusa_abi::{
    ABI_MINOR,
    code::{self, Code},
    data::{ByteSink, Handle, InstanceId, Slice, Table},
    host::{CoreCallbacks, HostCallbacks, OfferCallbacks, WorkCallbacks},
    service::{CallSpec, Command, CommandSpec, MetricSpec, Responder},
    task::{Job, Task, Thread, Waker},
};

use super::{
    exchange, files, net,
    wake::{Kept, SHARED, cell_clone, cell_drop, cell_wake, cell_wake_by_ref, wake_slot},
    world::{Call, CommandEntry, Entry, MetricEntry, ResponderEntry, Running, Timer, World, world},
};
use crate::{
    error::TAKEN,
    host::{bytes_of, write_sink},
};

pub(super) static HOST: HostCallbacks = HostCallbacks {
    size: size_of::<HostCallbacks>(),
    abi_minor: ABI_MINOR as u32,
    core: Table::new(&CORE),
    work: Table::new(&WORK),
    net: Table::new(&net::NET),
    file: Table::new(&files::FILE),
    offer: Table::new(&OFFER),
    http: Table::new(&exchange::HTTP),
};

static CORE: CoreCallbacks = CoreCallbacks {
    size: size_of::<CoreCallbacks>(),
    log,
    log_level,
    panicked,
    post,
    fail,
    now_ns,
    name,
    handle_drop,
    waker_clone: cell_clone,
    waker_wake: cell_wake,
    waker_wake_by_ref: cell_wake_by_ref,
    waker_drop: cell_drop,
};

static WORK: WorkCallbacks = WorkCallbacks {
    size: size_of::<WorkCallbacks>(),
    task_spawn,
    task_abort,
    task_poll,
    job_start,
    job_poll: running_poll,
    thread_start,
    thread_poll: running_poll,
    timer_start,
    timer_reset,
    timer_poll,
};

static OFFER: OfferCallbacks = OfferCallbacks {
    size: size_of::<OfferCallbacks>(),
    command_add,
    metric_add,
    responder_add,
    reply,
    call_start,
    call_next,
};

/// Runs a callback that belongs to the loop.
pub(super) fn on_loop(f: impl FnOnce(&Rc<World>) -> Code) -> Code {
    world().map_or(code::WRONG_THREAD, |world| f(&world))
}

/// The text of a slice.
///
/// # Safety
/// As [`bytes_of`].
pub(super) unsafe fn text(slice: Slice) -> String {
    // SAFETY: The caller's promise.
    String::from_utf8_lossy(unsafe { bytes_of(slice) }).into_owned()
}

// In all of the following the plugin's SDK keeps what the ABI asks of a caller: slices and pointers are valid for the call.

unsafe extern "C" fn log(
    _: InstanceId,
    level: u32,
    target: Slice,
    message: Slice,
    fields: Slice,
) -> Code {
    const LEVELS: [&str; 6] = ["", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
    // SAFETY: See above.
    let (target, message, fields) = unsafe { (text(target), text(message), text(fields)) };
    let level = LEVELS.get(level as usize).copied().unwrap_or_default();
    let line = format!("{level} {target}: {message} {fields}");
    SHARED.lock().log.push(line.trim_end().to_owned());
    code::READY
}

unsafe extern "C" fn log_level(_: InstanceId) -> Code {
    5
}

unsafe extern "C" fn panicked(
    _: InstanceId,
    message: Slice,
    file: Slice,
    line: u32,
    column: u32,
) -> Code {
    // SAFETY: See above.
    let (message, file) = unsafe { (text(message), text(file)) };
    let panic = format!("{message}, at {file}:{line}:{column}");
    eprintln!("a panic: {panic}");
    SHARED.lock().panics.push(panic);
    code::READY
}

unsafe extern "C" fn post(_: InstanceId, bytes: Slice) -> Code {
    // SAFETY: See above.
    SHARED.lock().posts.push_back(unsafe { bytes_of(bytes) }.to_vec());
    SHARED.notify();
    code::READY
}

unsafe extern "C" fn fail(_: InstanceId, reason: Slice) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let reason = unsafe { text(reason) };
        SHARED.lock().log.push(format!("FAILED {reason}"));
        *world.failure.borrow_mut() = Some(reason);
        code::READY
    })
}

unsafe extern "C" fn now_ns(_: InstanceId) -> Code {
    on_loop(|world| world.now_ns.get() as Code)
}

unsafe extern "C" fn name(_: InstanceId, sink: ByteSink) -> Code {
    // SAFETY: See above.
    on_loop(|world| unsafe { write_sink(sink, world.name.as_bytes()) })
}

unsafe extern "C" fn handle_drop(_: InstanceId, handle: Handle) -> Code {
    on_loop(|world| world.remove(handle))
}

unsafe extern "C" fn task_spawn(_: InstanceId, task: Task, _: Slice) -> Code {
    on_loop(|world| world.spawn(task) as Code)
}

unsafe extern "C" fn task_abort(_: InstanceId, task: Handle) -> Code {
    on_loop(|world| world.abort(task))
}

unsafe extern "C" fn task_poll(_: InstanceId, task: Handle, waker: Waker) -> Code {
    on_loop(|world| world.poll_task(task, Kept::new(waker)))
}

unsafe extern "C" fn job_start(_: InstanceId, job: Job, _: Slice) -> Code {
    on_loop(|world| start(world, Running::job(job)))
}

unsafe extern "C" fn thread_start(_: InstanceId, thread: Thread, _: Slice) -> Code {
    on_loop(|world| start(world, Running::thread(thread)))
}

fn start(world: &World, running: Rc<Running>) -> Code {
    world.running.borrow_mut().push(running.clone());
    world.insert(Entry::Job(running)) as Code
}

unsafe extern "C" fn running_poll(_: InstanceId, job: Handle, waker: Waker) -> Code {
    on_loop(|world| match world.get(job) {
        Some(Entry::Job(running)) => running.poll(Kept::new(waker)),
        _ => code::STALE,
    })
}

unsafe extern "C" fn timer_start(_: InstanceId, deadline_ns: u64) -> Code {
    on_loop(|world| {
        let timer = Timer { deadline: deadline_ns.into(), waker: RefCell::new(None) };
        world.insert(Entry::Timer(Rc::new(timer))) as Code
    })
}

unsafe extern "C" fn timer_reset(_: InstanceId, timer: Handle, deadline_ns: u64) -> Code {
    on_loop(|world| match world.get(timer) {
        Some(Entry::Timer(timer)) => {
            timer.deadline.set(deadline_ns);
            code::READY
        }
        _ => code::STALE,
    })
}

unsafe extern "C" fn timer_poll(_: InstanceId, timer: Handle, waker: Waker) -> Code {
    on_loop(|world| match world.get(timer) {
        Some(Entry::Timer(timer)) if timer.deadline.get() <= world.now_ns.get() => code::READY,
        Some(Entry::Timer(timer)) => {
            *timer.waker.borrow_mut() = Kept::new(waker);
            code::PENDING
        }
        _ => code::STALE,
    })
}

unsafe extern "C" fn command_add(
    _: InstanceId,
    spec: *const CommandSpec,
    command: Command,
) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let name = unsafe { text((*spec).name) };
        if world.any(|entry| matches!(entry, Entry::Command(other) if other.name == name)) {
            return TAKEN;
        }
        world.insert(Entry::Command(Rc::new(CommandEntry { name, command }))) as Code
    })
}

unsafe extern "C" fn metric_add(
    _: InstanceId,
    spec: *const MetricSpec,
    out: *mut *mut u64,
) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let name = unsafe { text((*spec).name) };
        if world.any(|entry| matches!(entry, Entry::Metric(other) if other.name == name)) {
            return TAKEN;
        }
        let metric = Rc::new(MetricEntry { name, word: Box::new(AtomicU64::new(0)) });
        // SAFETY: See above; the word is boxed, so it stays where it is.
        unsafe { out.write(metric.word.as_ptr()) };
        world.insert(Entry::Metric(metric)) as Code
    })
}

unsafe extern "C" fn responder_add(
    _: InstanceId,
    service: Slice,
    version: u32,
    responder: Responder,
) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let service = unsafe { text(service) };
        if world.any(|entry| matches!(entry, Entry::Responder(other) if other.service == service)) {
            return TAKEN;
        }
        let entry = ResponderEntry { service, version, responder };
        world.insert(Entry::Responder(Rc::new(entry))) as Code
    })
}

unsafe extern "C" fn reply(_: InstanceId, call: Handle, payload: Slice, waker: Waker) -> Code {
    /// Few, so that tests meet the waiting.
    const PIECES_MAX: usize = 4;
    on_loop(|world| {
        let Some(Entry::Call(call)) = world.get(call) else { return code::GONE };
        if call.pieces.borrow().len() >= PIECES_MAX {
            *call.writer.borrow_mut() = Kept::new(waker);
            return code::PENDING;
        }
        // SAFETY: See above.
        call.pieces.borrow_mut().push_back(unsafe { bytes_of(payload) }.to_vec());
        wake_slot(&call.reader);
        code::READY
    })
}

unsafe extern "C" fn call_start(_: InstanceId, spec: *const CallSpec) -> Code {
    on_loop(|world| {
        // SAFETY: See above.
        let (spec, service) = unsafe { (&*spec, text((*spec).service)) };
        // SAFETY: See above.
        let payload = unsafe { bytes_of(spec.payload) };
        start_call(world, &service, spec.version, payload, spec.deadline_ns)
    })
}

/// Calls a service of the plugin's own; answers the call's handle.
pub(super) fn start_call(
    world: &World,
    service: &str,
    version: u32,
    payload: &[u8],
    deadline_ns: u64,
) -> Code {
    let found = world.entries().into_iter().find_map(|(_, entry)| match entry {
        Entry::Responder(entry) if entry.service == service && entry.version == version => {
            Some(entry)
        }
        _ => None,
    });
    let Some(found) = found else { return code::NOT_FOUND };
    let call = Rc::new(Call::default());
    let handle = world.insert(Entry::Call(call.clone()));
    let mut task = Task::NONE;
    let (data, caller) = (found.responder.data, Slice::new(b"test"));
    // SAFETY: A registered responder; the arguments are valid for the call.
    let code = unsafe {
        found.responder.hooks.get().map_or(code::INVALID, |hooks| {
            (hooks.call)(data, handle, caller, Slice::new(payload), deadline_ns, &mut task)
        })
    };
    if code < 0 {
        world.remove(handle);
        return code;
    }
    call.task.set(world.spawn(task));
    handle as Code
}

unsafe extern "C" fn call_next(_: InstanceId, call: Handle, sink: ByteSink, waker: Waker) -> Code {
    on_loop(|world| {
        let Some(Entry::Call(call)) = world.get(call) else { return code::STALE };
        let piece = call.pieces.borrow_mut().pop_front();
        if let Some(piece) = piece {
            wake_slot(&call.writer);
            // SAFETY: See above.
            return unsafe { write_sink(sink, &piece) }.min(code::READY);
        }
        // The end of the task ends the call: whoever waits for it is woken with the task's waiter.
        match world.poll_task(call.task.get(), Kept::new(waker)) {
            code::PENDING => {
                *call.reader.borrow_mut() = Kept::new(waker);
                code::PENDING
            }
            code::READY => match world.outcome(call.task.get()) {
                Some(code) if code < 0 => code,
                _ => code::END,
            },
            code => code,
        }
    })
}

/// What a metric shows.
pub(super) fn metric(world: &World, name: &str) -> Option<u64> {
    world.entries().into_iter().find_map(|(_, entry)| match entry {
        Entry::Metric(metric) if metric.name == name => Some(metric.word.load(Ordering::Relaxed)),
        _ => None,
    })
}

/// Starts a command; answers the call's handle.
pub(super) fn start_command(
    world: &World,
    name: &str,
    words: &[&str],
) -> Option<(Handle, Rc<Call>)> {
    let found = world.entries().into_iter().find_map(|(_, entry)| match entry {
        Entry::Command(entry) if entry.name == name => Some(entry),
        _ => None,
    })?;
    let call = Rc::new(Call::default());
    let handle = world.insert(Entry::Call(call.clone()));
    let words: Vec<Slice> = words.iter().map(|word| Slice::new(word.as_bytes())).collect();
    let mut task = Task::NONE;
    let data: *mut c_void = found.command.data;
    // SAFETY: A registered command; the arguments are valid for the call.
    let code = unsafe {
        found.command.hooks.get().map_or(code::INVALID, |hooks| {
            (hooks.run)(data, handle, words.as_ptr(), words.len(), 0, &mut task)
        })
    };
    if code >= 0 {
        call.task.set(world.spawn(task));
    }
    Some((handle, call))
}
