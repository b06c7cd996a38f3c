//! What a plugin gave to the host to keep: its pointer, and the one drop that gives it back.

#![allow(unsafe_code)] // Calls drop hooks.

use std::{cell::Cell, ffi::c_void, rc::Rc};

use medusa_abi::code::Code;

use crate::plugin::{
    frame,
    generation::{Generation, Phase},
};

/// A pointer of the plugin's that the host drops exactly once, inside of a call to its generation.
pub struct Owned {
    generation: Rc<Generation>,
    data: *mut c_void,
    drop: Cell<Option<unsafe extern "C" fn(*mut c_void) -> Code>>,
    is_held: Cell<bool>,
}

impl Owned {
    /// Takes the pointer over.
    pub fn new(
        generation: &Rc<Generation>,
        data: *mut c_void,
        drop: unsafe extern "C" fn(*mut c_void) -> Code,
    ) -> Owned {
        generation.owned.set(generation.owned.get() + 1);
        let generation = generation.clone();
        Owned { generation, data, drop: Cell::new(Some(drop)), is_held: Cell::new(true) }
    }

    /// Whose it is.
    pub fn generation(&self) -> &Rc<Generation> {
        &self.generation
    }

    /// The pointer, for the plugin's hooks. Not to be used once it was given back.
    pub fn data(&self) -> *mut c_void {
        self.data
    }

    /// Gives the pointer back without dropping it: the call that brought it did not succeed, so that it is the
    /// plugin's still.
    pub fn disown(&self) {
        self.drop.set(None);
    }

    /// Whether it was given back.
    pub fn is_given_back(&self) -> bool {
        !self.is_held.get()
    }

    /// Gives the pointer back now, whoever still holds this. Called when no code of the plugin is on the stack.
    pub fn give_back(&self) {
        if !self.is_held.replace(false) {
            return;
        }
        self.generation.owned.set(self.generation.owned.get() - 1);
        if let Some(drop) = self.drop.take() {
            // SAFETY: The pointer came with this hook, is dropped only here, and its library is mapped while `owned` of
            // its generation is not zero.
            frame::enter(&self.generation, || unsafe { drop(self.data) });
        }
        // It may have been what kept a pinned library.
        if self.generation.phase.get() == Phase::Pinned {
            self.generation.stirred();
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.give_back();
    }
}
