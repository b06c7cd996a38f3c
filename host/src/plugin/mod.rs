//! Plugins: registry > instance > generation > library, and what a plugin may call.

pub mod body;
mod callbacks;
pub mod exchange;
pub mod frame;
pub mod future;
pub mod generation;
pub mod handles;
pub mod head;
pub mod inspect;
pub mod instance;
pub mod interpose;
pub mod library;
pub mod lifecycle;
pub mod manifest;
pub mod off_loop;
pub mod offer;
pub mod owned;
pub mod pool;
pub mod quarantine;
pub mod registry;
pub mod route;
pub mod serve;
pub mod sink;
pub mod unload;
pub mod upgrade;
pub mod waker;
pub mod work;
