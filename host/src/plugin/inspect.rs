//! Reads a library without running it, and refuses what could not be loaded, or not be unloaded.
//!
//! [`read`] collects what the file states; [`Inspection::verdict`] compares it with this host; [`inspect`] does both.

mod elf;
mod refusal;
mod render;

use std::fs;

pub use self::{
    refusal::Refusal,
    render::{render_json, render_text},
};
use super::manifest::{AbiVersion, Manifest, PanicStrategy};

/// What this host offers: what a library is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The newest ABI that it speaks.
    pub abi: AbiVersion,
    /// The target triple that it was built for.
    pub target: &'static str,
}

/// What a library's file states.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspection {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The libraries that it needs (DT_NEEDED), in their order.
    pub needed: Vec<String>,
    /// What an operator should know, and what is no ground for refusal.
    pub warnings: Vec<String>,
    /// Whether it exports [`medusa_abi::ENTRY_SYMBOL`].
    pub has_entry: bool,
    /// It wants its thread-locals in every thread's static block (DF_STATIC_TLS).
    pub has_static_tls: bool,
    /// It asks never to be unmapped (DF_1_NODELETE).
    pub is_nodelete: bool,
    /// The first of its symbols that the process may have only once (STB_GNU_UNIQUE), which keeps it mapped.
    pub unique_symbol: Option<String>,
    /// The file's size.
    pub bytes: u64,
}

impl Host {
    /// This host.
    pub const THIS: Host = Host {
        abi: AbiVersion { major: medusa_abi::ABI_MAJOR, minor: medusa_abi::ABI_MINOR },
        target: env!("MEDUSA_TARGET"),
    };
}

/// Reads a library's file, and says why this host cannot load it if it cannot.
///
/// # Errors
/// The first ground for refusal.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Refusal> {
    let inspection = read(bytes)?;
    inspection.verdict(&Host::THIS)?;
    Ok(inspection)
}

/// The name and version that a library's file gives itself, if it is one; of all else nothing is read. For people: [`inspect`] has to
/// follow.
pub fn title(file: &fs::File) -> Option<String> {
    let Manifest { name, version, .. } = elf::manifest(file)?;
    Some(format!("{name}-{version}"))
}

/// Reads what a library's file states.
///
/// # Errors
/// It is not a plugin that could be looked at: not a whole shared library for this architecture, or without a manifest.
pub fn read(bytes: &[u8]) -> Result<Inspection, Refusal> {
    let file = elf::File::parse(bytes)?;
    let section = file.section(medusa_abi::MANIFEST_SECTION)?.ok_or(Refusal::NoManifest)?;
    let manifest = Manifest::parse(section).map_err(Refusal::BadManifest)?;
    let dynamic = file.dynamic()?;
    let symbols = file.symbols()?;
    Ok(Inspection {
        manifest,
        warnings: warnings(&dynamic.needed),
        needed: dynamic.needed,
        has_entry: symbols.has_entry,
        has_static_tls: dynamic.has_static_tls,
        is_nodelete: dynamic.is_nodelete,
        unique_symbol: symbols.unique,
        bytes: bytes.len() as u64,
    })
}

impl Inspection {
    /// Whether a host can load the library, and unload it again.
    ///
    /// # Errors
    /// The first ground for refusal.
    pub fn verdict(&self, host: &Host) -> Result<(), Refusal> {
        let Manifest { abi, panic, target, .. } = &self.manifest;
        if abi.major != host.abi.major {
            return Err(Refusal::AbiMajor { needs: *abi, host: host.abi });
        }
        if abi.minor > host.abi.minor {
            return Err(Refusal::AbiMinor { needs: *abi, host: host.abi });
        }
        if target != host.target {
            return Err(Refusal::Target {
                built_for: target.clone(),
                host: host.target.to_owned(),
            });
        }
        if *panic == PanicStrategy::Abort {
            return Err(Refusal::PanicAbort);
        }
        if self.has_static_tls {
            return Err(Refusal::StaticTls);
        }
        if self.is_nodelete {
            return Err(Refusal::Nodelete);
        }
        if let Some(symbol) = &self.unique_symbol {
            return Err(Refusal::UniqueSymbol { symbol: symbol.clone() });
        }
        if self.has_entry { Ok(()) } else { Err(Refusal::NoEntry) }
    }
}

fn warnings(needed: &[String]) -> Vec<String> {
    let others: Vec<_> =
        needed.iter().filter(|name| !is_part_of_c(name)).map(String::as_str).collect();
    if others.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "it needs {}: libraries like these stay mapped on their own terms, and what they allocate is not counted",
        others.join(", ")
    )]
}

/// Whether a library is in every process of this platform anyway.
fn is_part_of_c(name: &str) -> bool {
    const NAMES: [&str; 6] = ["libc", "libm", "libgcc_s", "libpthread", "libdl", "librt"];
    name.starts_with("ld-linux")
        || name.split_once(".so").is_some_and(|(stem, _)| NAMES.contains(&stem))
}

#[cfg(test)]
pub(super) mod tests;
