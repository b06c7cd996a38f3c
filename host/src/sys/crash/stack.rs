//! A stack of its own for the handler, on threads to which Rust's library gives none: those that a plugin starts by itself. Without one a
//! stack overflow there could not be handled.

use std::{cell::Cell, ffi::c_void, ptr};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// More than the handler needs.
const STACK_BYTES: usize = 64 * 1024;

thread_local! {
    /// What this thread was given; null if nothing.
    static GIVEN: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
}

fn set(stack: *mut c_void, flags: i32) -> bool {
    let stack = libc::stack_t { ss_sp: stack, ss_flags: flags, ss_size: STACK_BYTES };
    // SAFETY: The memory is mapped for as long as it is set, or there is none.
    unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) == 0 }
}

/// Gives this thread one, until [`take_stack`]. If there is no memory, an overflow here ends the process.
pub fn give_stack() {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: The kernel chooses the address, so that no memory in use is replaced.
    let Ok(stack) = (unsafe { mmap_anonymous(ptr::null_mut(), STACK_BYTES, protection, flags) })
    else {
        return;
    };
    if set(stack, 0) {
        GIVEN.set(stack);
    } else {
        // SAFETY: It was mapped just now, and nobody has it.
        let _ = unsafe { munmap(stack, STACK_BYTES) };
    }
}

/// Takes it from this thread again, which is about to end.
pub fn take_stack() {
    let stack = GIVEN.replace(ptr::null_mut());
    if !stack.is_null() && set(ptr::null_mut(), libc::SS_DISABLE) {
        // SAFETY: It was mapped by `give_stack`, and is no signal stack any more.
        let _ = unsafe { munmap(stack, STACK_BYTES) };
    }
}
