//! Write a plugin for the medusa server: async Rust that is loaded, upgraded and unloaded while the server runs.
//!
//! A plugin is a crate of the type `cdylib` with a `load` function, which tells a [`Registrar`] what the plugin offers.
//! This is a whole one, a service of connections:
//!
//! ```
//! //! Echo (RFC 862): sends every byte back.
//! use medusa_plugin_api::prelude::*;
//!
//! export_plugin!(load);
//!
//! fn load(registrar: &mut Registrar) -> Result<()> {
//!     registrar.serve(echo);
//!     Ok(())
//! }
//!
//! async fn echo(mut conn: Connection) -> Result<()> {
//!     let mut buf = [0; 8 * 1024];
//!     loop {
//!         match conn.read(&mut buf).await? {
//!             0 => return Ok(()),
//!             n => conn.write_all(&buf[..n]).await?,
//!         }
//!     }
//! }
//! # fn main() {}
//! ```
//!
//! And this is one that answers HTTP, attached to a server of it:
//!
//! ```
//! //! Hello: greets whoever asks for `/hello`, and counts the greetings.
//! use std::{cell::Cell, rc::Rc};
//!
//! use medusa_plugin_api::prelude::*;
//!
//! export_plugin!(load);
//!
//! fn load(registrar: &mut Registrar) -> Result<()> {
//!     let served = Rc::new(Cell::new(0u64));
//!     registrar.http("/hello", move |_request: Request| {
//!         let served = served.clone();
//!         async move {
//!             served.set(served.get() + 1);
//!             Ok(Response::text(format!("hello, number {}\n", served.get())))
//!         }
//!     });
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! # What holds for all of a plugin's code
//!
//! - **It runs on one thread**, the server's loop, so `Rc`, `Cell` and `RefCell` are enough, and futures need not be `Send`.
//!   What blocks or computes for long goes to [`blocking()`]; what needs a runtime of its own to [`thread()`]. Off the loop
//!   only logging and [`post`] are possible; the rest answers with an error.
//! - **What it makes goes with it.** Connections, files, timers, tasks and registrations belong to the plugin in the host's
//!   books; unloading the plugin ends them, and the library's memory is given back.
//! - **A panic stays inside**: it ends the connection, request or task that it is raised in, and is logged with its place.
//! - **It brings no runtime.** tokio's `rt`, `net`, `time` and `fs` need one, and its other features do not; sockets, timers
//!   and files come from this crate. Do not print: use [`tracing`]'s macros, which go to the server's log.
//!
//! # Where things are
//!
//! [`Registrar`] has all that a plugin can offer, [`register`] the same for later. [`Connection`], [`Listener`] and
//! [`connect`] are sockets, [`Lines`] reads lines from one, [`Root`] is files, [`sleep`], [`interval`] and [`timeout`] are time, [`spawn`] is tasks,
//! [`Request`], [`Response`] and [`Body`] are HTTP, [`call`] reaches other instances, [`Config`](derive@Config) reads the configuration,
//! and [`server`] is for those who write a server of HTTP. With the feature `testing`, `testing::Host` runs a plugin in a
//! unit test. `docs/writing-plugins.md` is the guide.

mod address;
mod catch;
mod command;
mod config;
mod connection;
mod error;
mod export;
mod file;
mod handle;
mod heap;
mod hooks;
mod host;
mod http;
mod job;
mod late;
mod lines;
mod local;
mod log;
mod manifest;
mod metric;
mod net;
mod panic;
mod plugin;
pub mod register;
mod registrar;
mod serve;
pub mod server;
mod service;
mod session;
mod source;
mod spawn;
mod state;
mod task;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod waker;

pub use ::bytes::Bytes;
pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
pub use medusa_plugin_api_derive::Config;
pub use tracing;

pub use self::{
    command::{Arguments, CommandSpec, Role},
    config::{Config, Size},
    connection::{Connection, ConnectionInfo, Peer, TlsFact},
    error::{Error, Result},
    file::{Dir, DirEntry, File, FileInfo, OpenOptions, Root},
    host::{instance_name, post},
    http::{
        Body, Escaped, Limited, Next, Outcome, Permit, Record, Request, Response, ResponseExt,
        Route,
    },
    job::{StopSignal, ThreadHandle, blocking, thread},
    lines::{Lines, TooLong},
    metric::{Counter, Gauge},
    net::{Listener, connect, connect_from, resolve},
    plugin::is_handed_over,
    register::Registration,
    registrar::Registrar,
    service::{Call, Replies, call, call_within},
    session::{Flow, IntoFlow, Sessions, Wake},
    spawn::{JoinError, JoinHandle, spawn, spawn_named},
    state::OldState,
    time::{Elapsed, Instant, Interval, Sleep, interval, sleep, sleep_until, timeout},
};

/// What nearly every plugin uses.
pub mod prelude {
    pub use crate::{
        Arguments, Body, Bytes, Config, Connection, Error, Flow, Instant, Next, Registrar, Request,
        Response, ResponseExt, Result, Route, Sessions, Size, StatusCode, Wake, export_plugin,
        sleep, spawn, timeout,
        tracing::{self, debug, error, info, trace, warn},
    };
}

/// The guide's examples, so that they go on compiling.
#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-plugins.md")]
pub mod guide {}

/// What the macros expand to. Not for authors, and not stable.
#[doc(hidden)]
pub mod __private {
    pub use medusa_abi::root::{Hooks, Root};

    pub use crate::{
        heap::Heap,
        hooks::{Export, hooks, root},
        manifest::{Manifest, length as manifest_length, text as manifest_text},
    };

    pub mod config {
        pub use ciborium::Value;

        pub use crate::config::{Config, ConfigValue, Fields, Reader, schema};
    }
}
