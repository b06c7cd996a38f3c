//! A request's head that outlives the call it came with: all of its bytes in one allocation.

#![allow(unsafe_code)] // Reads the slices of a head, and makes slices of its own.

use medusa_abi::{
    data::Slice,
    http::{Field, RequestHead},
};

use crate::plugin::body;

/// A copy of a head.
pub struct OwnedHead {
    /// All bytes, in the order of `parts`.
    bytes: Box<[u8]>,
    /// Pairs of name and value.
    fields: Box<[(Part, Part)]>,
    parts: [Option<Part>; 5],
    head: RequestHead,
}

/// Where a part lies in the bytes.
type Part = (usize, usize);

impl OwnedHead {
    /// Copies a head, which is valid for the call.
    pub fn copy(head: &RequestHead) -> OwnedHead {
        let mut bytes = Vec::with_capacity(512);
        let mut part = |slice: Slice| {
            if slice.is_none() {
                return None;
            }
            let start = bytes.len();
            // SAFETY: The head is valid for the call, says the ABI.
            bytes.extend_from_slice(unsafe { slice.get() }.unwrap_or_default());
            Some((start, bytes.len() - start))
        };
        let parts =
            [head.method, head.scheme, head.authority, head.path, head.query].map(&mut part);
        // SAFETY: The head is valid for the call, says the ABI.
        let fields = unsafe { body::fields(head.fields, head.field_count) }.unwrap_or(&[]);
        let fields = fields
            .iter()
            .map(|field| (part(field.name).unwrap_or((0, 0)), part(field.value).unwrap_or((0, 0))));
        let fields = fields.collect();
        OwnedHead { fields, parts, head: *head, bytes: bytes.into_boxed_slice() }
    }

    /// Calls `f` with the head, which is valid for that call.
    pub fn with<R>(&self, f: impl FnOnce(&RequestHead) -> R) -> R {
        let slice = |&(start, length): &Part| Slice::new(&self.bytes[start..start + length]);
        let part = |at: usize| self.parts[at].as_ref().map_or(Slice::NONE, slice);
        let field = |(name, value): &(Part, Part)| Field { name: slice(name), value: slice(value) };
        let fields: Vec<Field> = self.fields.iter().map(field).collect();
        let mut head = self.head;
        (head.method, head.scheme, head.authority) = (part(0), part(1), part(2));
        (head.path, head.query) = (part(3), part(4));
        (head.fields, head.field_count) = (fields.as_ptr(), fields.len());
        f(&head)
    }
}
