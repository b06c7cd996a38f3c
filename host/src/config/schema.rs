//! What a plugin says about its configuration: the fields that `[plugin.config]` may have, as read from its manifest.
//!
//! The struct mirrors the manifest's JSON exactly; what is in the file is checked against it in `validate`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// A table of the configuration: what it is for, and its fields in the order in which the author declared them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// One or two sentences for the reference page.
    #[serde(default)]
    pub doc: String,
    /// The fields; names are unique.
    #[serde(default)]
    pub fields: Vec<Field>,
}

/// One key of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// The key.
    pub name: String,
    /// What values it takes.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Whether it has to be there; a field that is not required and has no default may be absent from the result.
    #[serde(default)]
    pub required: bool,
    /// What stands for an absent key, in the form in which the file would state it (`"64 KiB"`, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<serde_json::Value>,
    /// One sentence for the reference page and for messages.
    #[serde(default)]
    pub doc: String,
    /// The smallest number, size in bytes, duration in milliseconds, length of a string or of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest, in the same units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A signed 64-bit integer.
    Integer,
    /// A number; an integer will do.
    Float,
    /// Text.
    String,
    /// A path; relative ones are relative to the configuration file, the plugin sees it absolute.
    Path,
    /// Bytes: an integer, or text such as `"64 KiB"`; the plugin sees an integer.
    Size,
    /// Milliseconds: an integer, or text such as `"30 s"`; the plugin sees an integer.
    Duration,
    /// Any number of values of one type.
    List(Box<Kind>),
    /// A table with fields of its own.
    Table(Schema),
    /// One of these words.
    OneOf(Vec<String>),
}

impl Schema {
    /// What is wrong with the schema itself, as a sentence, if anything: a field without a name, or declared twice.
    pub fn problem(&self) -> Option<String> {
        let mut seen = HashSet::new();
        self.fields.iter().find_map(|field| {
            if field.name.is_empty() {
                return Some("the configuration schema has a field without a name".to_owned());
            }
            if !seen.insert(&field.name) {
                return Some(format!("the configuration schema declares `{}` twice", field.name));
            }
            field.kind.problem()
        })
    }
}

impl Kind {
    fn problem(&self) -> Option<String> {
        match self {
            Kind::List(kind) => kind.problem(),
            Kind::Table(schema) => schema.problem(),
            Kind::OneOf(words) if words.is_empty() => {
                Some("the configuration schema has a `one_of` without words".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_json_is_read_and_written_unchanged() {
        let json = r#"{"doc":"d","fields":[
            {"name":"root","type":"path","required":true,"doc":""},
            {"name":"size","type":"size","required":false,"default":"64 KiB","doc":"","min":1.0},
            {"name":"tags","type":{"list":{"one_of":["a","b"]}},"required":false,"doc":""},
            {"name":"user","type":{"list":{"table":{"doc":"","fields":[]}}},"required":false,"doc":""}]}"#;
        let schema: Schema = serde_json::from_str(json).unwrap();
        assert_eq!(schema.problem(), None);
        assert_eq!(
            schema.fields[2].kind,
            Kind::List(Box::new(Kind::OneOf(vec!["a".into(), "b".into()])))
        );
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_value(&schema).unwrap(), value);
    }

    #[test]
    fn a_schema_that_contradicts_itself_is_found() {
        let schema = |json| serde_json::from_str::<Schema>(json).unwrap().problem();
        assert!(
            schema(r#"{"fields":[{"name":"","type":"bool"}]}"#).unwrap().contains("without a name")
        );
        let twice = r#"{"fields":[{"name":"a","type":"bool"},{"name":"a","type":"bool"}]}"#;
        assert!(schema(twice).unwrap().contains("`a` twice"));
        assert!(
            schema(r#"{"fields":[{"name":"a","type":{"one_of":[]}}]}"#).unwrap().contains("one_of")
        );
    }
}
