//! What a library says of itself: the JSON text in its ELF section `.medusa.manifest`, read without running it.
//!
//! Unknown fields are ignored, so that a newer SDK may say more.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::schema::Schema;

/// The format of the manifest that this host reads.
pub const FORMAT: u32 = 1;
/// Most bytes that a manifest may have.
pub const BYTES_MAX: usize = 1 << 20;

/// A manifest that was read and makes sense in itself; whether this host can load the library is `inspect`'s question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of this text.
    pub format: u32,
    /// The plugin's name: the package's, without a leading `medusa-`.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// One sentence for people.
    #[serde(default)]
    pub description: String,
    /// The ABI that it needs: this major, and this minor or a newer one.
    pub abi: AbiVersion,
    /// What it is, for people and for the order of starting.
    pub kind: PluginKind,
    /// The compiler that built it.
    pub rustc: String,
    /// The target triple that it was built for.
    pub target: String,
    /// What a panic does in it.
    pub panic: PanicStrategy,
    /// What it asks the host for.
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    /// Names of resources that only one generation can hold at a time.
    #[serde(default)]
    pub exclusive: Vec<String>,
    /// The versions of kept state that it writes and reads; none if it keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateVersions>,
    /// Whatever the author wants to tell builds apart by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The fields of its configuration.
    #[serde(default)]
    pub config: Schema,
}

/// A version of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbiVersion {
    /// Differs: nothing fits.
    pub major: u16,
    /// Grows with every addition.
    pub minor: u16,
}

/// What a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PluginKind {
    /// Serves connections of its listeners.
    Service,
    /// Registers HTTP handlers, filters or observers.
    HttpExtension,
    /// Speaks HTTP on its listeners, and dispatches to extensions.
    HttpServer,
    /// Anything else.
    Plugin,
}

/// What a panic does in a library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PanicStrategy {
    /// It can be caught.
    Unwind,
    /// It ends the process.
    Abort,
}

/// What a plugin may ask the host for: a guard against accidents, not a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Listeners.
    Listen,
    /// Outgoing connections.
    Connect,
    /// Names to addresses.
    Resolve,
    /// Files beneath roots that its configuration names.
    Files,
    /// Threads of its own.
    Threads,
    /// Services of other instances.
    Services,
    /// What the host tells of itself and of all instances: its service `medusa.status`.
    Status,
}

/// Which versions of kept state a plugin knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateVersions {
    /// What it writes.
    pub writes: u32,
    /// What it reads; `writes` is always among them.
    pub reads: Vec<u32>,
}

/// Why a manifest could not be read; says which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError(String);

impl Manifest {
    /// Reads the content of the section; trailing NULs are padding.
    ///
    /// # Errors
    /// The text is no JSON, a field is missing or has a value that it cannot have (the error names it), or the format is newer.
    pub fn parse(section: &[u8]) -> Result<Manifest, ManifestError> {
        let length = section.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if length > BYTES_MAX {
            return Err(ManifestError(format!("it has {length} bytes, more than {BYTES_MAX}")));
        }
        let text = std::str::from_utf8(&section[..length])
            .map_err(|error| ManifestError(format!("it is not UTF-8 text: {error}")))?;
        check_format(text)?;
        let mut json = serde_json::Deserializer::from_str(text);
        let manifest: Manifest = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            match path.as_str() {
                "." => ManifestError(error.inner().to_string()),
                _ => ManifestError(format!("field `{path}`: {}", error.inner())),
            }
        })?;
        json.end().map_err(|error| ManifestError(format!("text follows the manifest: {error}")))?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !is_name(&self.name) {
            return Err(ManifestError(format!(
                "field `name`: `{}` is not a name: lower-case letters, digits, `-` and `_`, at most 64, and a letter first",
                self.name.escape_debug()
            )));
        }
        if self.version.is_empty() {
            return Err(ManifestError("field `version`: it is empty".to_owned()));
        }
        if let Some(state) = &self.state
            && !state.reads.contains(&state.writes)
        {
            return Err(ManifestError(format!(
                "field `state`: it writes version {} and does not read it",
                state.writes
            )));
        }
        match self.config.problem() {
            Some(problem) => Err(ManifestError(format!("field `config`: {problem}"))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ManifestError {}

impl fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for PluginKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

// Before anything else: a newer format may name everything else differently.
fn check_format(text: &str) -> Result<(), ManifestError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let Format { format } =
        serde_json::from_str(text).map_err(|error| ManifestError(error.to_string()))?;
    if format == FORMAT {
        return Ok(());
    }
    Err(ManifestError(format!(
        "field `format`: it is {format}, and this host reads {FORMAT}; upgrade the host"
    )))
}

fn is_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"{"format":1,"name":"echo","version":"0.1.0","description":"Sends back.",
        "abi":{"major":1,"minor":0},"kind":"http-extension","rustc":"rustc 1.95.0","target":"t","panic":"unwind",
        "capabilities":["listen","files"],"exclusive":["db"],"state":{"writes":2,"reads":[1,2]},"build":"b",
        "config":{"doc":"","fields":[{"name":"root","type":"path","required":true,"doc":"Where."}]},"later":1}"#;

    fn refuse(from: &str, to: &str) -> String {
        assert!(WHOLE.contains(from));
        Manifest::parse(WHOLE.replace(from, to).as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_is_read_with_padding_and_fields_unknown() {
        let manifest = Manifest::parse(format!("{WHOLE}\0\0").as_bytes()).unwrap();
        assert_eq!(manifest.name, "echo");
        assert_eq!(manifest.kind, PluginKind::HttpExtension);
        assert_eq!(manifest.kind.to_string(), "http-extension");
        assert_eq!(manifest.capabilities, [Capability::Listen, Capability::Files]);
        assert_eq!(manifest.config.fields[0].name, "root");
        let written = serde_json::to_string(&manifest).unwrap();
        assert_eq!(Manifest::parse(written.as_bytes()).unwrap(), manifest);
    }

    #[test]
    fn an_error_names_the_field() {
        for (from, to, expected) in [
            (r#""version":"0.1.0","#, "", "missing field `version`"),
            (r#""minor":0"#, r#""minor":-1"#, "field `abi.minor`"),
            (r#""minor":0"#, r#""mino":0"#, "missing field `minor`"),
            (r#""http-extension""#, r#""toaster""#, "field `kind`"),
            (r#""unwind""#, r#""maybe""#, "field `panic`"),
            (r#""files""#, r#""moon""#, "field `capabilities[1]`"),
            (r#""type":"path""#, r#""type":"pat""#, "field `config.fields[0].type`"),
            (r#""name":"root""#, r#""name":"""#, "field `config`"),
            (r#""name":"echo""#, r#""name":"../etc""#, "field `name`"),
            (r#""writes":2"#, r#""writes":3"#, "field `state`"),
            (r#""format":1"#, r#""format":2"#, "upgrade the host"),
            (r#""later":1}"#, r#""later":1} x"#, "trailing"),
        ] {
            let error = refuse(from, to);
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
        assert!(Manifest::parse(b"").is_err());
        assert!(Manifest::parse(b"\xff\xfe").unwrap_err().to_string().contains("UTF-8"));
    }
}
