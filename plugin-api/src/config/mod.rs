//! A plugin's configuration: a struct that is the schema, the documentation and the reader in one.

mod read;
pub mod schema;
mod size;

pub(crate) use self::read::read_config;
pub use self::{
    read::{ConfigValue, Fields, Reader},
    size::Size,
};

use self::schema::Schema;
use crate::error::Result;

/// A table of configuration, derived for a struct with named fields:
///
/// ```
/// use std::{path::PathBuf, time::Duration};
/// use medusa_plugin_api::{Config, Size};
///
/// /// Serves files.
/// #[derive(Config)]
/// struct Settings {
///     /// The folder that is served.
///     root: PathBuf,
///     /// The largest file that is kept in memory.
///     #[config(default = "64 KiB", max = 16_777_216)]
///     cached_bytes_max: Size,
///     /// How long a listing may take.
///     #[config(default = "5 s")]
///     patience: Duration,
///     /// What is done with names that begin with a dot.
///     #[config(default = "hide", one_of = ["hide", "serve"])]
///     dot_files: String,
///     /// Said to nobody if it is absent.
///     motto: Option<String>,
/// }
/// ```
///
/// Doc comments are shown to the operator. Types: `bool`, the integers, `f32` and `f64`, `String`, `PathBuf` (absolute when
/// the plugin sees it), [`Size`], `Duration`, `Vec<T>`, `Option<T>`, and other structs that derive `Config`. A field
/// without a default that is no `Option` is required. `min` and `max` bound numbers, bytes, milliseconds, and the lengths
/// of strings and lists.
pub trait Config: Sized + 'static {
    /// The fields, for the manifest.
    const SCHEMA: Schema;

    /// Reads the table.
    ///
    /// # Errors
    /// A sentence that names the field.
    fn read(fields: &Fields<'_>) -> Result<Self>;
}
