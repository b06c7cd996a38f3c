//! Bytes and tables: how memory is pointed at across the boundary.

use core::{ffi::c_void, marker::PhantomData, ptr};

use abi_stable::StableAbi;

use crate::code::Code;

/// A number for something that the host keeps for one instance: slot and generation in that instance's table. Always
/// above zero and below 2^63. Another instance's handle, or one that was dropped, is [`crate::code::STALE`], never more.
pub type Handle = u64;

/// No handle.
pub const NO_HANDLE: Handle = 0;

/// The number of a generation, given to it in `prepare`. It names who calls in every callback.
pub type InstanceId = u64;

/// Bytes that somebody else owns. `ptr` may be null when `len` is zero.
///
/// OWNERSHIP: The caller's. Valid for the call that it is passed to, and not longer.
#[derive(StableAbi, Clone, Copy, Debug)]
#[repr(C)]
pub struct Slice {
    pub ptr: *const u8,
    pub len: usize,
}

impl Slice {
    /// No bytes, and not even an empty string: "absent" where a field says so.
    pub const NONE: Slice = Slice { ptr: ptr::null(), len: 0 };

    /// The bytes of `bytes`, which must outlive the call.
    #[must_use]
    pub const fn new(bytes: &[u8]) -> Slice {
        Slice { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// Whether this is [`Slice::NONE`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.ptr.is_null()
    }

    /// The bytes, or `None` for a null pointer with a length or a length above `isize::MAX`.
    ///
    /// # Safety
    /// `ptr` must be valid for `len` bytes for the lifetime chosen by the caller.
    #[must_use]
    pub unsafe fn get<'a>(self) -> Option<&'a [u8]> {
        if self.len == 0 {
            return Some(&[]);
        }
        if self.ptr.is_null() || self.len > isize::MAX as usize {
            return None;
        }
        // SAFETY: The pointer is not null, the length is in range, the rest is the caller's promise.
        Some(unsafe { core::slice::from_raw_parts(self.ptr, self.len) })
    }
}

/// A pointer to a table of functions. Opaque to the layout proof, which looks at each table by itself.
///
/// OWNERSHIP: The side that wrote the table, which is a `static` there and lives until that side is unmapped.
#[derive(StableAbi)]
#[repr(transparent)]
#[sabi(unsafe_opaque_fields)]
#[sabi(unsafe_unconstrained(T))]
pub struct Table<T>(*const T, PhantomData<*const T>);

impl<T> Table<T> {
    /// No table.
    pub const NULL: Table<T> = Table(ptr::null(), PhantomData);

    /// Points at a static table.
    #[must_use]
    pub const fn new(table: &'static T) -> Table<T> {
        Table(table, PhantomData)
    }

    /// The raw pointer; null for [`Table::NULL`].
    #[must_use]
    pub const fn as_ptr(self) -> *const T {
        self.0
    }

    /// The table, or `None` when there is none.
    ///
    /// # Safety
    /// The side that wrote the table must still be mapped, and stay so for the lifetime chosen by the caller. Fields past
    /// the table's own `size` must not be read.
    #[must_use]
    pub unsafe fn get<'a>(self) -> Option<&'a T> {
        // SAFETY: The caller's promise.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T> core::fmt::Debug for Table<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Table({:p})", self.0)
    }
}

// SAFETY: A table is a `static` of function pointers and integers; nothing in it changes.
unsafe impl<T> Send for Table<T> {}
// SAFETY: As above.
unsafe impl<T> Sync for Table<T> {}

/// Takes bytes of unknown length from the other side. `write` may be called several times; the pieces are joined.
///
/// OWNERSHIP: The caller's, for the call. Bytes given to `write` are copied before it returns.
#[derive(StableAbi, Clone, Copy)]
#[repr(C)]
pub struct ByteSink {
    pub data: *mut c_void,
    pub write: unsafe extern "C" fn(data: *mut c_void, bytes: Slice) -> Code,
}

/// What a plugin's heap holds, kept by the plugin and read by the host at any time. The fields are atomic words.
#[derive(StableAbi, Debug)]
#[repr(C)]
pub struct HeapCounters {
    /// Blocks that are allocated now.
    pub blocks: core::sync::atomic::AtomicU64,
    /// Bytes in them, as asked for.
    pub bytes: core::sync::atomic::AtomicU64,
    /// The most that `bytes` has been.
    pub bytes_peak: core::sync::atomic::AtomicU64,
}
