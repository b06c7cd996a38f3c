//! The contract between the medusa host and its plugins.
