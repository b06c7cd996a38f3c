//! Plugins: registry > instance > generation > library, and what a plugin may call.

pub mod inspect;
pub mod interpose;
pub mod library;
pub mod manifest;
pub mod pool;
