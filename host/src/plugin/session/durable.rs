//! Sessions that outlive a crash: those whose plugin gives a record at each park, and those that are as good as new when they rest.

#![allow(unsafe_code)] // Reads what a plugin gives.

use medusa_abi::net::{PARK_AS_NEW, PARK_RESUME, ParkSpec};

use crate::sys::crash::Keeps;

use super::{Session, Sessions};

impl Session {
    /// Keeps what it parks with, in the memory that outlives a crash. Called while the spec is valid.
    pub(super) fn keep(&self, sessions: &Sessions, spec: &ParkSpec) {
        // SAFETY: The record is valid for the call, says the ABI.
        let record = unsafe { spec.record.get() }.filter(|_| !spec.record.is_none());
        let keeps = match record {
            _ if spec.flags & PARK_RESUME != 0 => Keeps::Nothing,
            Some(_) => Keeps::Record,
            None if spec.flags & PARK_AS_NEW != 0 => Keeps::NoState,
            None => Keeps::Nothing,
        };
        let record = record.unwrap_or_default();
        self.is_as_new.set(keeps == Keeps::NoState);
        let is_kept = self.connection.keep(self.generation().id, keeps, record);
        if !is_kept && !sessions.is_too_long.replace(true) {
            tracing::warn!(
                instance = self.generation().name(),
                bytes = record.len(),
                "the record of a session is too long to be kept, so that it does not outlive a crash; `durable_bytes_max` allows more"
            );
        }
    }
}
