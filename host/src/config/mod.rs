//! The configuration file: text to a checked, typed configuration. Nothing behind it reads a key or an environment variable.
//!
//! It knows no plugin: what a plugin's own configuration may hold comes in as a [`schema::Schema`].

pub mod address;
pub mod diagnostic;
pub mod instance;
pub mod limits;
pub mod schema;
pub mod show;
pub mod source;
pub mod units;
pub mod validate;
pub mod value;
pub mod words;

mod check;
mod file;
mod section;

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Read as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    rc::Rc,
};

pub use crate::config::{
    address::{Address, Listen},
    diagnostic::{Diagnostic, Diagnostics},
    instance::{AdHoc, Instance},
    limits::Limits,
    source::Source,
    validate::validate,
};

/// A configuration that holds together: names are unique, what is referred to is there, values are in range.
#[derive(Clone, Debug)]
pub struct Config {
    /// The text that it was read from.
    pub source: Rc<Source>,
    /// Where libraries are found by name.
    pub plugin_dir: PathBuf,
    /// Where the host keeps what has to last.
    pub state_dir: PathBuf,
    /// Whether the host counts what takes a look at the clock: polls, and the latency of requests.
    pub counters: bool,
    /// The limits of the host, and those of instances that state none.
    pub limits: Limits,
    /// The monitor's Unix socket.
    pub monitor_socket: PathBuf,
    /// What is logged, and how.
    pub log: Log,
    /// The certificates, by name.
    pub tls: BTreeMap<String, Tls>,
    /// The instances in the order of the file, disabled ones too.
    pub instances: Vec<Instance>,
}

/// `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// The form of a line.
    pub format: LogFormat,
}

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// `[tls.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// A pair made by the host, kept in `state_dir`.
    SelfSigned,
    /// A pair in PEM files.
    Files {
        /// The certificate chain.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
}

/// The largest configuration file that is read.
pub const FILE_BYTES_MAX: u64 = 4 << 20;

/// What the plugins of a configuration say of their own configurations, as `medusa check` asks for it: the schema that a
/// library's file states, `None` where there is no such file, or a sentence that says why the library is of no use.
pub type SchemaOf<'a> = &'a dyn Fn(&Path) -> Result<Option<schema::Schema>, String>;

/// The names of the log's levels, the most severe first.
pub const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

impl Default for Log {
    fn default() -> Log {
        Log { level: tracing::Level::INFO, format: LogFormat::Text }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Config, Diagnostics> {
        Config::parse(&read(path)?)
    }

    /// Checks a text.
    pub fn parse(source: &Rc<Source>) -> Result<Config, Diagnostics> {
        file::read(source)
    }

    /// The monitor's socket that a file names, whatever else is wrong with the file: an operator who has just broken it must
    /// still reach the server.
    pub fn monitor_socket(path: &Path) -> Result<PathBuf, Diagnostics> {
        Ok(file::monitor_socket(&read(path)?))
    }

    /// The instance of that name.
    pub fn instance(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name == name)
    }

    /// Checks each enabled instance as its loading would: its configuration against its plugin's schema, and what it asks of the
    /// host against what the host has. Libraries that are not there are left out; their files are the result.
    pub fn check_plugins(&self, schema_of: SchemaOf<'_>) -> Result<Vec<PathBuf>, Diagnostics> {
        let (mut problems, mut absent) = (Diagnostics::new(&self.source), Vec::new());
        for instance in self.instances.iter().filter(|instance| instance.enabled) {
            check::tls_is_missing(instance, &mut problems);
            let file = self.library_file(instance);
            match schema_of(&file) {
                Ok(Some(schema)) => problems.append(
                    validate(&schema, instance)
                        .err()
                        .unwrap_or_else(|| Diagnostics::new(&self.source)),
                ),
                Ok(None) => absent.push(file),
                Err(sentence) => {
                    let message = format!("{}: {sentence}", file.display());
                    let help = "name another library, or remove this plugin (enabled = false keeps it here)";
                    problems.push(Diagnostic::new(instance.places.library.clone(), message, help));
                }
            }
        }
        problems.or(absent)
    }

    /// The file of an instance's library.
    pub fn library_file(&self, instance: &Instance) -> PathBuf {
        instance.library_file(&self.plugin_dir)
    }
}

fn read(path: &Path) -> Result<Rc<Source>, Diagnostics> {
    let name = path.display().to_string();
    let refuse = |message: String, help: &str| {
        let mut diagnostics = Diagnostics::new(&Source::new(&name, "/", ""));
        diagnostics.push(Diagnostic::of_file(message, help));
        diagnostics
    };
    let cannot = |error: std::io::Error| {
        refuse(
            format!("cannot read the configuration: {error}"),
            "name the file with --config FILE",
        )
    };
    // A pipe would be waited for, on the loop.
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(cannot)?;
    let metadata = file.metadata().map_err(cannot)?;
    if !metadata.is_file() {
        let message = "cannot read the configuration: it is not a regular file".to_owned();
        return Err(refuse(message, "write it to a file, and name that with --config FILE"));
    }
    let size = metadata.len();
    if size > FILE_BYTES_MAX {
        let message =
            format!("the configuration has {size} bytes, at most {FILE_BYTES_MAX} are read");
        return Err(refuse(message, "is this the right file?"));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(cannot)?;
    let text = String::from_utf8(text).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        refuse(format!("the configuration is not UTF-8 in line {line}"), "save the file as UTF-8")
    })?;
    let absolute = std::path::absolute(path).map_err(cannot)?;
    Ok(Source::new(name, absolute.parent().unwrap_or(Path::new("/")), text))
}
