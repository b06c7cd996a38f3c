//! Black-box tests of medusa: the harness that the tests share.
//!
//! A test reads as a transcript after one line of set-up:
//!
//! ```no_run
//! use medusa_tests::{Client, Server};
//!
//! let server = Server::start("[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n");
//! server.ctl(["load", "hello", "--library", "hello", "--attach", "web"]).succeeded();
//! let mut client = Client::connect(server.address("web"));
//! assert_eq!(client.get("/hello").text(), "hello, number 1\n");
//! ```
//!
//! Nothing here knows a type of the host: what is tested is what an operator and a peer can see.

mod canary;
mod ctl;
mod folder;
mod http;
mod http_parse;
mod levels;
mod monitor;
mod process;
mod server;
mod tool;
mod tree;
mod wait;
pub mod websocket;

pub use canary::Canary;
pub use ctl::CtlOutput;
pub use folder::Folder;
pub use http::{Client, End, exchange};
pub use http_parse::{Broken, Response};
pub use levels::{Image, Levels, images, still_mapped};
pub use monitor::Monitor;
pub use process::{Descriptor, Mapping, Process, Thread};
pub use server::Server;
pub use tool::{newest, skip, tool, tool_from};
pub use tree::Tree;
pub use wait::{soak_count, wait_for, wait_until};
