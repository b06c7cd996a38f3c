//! The one space of results: what every hook and callback answers.
//!
//! Zero and above is success, below zero is not. A callback that answers with a number (bytes read, a handle) uses the
//! positive half; system errors are shifted below [`ERRNO_BASE`] so that they cannot be taken for anything else.

/// A result: zero or more is success, the meaning is the function's; below zero is one of this module's codes.
pub type Code = i64;

/// Done, or ready with nothing to say.
pub const READY: Code = 0;
/// A body or a stream of replies has ended. Only from functions that deliver a sequence.
pub const END: Code = 1;
/// A handler does not want this request; the next one is asked.
pub const PASS: Code = 2;

/// Not yet; the waker that was given is woken when it is worth asking again.
pub const PENDING: Code = -1;
/// The code behind the call panicked. The object may only be dropped from now on.
pub const PANICKED: Code = -2;
/// The handle is not, or no longer, one of this instance's.
pub const STALE: Code = -3;
/// A limit of the host would be exceeded. The host's log names it.
pub const LIMIT: Code = -4;
/// The callback was called off the loop's thread, or from no call of this instance.
pub const WRONG_THREAD: Code = -5;
/// What was waited for was cancelled.
pub const CANCELLED: Code = -6;
/// The manifest does not ask for the capability that this call needs.
pub const DENIED: Code = -7;
/// An argument makes no sense: a null pointer, a length above `isize::MAX`, an unknown kind.
pub const INVALID: Code = -8;
/// The other side is gone: an instance that was unloaded, a peer that hung up.
pub const GONE: Code = -9;
/// The other side has as much to do as it may; try again later.
pub const BUSY: Code = -10;
/// The deadline has passed.
pub const TIMEOUT: Code = -11;
/// The hook failed; the plugin has said why through [`crate::host::CoreCallbacks::fail`].
pub const FAILED: Code = -12;
/// No such thing: no route wants the request, no service has the name.
pub const NOT_FOUND: Code = -13;
/// This host or this plugin cannot do it.
pub const UNSUPPORTED: Code = -14;

/// A system error `e` travels as `ERRNO_BASE - e`.
pub const ERRNO_BASE: Code = -4096;

/// The code for the system error `errno` (positive, as in `errno.h`).
#[must_use]
pub const fn from_errno(errno: i32) -> Code {
    ERRNO_BASE - errno as Code
}

/// The system error that `code` carries, if it carries one.
#[must_use]
pub const fn errno(code: Code) -> Option<i32> {
    if code < ERRNO_BASE && code >= ERRNO_BASE - 4095 {
        Some((ERRNO_BASE - code) as i32)
    } else {
        None
    }
}
