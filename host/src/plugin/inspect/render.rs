//! An inspection as text for people and as JSON for programs.

use std::fmt::Write;

use serde_json::{Value, json};

use super::{Host, Inspection};
use crate::config::schema::{Kind, Schema};

/// For people: a line for each fact, then the configuration's fields, then whether this host would load it.
pub fn render_text(inspection: &Inspection) -> String {
    let manifest = &inspection.manifest;
    let mut text = format!("{} {}", manifest.name, manifest.version);
    if !manifest.description.is_empty() {
        text += &format!(": {}", manifest.description);
    }
    text.push('\n');
    let mut line = |key: &str, value: String| {
        if !value.is_empty() {
            text += &format!("  {key:<13} {value}\n");
        }
    };
    line("kind", manifest.kind.to_string());
    line("abi", manifest.abi.to_string());
    line("target", manifest.target.clone());
    line("compiler", manifest.rustc.clone());
    line("build", manifest.build.clone().unwrap_or_default());
    line("size", format!("{} KiB", inspection.bytes.div_ceil(1024)));
    line("asks for", join(&manifest.capabilities));
    line("exclusive", join(&manifest.exclusive));
    if let Some(state) = &manifest.state {
        line("state", format!("writes {}, reads {}", state.writes, join(&state.reads)));
    }
    line("needs", join(&inspection.needed));
    for warning in &inspection.warnings {
        line("warning", warning.clone());
    }
    if !manifest.config.fields.is_empty() {
        text += "  configuration\n";
        render_fields(&mut text, &manifest.config, 4);
    }
    match inspection.verdict(&Host::THIS) {
        Ok(()) => text += "  this host can load it\n",
        Err(refusal) => text += &format!("  this host refuses it: {refusal}\n"),
    }
    text
}

/// For programs: the manifest's fields, with `needed`, `warnings`, `bytes`, `loadable` and `refusal` (null or a sentence) beside them.
pub fn render_json(inspection: &Inspection) -> String {
    let mut value = serde_json::to_value(&inspection.manifest).unwrap_or_default();
    let refusal = inspection.verdict(&Host::THIS).err().map(|refusal| refusal.to_string());
    let beside = json!({
        "needed": inspection.needed,
        "warnings": inspection.warnings,
        "bytes": inspection.bytes,
        "loadable": refusal.is_none(),
        "refusal": refusal,
    });
    if let (Value::Object(all), Value::Object(beside)) = (&mut value, beside) {
        all.extend(beside);
    }
    value.to_string()
}

fn render_fields(text: &mut String, schema: &Schema, indent: usize) {
    for field in &schema.fields {
        let kind = kind_name(&field.kind);
        let state = match (&field.default, field.required) {
            (Some(default), _) => format!(", default {default}"),
            (None, true) => ", required".to_owned(),
            (None, false) => String::new(),
        };
        let doc = if field.doc.is_empty() { "" } else { ": " };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:indent$}{} ({kind}{state}){doc}{}", "", field.name, field.doc);
        if let Some(schema) = inner(&field.kind) {
            render_fields(text, schema, indent + 2);
        }
    }
}

fn inner(kind: &Kind) -> Option<&Schema> {
    match kind {
        Kind::Table(schema) => Some(schema),
        Kind::List(kind) => inner(kind),
        _ => None,
    }
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer => "integer".to_owned(),
        Kind::Float => "number".to_owned(),
        Kind::String => "text".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Size => "size".to_owned(),
        Kind::Duration => "duration".to_owned(),
        Kind::List(kind) => format!("list of {}", kind_name(kind)),
        Kind::Table(_) => "table".to_owned(),
        Kind::OneOf(words) => format!("one of {}", join(words)),
    }
}

fn join<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
