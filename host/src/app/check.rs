//! `medusa check` and `medusa plugin inspect`: what can be said without running anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, Diagnostic, Diagnostics, schema::Schema},
    plugin::{inspect, library::file, pool::Pool},
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

/// Checks the plugins' parts of a configuration as [`Config::check_plugins`] does, with the libraries read on the pool.
///
/// # Errors
/// What is wrong with them; or the pool has no room for the job.
pub(super) async fn check_on_pool(
    config: &Config,
    pool: &Pool,
) -> Result<Vec<PathBuf>, Diagnostics> {
    let enabled = config.instances.iter().filter(|instance| instance.enabled);
    let files: BTreeSet<PathBuf> = enabled.map(|instance| config.library_file(instance)).collect();
    let read = move || -> BTreeMap<PathBuf, Result<Option<Schema>, String>> {
        let schema = |file: PathBuf| {
            let schema = schema_of(&file);
            (file, schema)
        };
        files.into_iter().map(schema).collect()
    };
    let cannot = |reason: &dyn std::fmt::Display| {
        let mut problems = Diagnostics::new(&config.source);
        let message = format!("cannot look at the plugins' libraries: {reason}");
        problems.push(Diagnostic::of_file(message, "try again in a moment"));
        problems
    };
    let schemas = pool.submit(read).map_err(|full| cannot(&full))?.await;
    let schemas = schemas.map_err(|error| cannot(&error))?;
    config.check_plugins(&|file| schemas.get(file).cloned().unwrap_or(Ok(None)))
}

/// A library's manifest as text or JSON. A library that this host would refuse is shown all the same.
pub(super) fn inspect(path: &Path, json: bool) -> Result<String, String> {
    let cannot =
        |error: &dyn std::fmt::Display| format!("cannot inspect {}: {error}", path.display());
    let bytes = file::read(path).map_err(|error| cannot(&error))?;
    let inspection = inspect::read(&bytes).map_err(|refusal| cannot(&refusal))?;
    let text =
        if json { inspect::render_json(&inspection) } else { inspect::render_text(&inspection) };
    Ok(text.trim_end().to_owned() + "\n")
}

/// The schema in a library's manifest; `None` if there is no such file. It blocks.
pub(super) fn schema_of(path: &Path) -> Result<Option<Schema>, String> {
    match file::read(path) {
        Ok(bytes) => match inspect::inspect(&bytes) {
            Ok(inspection) => Ok(Some(inspection.manifest.config)),
            Err(refusal) => Err(refusal.to_string()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read the library: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    #[tokio::test]
    async fn what_is_no_file_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.so");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        std::fs::write(folder.path().join("text.so"), "text").unwrap();
        let check = async |library: &str| {
            let text = format!("[[plugin]]\nname = \"a\"\nlibrary = \"./{library}.so\"\n");
            let config = Config::parse(&Source::new("t", folder.path(), text)).unwrap();
            let pool = Pool::start("medusa-pool", 1, 1).unwrap();
            let (there, here) =
                (check_on_pool(&config, &pool).await, config.check_plugins(&schema_of));
            assert_eq!(format!("{there:?}"), format!("{here:?}"));
            there.map_err(|problems| problems.render(false))
        };
        let refusal = check("pipe").await.unwrap_err();
        assert!(refusal.contains("not a regular file") && refusal.contains("t:3:"), "{refusal}");
        assert!(check("text").await.unwrap_err().contains("not a shared library"));
        assert_eq!(check("none").await, Ok(vec![folder.path().join("none.so")]));
    }
}
