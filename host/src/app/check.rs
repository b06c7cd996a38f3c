//! `medusa check` and `medusa plugin inspect`: what can be said without running anything.

use std::{fs, io, path::Path};

use crate::{
    config::{Config, Diagnostics, schema::Schema},
    plugin::inspect,
};

/// Reads a configuration, and the manifests of the plugins that it names; the summary is a line, or a few.
pub(super) fn check(path: &Path) -> Result<String, Diagnostics> {
    let config = Config::load(path)?;
    let absent = config.check_plugins(&schema_of)?;
    let count = config.instances.iter().filter(|instance| instance.enabled).count();
    let plural = if count == 1 { "" } else { "s" };
    let mut summary = format!("{}: fine, {count} instance{plural}\n", path.display());
    for file in absent {
        summary += &format!(
            "{}: this library is not there yet, so its plugin's configuration was not checked\n",
            file.display()
        );
    }
    Ok(summary)
}

/// A library's manifest as text or JSON. A library that this host would refuse is shown all the same.
pub(super) fn inspect(path: &Path, json: bool) -> Result<String, String> {
    let cannot =
        |error: &dyn std::fmt::Display| format!("cannot inspect {}: {error}", path.display());
    let bytes = fs::read(path).map_err(|error| cannot(&error))?;
    let inspection = inspect::read(&bytes).map_err(|refusal| cannot(&refusal))?;
    let text =
        if json { inspect::render_json(&inspection) } else { inspect::render_text(&inspection) };
    Ok(text.trim_end().to_owned() + "\n")
}

/// The schema in a library's manifest; `None` if there is no such file.
pub(super) fn schema_of(path: &Path) -> Result<Option<Schema>, String> {
    match fs::read(path) {
        Ok(bytes) => match inspect::inspect(&bytes) {
            Ok(inspection) => Ok(Some(inspection.manifest.config)),
            Err(refusal) => Err(refusal.to_string()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read the library: {error}")),
    }
}
