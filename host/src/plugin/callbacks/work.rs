//! `WorkCallbacks`: tasks, jobs, threads and timers.

use std::{any::type_name, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::{Handle, InstanceId, Slice},
    host::WorkCallbacks,
    task::{self, Task, Waker},
};

use crate::plugin::{
    callbacks::{answer, handle, text, with_waker},
    frame::{current, current_of},
    future::PluginFuture,
    handles::Held,
    manifest::Capability,
    work::{Job, PluginThread, Timer},
};

pub(super) static CALLBACKS: WorkCallbacks = WorkCallbacks {
    size: size_of::<WorkCallbacks>(),
    task_spawn,
    task_abort,
    task_poll,
    job_start,
    job_poll,
    thread_start,
    thread_poll,
    timer_start,
    timer_reset,
    timer_poll,
};

unsafe extern "C" fn task_spawn(id: InstanceId, task: Task, name: Slice) -> Code {
    current(id, |generation| {
        if task.hooks.as_ptr().is_null() {
            return code::INVALID;
        }
        if generation.handles.is_closed() {
            return code::GONE;
        }
        let max = generation.limits.tasks_per_instance_max;
        if generation.futures.borrow().len() as u64 >= max {
            return generation.limited("tasks_per_instance_max");
        }
        // SAFETY: The slice is valid for the call, says the ABI.
        let Ok(name) = (unsafe { text(name) }) else { return code::INVALID };
        let future = PluginFuture::new(generation, task, name);
        future.spawn();
        handle(generation.handles.insert(future, u64::MAX))
    })
}

unsafe extern "C" fn task_abort(id: InstanceId, task: Handle) -> Code {
    current(id, |generation| {
        answer(generation.handles.get::<PluginFuture>(task).map(|task| {
            task.cancel();
            code::READY
        }))
    })
}

unsafe extern "C" fn task_poll(id: InstanceId, task: Handle, waker: Waker) -> Code {
    // Whatever it ended with that is no error: it has ended.
    poll::<PluginFuture, _>(id, task, waker, |task, waker| task.poll_end(waker).min(code::READY))
}

unsafe extern "C" fn job_start(id: InstanceId, job: task::Job, name: Slice) -> Code {
    current(id, |generation| {
        if generation.handles.is_closed() {
            return code::GONE;
        }
        if u64::from(generation.jobs_running.get()) >= generation.limits.jobs_per_instance_max {
            return generation.limited("jobs_per_instance_max");
        }
        // SAFETY: The slice is valid for the call, says the ABI.
        let Ok(name) = (unsafe { text(name) }) else { return code::INVALID };
        handle(
            Job::start(generation, job, name)
                .and_then(|job| generation.handles.insert(job, u64::MAX)),
        )
    })
}

unsafe extern "C" fn job_poll(id: InstanceId, job: Handle, waker: Waker) -> Code {
    poll::<Job, _>(id, job, waker, |job, waker| job.poll(waker))
}

unsafe extern "C" fn thread_start(id: InstanceId, thread: task::Thread, name: Slice) -> Code {
    current(id, |generation| {
        if !generation.may(Capability::Threads) {
            return code::DENIED;
        }
        if generation.handles.is_closed() {
            return code::GONE;
        }
        let max = generation.limits.threads_per_instance_max;
        if generation.threads.borrow().len() as u64 >= max {
            return generation.limited("threads_per_instance_max");
        }
        // SAFETY: The slice is valid for the call, says the ABI.
        let Ok(name) = (unsafe { text(name) }) else { return code::INVALID };
        handle(
            PluginThread::start(generation, thread, name)
                .and_then(|thread| generation.handles.insert(thread, u64::MAX)),
        )
    })
}

unsafe extern "C" fn thread_poll(id: InstanceId, thread: Handle, waker: Waker) -> Code {
    poll::<PluginThread, _>(id, thread, waker, |thread, waker| thread.poll(waker))
}

unsafe extern "C" fn timer_start(id: InstanceId, deadline_ns: u64) -> Code {
    current(id, |generation| {
        let timer = Rc::new(Timer::at(generation.instance.registry.clock.instant(deadline_ns)));
        let made = generation.handles.insert(timer, generation.limits.timers_per_instance_max);
        if made == Err(code::LIMIT) {
            return generation.limited("timers_per_instance_max");
        }
        handle(made)
    })
}

unsafe extern "C" fn timer_reset(id: InstanceId, timer: Handle, deadline_ns: u64) -> Code {
    current(id, |generation| {
        answer(generation.handles.get::<Timer>(timer).map(|timer| {
            timer.reset(generation.instance.registry.clock.instant(deadline_ns));
            code::READY
        }))
    })
}

unsafe extern "C" fn timer_poll(id: InstanceId, timer: Handle, waker: Waker) -> Code {
    poll::<Timer, _>(id, timer, waker, |timer, waker| timer.poll(waker))
}

/// Polls what the handle stands for.
fn poll<T: Held, F: FnOnce(&T, &std::task::Waker) -> Code>(
    id: InstanceId,
    handle: Handle,
    waker: Waker,
    f: F,
) -> Code {
    current_of(id, type_name::<F>(), |generation| match generation.handles.get::<T>(handle) {
        // SAFETY: The waker is as the ABI says; the callback's caller promises it.
        Ok(held) => unsafe { with_waker(generation, waker, |waker| f(&held, waker)) },
        Err(code) => code,
    })
}
