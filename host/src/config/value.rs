//! A TOML document as a tree in which every key and value knows its place in the text.
//!
//! The tree owns what it holds, so that an instance can keep its `[plugin.config]` until the plugin's schema is known.

use std::rc::Rc;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::config::{
    diagnostic::{Diagnostic, Diagnostics},
    source::{Source, Span},
};

/// A value and its place. Values are equal if they say the same, wherever they say it.
#[derive(Clone, Debug)]
pub struct Value {
    /// Where it is; of a table, its header.
    pub span: Span,
    /// What it is.
    pub data: Data,
}

/// What a value can be.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names are those of TOML")]
pub enum Data {
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    Datetime(String),
    List(Vec<Value>),
    Table(Table),
}

/// Keys and values, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The entries; keys are unique.
    pub entries: Vec<Entry>,
}

/// One key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key is.
    pub key_span: Span,
    /// Its value.
    pub value: Value,
}

impl Table {
    /// Reads a whole document. What is not TOML is added to `diagnostics`; the table then holds what could be understood.
    pub fn parse(source: &Rc<Source>, diagnostics: &mut Diagnostics) -> Table {
        let (table, errors) = DeTable::parse_recoverable(&source.text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            diagnostics.push(Diagnostic::new(
                span,
                format!("not TOML: {}", error.message()),
                mend(error.message()),
            ));
        }
        convert_table(table.get_ref(), diagnostics)
    }

    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entry(key).map(|entry| &entry.value)
    }
}

impl Value {
    /// The same value as JSON would state it, placed at `span`: that is how a schema's defaults come in.
    /// `None` for null, and for numbers that are neither `i64` nor `f64`.
    pub fn from_json(json: &serde_json::Value, span: &Span) -> Option<Value> {
        use serde_json::Value as Json;
        let data = match json {
            Json::Null => return None,
            Json::Bool(bool) => Data::Bool(*bool),
            Json::Number(number) => match number.as_i64() {
                Some(integer) => Data::Integer(integer),
                None => Data::Float(number.as_f64()?),
            },
            Json::String(text) => Data::String(text.clone()),
            Json::Array(list) => Data::List(
                list.iter().map(|json| Value::from_json(json, span)).collect::<Option<_>>()?,
            ),
            Json::Object(map) => {
                let entry = |(key, json): (&String, &Json)| {
                    Some(Entry {
                        key: key.clone(),
                        key_span: span.clone(),
                        value: Value::from_json(json, span)?,
                    })
                };
                Data::Table(Table { entries: map.iter().map(entry).collect::<Option<_>>()? })
            }
        };
        Some(Value { span: span.clone(), data })
    }

    /// What it is, with an article, for messages.
    pub fn describe(&self) -> &'static str {
        match &self.data {
            Data::Bool(_) => "a boolean",
            Data::Integer(_) => "an integer",
            Data::Float(_) => "a float",
            Data::String(_) => "a string",
            Data::Datetime(_) => "a date",
            Data::List(_) => "an array",
            Data::Table(_) => "a table",
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.data == other.data
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.key == other.key && self.value == other.value
    }
}

fn convert_table(table: &DeTable<'_>, diagnostics: &mut Diagnostics) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_span: key.span(),
            value: convert(value, diagnostics),
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Table { entries }
}

fn convert(value: &Spanned<DeValue<'_>>, diagnostics: &mut Diagnostics) -> Value {
    let span = value.span();
    let mut refuse = |message: &str, help: &str| {
        diagnostics.push(Diagnostic::new(span.clone(), message, help));
        Data::Integer(0)
    };
    let data = match value.get_ref() {
        DeValue::String(text) => Data::String(text.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(integer) => Data::Integer(integer),
            Err(_) => refuse("the number does not fit into 64 bits", "write a smaller number"),
        },
        DeValue::Float(float) => match float.as_str().parse() {
            Ok(float) => Data::Float(float),
            Err(_) => refuse("the number cannot be read", "write it as digits with a point: 1.5"),
        },
        DeValue::Boolean(bool) => Data::Bool(*bool),
        DeValue::Datetime(datetime) => Data::Datetime(datetime.to_string()),
        DeValue::Array(array) => {
            Data::List(array.iter().map(|value| convert(value, diagnostics)).collect())
        }
        DeValue::Table(table) => Data::Table(convert_table(table, diagnostics)),
    };
    Value { span, data }
}

fn mend(message: &str) -> &'static str {
    if message.contains("duplicate") {
        return "remove one of the two";
    }
    if message.contains("recursion") {
        return "nest less deeply";
    }
    "a line is `key = value`, `[table]` or `[[plugin]]`; text stands in \"quotes\", a list in [brackets]"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Table, Diagnostics) {
        let source = Source::new("t", "/", text);
        let mut diagnostics = Diagnostics::new(&source);
        (Table::parse(&source, &mut diagnostics), diagnostics)
    }

    #[test]
    fn every_value_knows_its_place() {
        let text = "b = 0x1_0\na = [1.5, \"x\"]\n[[p]]\nk = true\n[p.c]\nd = 1979-05-27\n";
        let (table, diagnostics) = parse(text);
        assert!(diagnostics.is_empty(), "{diagnostics}");
        let at = |span: &Span| &text[span.clone()];
        assert_eq!(table.entries[0].key, "b");
        assert_eq!(table.get("b").unwrap().data, Data::Integer(16));
        assert_eq!(at(&table.get("a").unwrap().span), "[1.5, \"x\"]");
        let Data::List(plugins) = &table.get("p").unwrap().data else { panic!() };
        assert_eq!(at(&plugins[0].span), "[[p]]");
        let Data::Table(plugin) = &plugins[0].data else { panic!() };
        assert_eq!(at(&plugin.get("c").unwrap().span), "[p.c]");
    }

    #[test]
    fn all_that_is_not_toml_is_found() {
        let (_, diagnostics) = parse("a = \nb = yes\nc = 1\nc = 2\nd = 99999999999999999999\n");
        assert_eq!(diagnostics.len(), 4, "{diagnostics}");
    }
}
