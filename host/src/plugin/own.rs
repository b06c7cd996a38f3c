//! The services that the host itself offers to instances. They are called like those of instances; no plugin's code answers.

use crate::plugin::manifest::Capability;

/// With this begin the names of the host's services, and of nobody else's.
pub const PREFIX: &str = "medusa.";

/// A service of the host's own.
pub struct OwnService {
    /// Its name, which begins with [`PREFIX`].
    pub name: &'static str,
    /// The version that it speaks.
    pub version: u32,
    /// What a caller's manifest has to ask for.
    pub capability: Capability,
    /// Begins an answer.
    pub answer: Box<dyn Fn() -> Answer>,
}

/// The pieces of an answer, each made when it is asked for: however many there are, the caller has one of them at a time.
pub type Answer = Box<dyn Iterator<Item = Vec<u8>>>;
