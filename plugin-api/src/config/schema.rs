//! The schema of a configuration, as constants for the manifest.

/// A table: what it is for, and its fields in the order of their declaration.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// One or two sentences.
    pub doc: &'static str,
    /// Names are unique.
    pub fields: &'static [Field],
}

/// One key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Whether it has to be there.
    pub required: bool,
    /// What stands for an absent key, as JSON text.
    pub default: Option<&'static str>,
    /// One sentence.
    pub doc: &'static str,
    /// The smallest number, size, duration or length, as JSON text.
    pub min: Option<&'static str>,
    /// The largest.
    pub max: Option<&'static str>,
}

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A signed 64-bit integer.
    Integer,
    /// A number.
    Float,
    /// Text.
    String,
    /// A path, absolute when the plugin sees it.
    Path,
    /// Bytes.
    Size,
    /// Milliseconds.
    Duration,
    /// Any number of values of one type.
    List(&'static Kind),
    /// A table with fields of its own.
    Table(&'static Schema),
    /// One of these words.
    OneOf(&'static [&'static str]),
}
