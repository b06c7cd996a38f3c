//! Write a plugin for the medusa server.

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
mod time;
mod waker;

pub use ::bytes::Bytes;
pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
pub use medusa_plugin_api_derive::Config;
pub use tracing;

pub use self::{
    command::{Arguments, CommandSpec, Role},
    config::{Config, Size},
    connection::{Connection, ConnectionInfo, Peer},
    error::{Error, Result},
    file::{Dir, DirEntry, File, FileInfo, OpenOptions, Root},
    host::{instance_name, post},
    http::{Body, Limited, Next, Outcome, Record, Request, Response, ResponseExt, Route},
    job::{StopSignal, ThreadHandle, blocking, thread},
    metric::{Counter, Gauge},
    net::{Listener, connect, connect_from, resolve},
    register::Registration,
    registrar::Registrar,
    service::{Call, Replies, call, call_within},
    session::{Flow, IntoFlow, Wake},
    spawn::{JoinError, JoinHandle, spawn, spawn_named},
    state::OldState,
    time::{Elapsed, Instant, Interval, Sleep, interval, sleep, sleep_until, timeout},
};

/// What nearly every plugin uses.
pub mod prelude {
    pub use crate::{
        Arguments, Body, Bytes, Config, Connection, Error, Flow, Instant, Next, Registrar, Request,
        Response, ResponseExt, Result, Route, Size, StatusCode, Wake, export_plugin, sleep, spawn,
        timeout,
        tracing::{self, debug, error, info, trace, warn},
    };
}

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
