//! Futures as the host polls them.

// Turns boxes into the pointers of the ABI and back.
#![allow(unsafe_code)]

use std::{
    ffi::c_void,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use medusa_abi::{
    code::{self, Code},
    data::Table,
    task::{Context as AbiContext, Task, TaskHooks},
};

use crate::{
    catch::{catch, guard},
    late, waker,
};

/// Boxes a future for the host. Its output is the code that the task answers with.
///
/// The author's closure must be called inside `future`, not to make it: only in there is a panic caught with the task.
pub(crate) fn into_task<F: Future<Output = Code> + 'static>(future: F) -> Task {
    let data = Box::into_raw(Box::new(TaskBox { future, done: false }));
    Task { data: data.cast(), hooks: Table::new(&TaskBox::<F>::HOOKS) }
}

/// Drops a task that the host did not take.
pub(crate) fn drop_task(task: Task) {
    // SAFETY: The table is one of this module's, alive as long as the image.
    if let Some(hooks) = unsafe { task.hooks.get() } {
        // SAFETY: The host refused the task, so it is still ours, and not used again.
        unsafe { (hooks.drop)(task.data) };
    }
}

/// Runs `f` with the waker of a hook's context.
///
/// # Safety
/// `context` must be the argument of the running hook.
pub(crate) unsafe fn with_context<R>(
    context: *const AbiContext,
    f: impl FnOnce(&mut Context<'_>) -> R,
) -> R {
    // SAFETY: The caller's promise.
    let (waker, now_ns) = unsafe { (waker::of_cell((*context).waker), (*context).now_ns) };
    waker::polled_at(now_ns);
    f(&mut Context::from_waker(&waker))
}

struct TaskBox<F> {
    future: F,
    /// Answered or panicked: the future is only dropped from now on.
    done: bool,
}

impl<F: Future<Output = Code> + 'static> TaskBox<F> {
    const HOOKS: TaskHooks =
        TaskHooks { size: size_of::<TaskHooks>(), poll: Self::poll, drop: Self::drop };

    unsafe extern "C" fn poll(data: *mut c_void, context: *const AbiContext) -> Code {
        // SAFETY: `data` comes from `into_task` and was not dropped; the host polls a task from one place at a time.
        let task = unsafe { &mut *data.cast::<TaskBox<F>>() };
        if task.done {
            return code::INVALID;
        }
        // Set beforehand: a panic leaves it.
        task.done = true;
        guard(|| {
            late::drop_now();
            // SAFETY: The box is never moved out of, so the future stays where it is until it is dropped.
            let future = unsafe { Pin::new_unchecked(&mut task.future) };
            // SAFETY: `context` is this hook's argument.
            match unsafe { with_context(context, |context| future.poll(context)) } {
                Poll::Pending => {
                    task.done = false;
                    code::PENDING
                }
                // A task cannot answer `PENDING` and be over.
                Poll::Ready(code::PENDING) => code::INVALID,
                Poll::Ready(code) => code,
            }
        })
    }

    unsafe extern "C" fn drop(data: *mut c_void) -> Code {
        guard(|| {
            // SAFETY: As in `poll`; the host drops a task once, and does not use it again.
            let task = unsafe { Box::from_raw(data.cast::<TaskBox<F>>()) };
            match catch(|| drop(task)) {
                Some(()) => code::READY,
                None => code::PANICKED,
            }
        })
    }
}
