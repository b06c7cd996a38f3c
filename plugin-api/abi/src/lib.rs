//! The contract between the medusa host and its plugins: `repr(C)` types and nothing else.
//!
//! There are three kinds of thing in it, as `docs/abi.md` explains: **types** that cross the boundary, **hooks** (functions
//! of the plugin that the host calls) and **callbacks** (functions of the host that a plugin calls). Function pointers,
//! integers and pointer + length pairs cross; an owning type never does. Authors of plugins use `medusa-plugin-api`
//! instead of this crate.
//!
//! # Rules that every type here follows
//!
//! - **Append only.** Tables (structs of function pointers) begin with their `size` and grow at the end, in a new minor
//!   version. Plain structs never grow; they carry `spare` words, which are zero until a minor gives them a meaning.
//! - **Ownership is written on the type**, in a line that begins with `OWNERSHIP:`. What no line names is borrowed for the
//!   length of the call.
//! - **Nothing that a plugin owns rests in the host**, except the `data` pointers of the pairs named here, each of which
//!   the host gives back exactly once through the pair's `drop` hook, on the loop's thread.
//! - **No panic crosses.** Each hook catches what its plugin throws and answers [`code::PANICKED`].

// The tables' layout structs come from abi_stable's derive, whose expansion holds `unsafe` and undocumented items.
#![allow(unsafe_code, missing_docs, non_local_definitions)]
// `clone` is the word of every waker table, `RawWakerVTable`'s included.
#![allow(clippy::should_implement_trait)]

pub mod code;
pub mod data;
pub mod file;
pub mod host;
pub mod http;
pub mod net;
pub mod proof;
pub mod root;
pub mod service;
pub mod task;

/// The major version of the contract. Host and plugin must speak the same one.
pub const ABI_MAJOR: u16 = 1;

/// The minor version of the contract. A host serves every minor up to its own.
pub const ABI_MINOR: u16 = 0;

/// The section of the library's file that holds its manifest, as JSON text, readable without running the file.
pub const MANIFEST_SECTION: &str = ".medusa.manifest";

/// The symbol of the library's [`root::Root`], a `static`.
pub const ENTRY_SYMBOL: &str = "medusa_plugin";
