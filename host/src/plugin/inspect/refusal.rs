//! Why a library is not loaded: sentences that say what to do next.

use std::fmt;

use medusa_abi::{ENTRY_SYMBOL, MANIFEST_SECTION};

use crate::plugin::manifest::{AbiVersion, ManifestError};

/// Why a library is not loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not begin as an ELF file does.
    NotElf {
        /// What it begins like.
        looks_like: &'static str,
    },
    /// It is made for 32 bit, or big endian.
    NotElf64Little,
    /// It ends before what it announces.
    Truncated {
        /// Its length, in bytes.
        length: u64,
        /// The length that it would need.
        needs: u64,
    },
    /// It is made for another processor.
    Architecture {
        /// The processor that it is made for.
        file: String,
        /// The host's.
        host: &'static str,
    },
    /// It is an object file, an executable or a core dump.
    NotShared,
    /// A part of it contradicts itself.
    Damaged {
        /// Which part.
        part: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It has no manifest.
    NoManifest,
    /// Its manifest cannot be read.
    BadManifest(ManifestError),
    /// It speaks another ABI.
    AbiMajor {
        /// What it needs.
        needs: AbiVersion,
        /// What this host has.
        host: AbiVersion,
    },
    /// It needs more of the ABI than this host has.
    AbiMinor {
        /// What it needs.
        needs: AbiVersion,
        /// What this host has.
        host: AbiVersion,
    },
    /// It is made for another platform.
    Target {
        /// The triple that it is made for.
        built_for: String,
        /// The host's.
        host: String,
    },
    /// A panic in it would end the process.
    PanicAbort,
    /// It has thread-locals in the static block.
    StaticTls,
    /// It asks to stay mapped.
    Nodelete,
    /// It has a symbol that pins it.
    UniqueSymbol {
        /// One such symbol.
        symbol: String,
    },
    /// It does not export its entry.
    NoEntry,
    /// A library that it needs is not on this machine.
    MissingLibrary {
        /// Its name.
        library: String,
    },
    /// It uses a function that nobody offers.
    MissingSymbol {
        /// Its name, with its version where it has one.
        symbol: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotElf { looks_like } => write!(
                f,
                "not a shared library: it begins like {looks_like}; give the .so that cargo builds for a crate with \
                 crate-type = [\"cdylib\"]"
            ),
            Refusal::NotElf64Little => f.write_str(
                "not a 64-bit little-endian library; build the plugin for the host's target",
            ),
            Refusal::Truncated { length, needs } => write!(
                f,
                "truncated: it has {length} bytes and announces {needs}; copy or build it again"
            ),
            Refusal::Architecture { file, host } => write!(
                f,
                "made for another processor, {file}, and this host runs on {host}; build it for the host's target"
            ),
            Refusal::NotShared => f.write_str(
                "an ELF file, but not a shared library; build the plugin with crate-type = [\"cdylib\"]",
            ),
            Refusal::Damaged { part, reason } => {
                write!(f, "damaged: {part} cannot be read ({reason}); copy or build it again")
            }
            Refusal::NoManifest => write!(
                f,
                "not a medusa plugin: it has no section {MANIFEST_SECTION}; build it with medusa-plugin-api, whose export_plugin! \
                 writes that section, and do not strip sections from it"
            ),
            Refusal::BadManifest(error) => write!(
                f,
                "its manifest cannot be read: {error}; build it again with a released medusa-plugin-api"
            ),
            Refusal::AbiMajor { needs, host } => write!(
                f,
                "made for ABI {needs}, and this host speaks {host}: the major versions have to be equal; build it against \
                 medusa-plugin-api for ABI {}, or use a host of ABI {}",
                host.major, needs.major
            ),
            Refusal::AbiMinor { needs, host } => write!(
                f,
                "needs ABI {needs}, and this host has {host}; upgrade the host or build against medusa-plugin-api for ABI \
                 {host} or older"
            ),
            Refusal::Target { built_for, host } => write!(
                f,
                "built for {built_for}, and this host is {host}; build it with --target {host}"
            ),
            Refusal::PanicAbort => f.write_str(
                "built with panic = \"abort\", so a panic in it would end the whole server; build it with panic = \"unwind\"",
            ),
            Refusal::StaticTls => f.write_str(
                "it wants static thread-local storage (DF_STATIC_TLS), of which a process has room for a few libraries \
                 only; build it, and C code in it, without -ftls-model=initial-exec or -Ztls-model",
            ),
            Refusal::Nodelete => f.write_str(
                "it asks never to be unmapped (DF_1_NODELETE), so it could not be unloaded; link it without -z nodelete",
            ),
            Refusal::UniqueSymbol { symbol } => write!(
                f,
                "its symbol {symbol} is unique in a process (STB_GNU_UNIQUE), so it could not be unloaded; compile C++ code \
                 in it with -fno-gnu-unique"
            ),
            Refusal::NoEntry => write!(
                f,
                "it does not export `{ENTRY_SYMBOL}`; call export_plugin! once in its crate, and do not hide its symbols \
                 when linking"
            ),
            Refusal::MissingLibrary { library } => write!(
                f,
                "it needs {library}, which is not on this machine; install the package that has it, or link it statically"
            ),
            Refusal::MissingSymbol { symbol } => write!(
                f,
                "it needs {symbol}, which neither the host nor a library of this machine has; build it on a system as old \
                 as this one, and link all that it needs"
            ),
        }
    }
}

impl std::error::Error for Refusal {}
