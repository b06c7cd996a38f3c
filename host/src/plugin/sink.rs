//! Byte sinks: how the other side's bytes come into a vector of ours.

#![allow(unsafe_code)] // The sink's data pointer is the vector.

use std::ffi::c_void;

use medusa_abi::{
    code::{self, Code},
    data::{ByteSink, Slice},
};

/// What one sink takes at the most, in bytes.
pub const BYTES_MAX: usize = 256 << 20;

/// A sink that appends to `bytes`. Valid as long as the borrow of `bytes` would be.
pub fn into_vec(bytes: &mut Vec<u8>) -> ByteSink {
    ByteSink { data: std::ptr::from_mut(bytes).cast(), write }
}

unsafe extern "C" fn write(data: *mut c_void, bytes: Slice) -> Code {
    // SAFETY: `data` is the vector of `into_vec`, whose borrower calls the plugin with it and waits.
    let Some(into) = (unsafe { data.cast::<Vec<u8>>().as_mut() }) else { return code::INVALID };
    // SAFETY: The plugin's bytes are valid for the call.
    let Some(bytes) = (unsafe { bytes.get() }) else { return code::INVALID };
    if into.len() + bytes.len() > BYTES_MAX {
        return code::LIMIT;
    }
    into.extend_from_slice(bytes);
    code::READY
}

/// Writes `bytes` into a sink of the plugin's.
///
/// # Safety
/// The sink must be valid for this call.
pub unsafe fn write_to(sink: ByteSink, bytes: &[u8]) -> Code {
    // SAFETY: The caller's promise; the bytes are borrowed for the call.
    unsafe { (sink.write)(sink.data, Slice::new(bytes)) }
}
