//! Header fields: `http`'s map as the ABI's borrowed list, and the other way.

// Reads and lends the ABI's slices.
#![allow(unsafe_code)]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use medusa_abi::{data::Slice, http::Field};
use smallvec::SmallVec;

use crate::host::bytes_of;

/// Fields on the stack, as long as there are no more than a usual head has.
pub(crate) type FieldList = SmallVec<[Field; 24]>;

/// The fields of `map`, which must outlive the call that the list is made for.
pub(crate) fn lend(map: &HeaderMap) -> FieldList {
    map.iter().map(|(name, value)| field(name.as_str().as_bytes(), value.as_bytes())).collect()
}

/// One field, of bytes that must outlive the call that it is made for.
pub(crate) fn field(name: &[u8], value: &[u8]) -> Field {
    Field { name: Slice::new(name), value: Slice::new(value) }
}

/// The fields behind `fields`, empty where the pointer makes no sense.
///
/// # Safety
/// They must be arguments of a running hook or callback, and the lifetime must end with it.
pub(crate) unsafe fn list<'a>(fields: *const Field, count: usize) -> &'a [Field] {
    if fields.is_null() || count > isize::MAX as usize / size_of::<Field>() {
        return &[];
    }
    // SAFETY: Not null and of a possible length; the rest is the caller's promise.
    unsafe { std::slice::from_raw_parts(fields, count) }
}

/// Name and value of a field.
///
/// # Safety
/// As [`list`].
pub(crate) unsafe fn pair<'a>(field: &Field) -> (&'a [u8], &'a [u8]) {
    // SAFETY: The caller's promise.
    unsafe { (bytes_of(field.name), bytes_of(field.value)) }
}

/// A copy of `fields` as a map. Fields that are not valid are left out: their sender has checked them already.
///
/// # Safety
/// As [`list`].
pub(crate) unsafe fn copy(fields: &[Field]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        // SAFETY: The caller's promise.
        let (name, value) = unsafe { pair(field) };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_maybe_shared(Bytes::copy_from_slice(value)),
        ) {
            map.append(name, value);
        }
    }
    map
}
