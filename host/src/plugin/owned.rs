//! What a plugin gave to the host to keep: its pointer, and the one drop that gives it back.

#![allow(unsafe_code)] // Calls drop hooks.

use std::{cell::Cell, ffi::c_void, rc::Rc};

use medusa_abi::code::Code;

use crate::plugin::{frame, generation::Generation};

/// A pointer of the plugin's that the host drops exactly once, inside of a call to its generation.
pub struct Owned {
    generation: Rc<Generation>,
    data: *mut c_void,
    drop: Cell<Option<unsafe extern "C" fn(*mut c_void) -> Code>>,
}

impl Owned {
    /// Takes the pointer over.
    pub fn new(
        generation: &Rc<Generation>,
        data: *mut c_void,
        drop: unsafe extern "C" fn(*mut c_void) -> Code,
    ) -> Owned {
        generation.owned.set(generation.owned.get() + 1);
        Owned { generation: generation.clone(), data, drop: Cell::new(Some(drop)) }
    }

    /// Whose it is.
    pub fn generation(&self) -> &Rc<Generation> {
        &self.generation
    }

    /// The pointer, for the plugin's hooks.
    pub fn data(&self) -> *mut c_void {
        self.data
    }

    /// Gives the pointer back without dropping it: the call that brought it did not succeed, so that it is the
    /// plugin's still.
    pub fn disown(&self) {
        self.drop.set(None);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.generation.owned.set(self.generation.owned.get() - 1);
        if let Some(drop) = self.drop.take() {
            // SAFETY: The pointer came with this hook, is dropped only here, and its library is mapped while `owned` of
            // its generation is not zero.
            frame::enter(&self.generation, || unsafe { drop(self.data) });
        }
    }
}
