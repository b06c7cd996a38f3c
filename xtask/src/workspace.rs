//! The workspace as cargo sees it: its root, its target directory, and which members are plugins.

use std::{
    env,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Result, cargo};

/// What `cargo metadata` says, as far as we need it.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    pub(crate) target_dir: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// A member of the workspace.
pub(crate) struct Package {
    /// cargo's identifier, which its messages repeat.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) kind: Kind,
    /// Arguments for rustc that only this package gets: `rustc` in its `[package.metadata.medusa]`.
    pub(crate) rustc: Vec<String>,
}

/// What a member is for; decided by where it lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// A shared library under `plugins/`.
    Plugin,
    /// A shared library under `tests/fixtures/`: a plugin that only tests load.
    Fixture,
    /// Everything else: the host, the SDK, the harness, this program.
    Other,
}

impl Workspace {
    /// Asks cargo; needs no network.
    pub(crate) fn read() -> Result<Self> {
        let text = cargo::output(cargo::cargo().current_dir(root()).args([
            "metadata",
            "--no-deps",
            "--format-version=1",
        ]))?;
        let metadata: Value = serde_json::from_str(&text)?;
        let root = PathBuf::from(text_of(&metadata["workspace_root"])?);
        let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
        let packages =
            packages.iter().map(|package| Package::read(package, &root)).collect::<Result<_>>()?;
        Ok(Self { target_dir: text_of(&metadata["target_directory"])?.into(), packages, root })
    }

    /// The members of one kind, in cargo's order.
    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(move |package| package.kind == kind)
    }
}

impl Package {
    /// The name under which a plugin is loaded: the package's without a leading `medusa-`.
    pub(crate) fn plugin_name(&self) -> &str {
        self.name.strip_prefix("medusa-").unwrap_or(&self.name)
    }

    fn read(package: &Value, root: &Path) -> Result<Self> {
        let manifest = PathBuf::from(text_of(&package["manifest_path"])?);
        let targets = package["targets"].as_array().into_iter().flatten();
        let crate_types =
            targets.flat_map(|target| target["crate_types"].as_array().into_iter().flatten());
        let is_cdylib = crate_types.into_iter().any(|crate_type| crate_type == "cdylib");
        let kind = match manifest.strip_prefix(root) {
            Ok(path) if is_cdylib && path.starts_with("plugins") => Kind::Plugin,
            Ok(path) if is_cdylib && path.starts_with("tests/fixtures") => Kind::Fixture,
            _ => Kind::Other,
        };
        let rustc = package["metadata"]["medusa"]["rustc"].as_array().into_iter().flatten();
        Ok(Self {
            id: text_of(&package["id"])?.to_owned(),
            name: text_of(&package["name"])?.to_owned(),
            version: text_of(&package["version"])?.to_owned(),
            kind,
            rustc: rustc.filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // At run time rather than at compile time, so that a target directory can be shared or moved.
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().map_or(here.clone(), Path::to_path_buf)
}

fn text_of(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| "cargo metadata lacks a field that it always had".into())
}
