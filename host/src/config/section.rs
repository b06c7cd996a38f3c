//! One table of the file while it is read: takes values of the expected type, and notes what is wrong with the others.

use std::rc::Rc;

use crate::config::{
    diagnostic::{Diagnostic, Diagnostics},
    limits::{LIMITS, Limit, Limits, Scope, Unit},
    source::{Source, Span},
    units,
    value::{Data, Entry, Table, Value},
    words,
};

/// A table being read.
pub(super) struct Section<'a> {
    /// What messages call it: `[host]`.
    pub place: String,
    pub table: &'a Table,
    pub source: &'a Rc<Source>,
    pub problems: &'a mut Diagnostics,
}

/// Text with its place.
pub(super) struct Text<'a> {
    pub text: &'a str,
    pub span: Span,
}

impl<'a> Section<'a> {
    /// A table within this one, or an element of an array in it.
    pub(super) fn within<'b>(
        &'b mut self,
        place: impl Into<String>,
        table: &'b Table,
    ) -> Section<'b> {
        Section { place: place.into(), table, source: self.source, problems: self.problems }
    }

    pub(super) fn problem(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.push(Diagnostic::new(span.clone(), message, help));
    }

    /// Notes every key that is not among `known`.
    pub(super) fn only(&mut self, known: &[&str]) {
        for entry in &self.table.entries {
            if !known.contains(&entry.key.as_str()) {
                let help = words::suggest(&entry.key, known, "keys here");
                self.problem(
                    &entry.key_span,
                    format!("unknown key `{}` in {}", entry.key, self.place),
                    help,
                );
            }
        }
    }

    pub(super) fn string(&mut self, key: &str) -> Option<Text<'a>> {
        let Entry { value, .. } = self.table.entry(key)?;
        match &value.data {
            Data::String(text) => Some(Text { text, span: value.span.clone() }),
            _ => self.wrong(key, value, "a string", &format!("write it in quotes: {key} = \"…\"")),
        }
    }

    pub(super) fn integer(&mut self, key: &str) -> Option<i64> {
        let value = self.table.get(key)?;
        match value.data {
            Data::Integer(integer) => Some(integer),
            _ => self.wrong(
                key,
                value,
                "an integer",
                &format!("write it without quotes: {key} = 10"),
            ),
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.table.get(key)?;
        match value.data {
            Data::Bool(bool) => Some(bool),
            _ => self.wrong(key, value, "a boolean", "write true or false, without quotes"),
        }
    }

    pub(super) fn table(&mut self, key: &str) -> Option<&'a Table> {
        let value = self.table.get(key)?;
        match &value.data {
            Data::Table(table) => Some(table),
            _ => self.wrong(key, value, "a table", &format!("write its keys below a line [{key}]")),
        }
    }

    /// The elements of `[[key]]`.
    pub(super) fn tables(&mut self, key: &str) -> Vec<(&'a Table, Span)> {
        let help = format!("begin each with a line [[{key}]]");
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let Data::List(list) = &value.data else {
            self.wrong::<()>(key, value, "an array of tables", &help);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in list {
            match &element.data {
                Data::Table(table) => tables.push((table, element.span.clone())),
                _ => drop(self.wrong::<()>(key, element, "an array of tables", &help)),
            }
        }
        tables
    }

    /// One of the words that `choices` lists; the index of it.
    pub(super) fn word(&mut self, key: &str, choices: &[&str]) -> Option<usize> {
        let Text { text, span } = self.string(key)?;
        let index = choices.iter().position(|choice| *choice == text);
        if index.is_none() {
            self.problem(
                &span,
                format!("`{key}` cannot be \"{text}\""),
                words::suggest(text, choices, "choices"),
            );
        }
        index
    }

    /// Overrides `limits` with what this table says; keys that `scopes` leaves out are refused with the reason.
    pub(super) fn limits(&mut self, limits: &mut Limits, scopes: &[Scope]) {
        let known: Vec<&str> = LIMITS
            .iter()
            .filter(|limit| scopes.contains(&limit.scope))
            .map(|limit| limit.name)
            .collect();
        for entry in &self.table.entries {
            match Limit::named(&entry.key) {
                Some(limit) if scopes.contains(&limit.scope) => self.limit(limits, limit, entry),
                Some(_) => self.problem(
                    &entry.key_span,
                    format!("`{}` binds the whole host, not one instance", entry.key),
                    "state it below [host.limits]",
                ),
                None => {
                    let help = words::suggest(&entry.key, &known, "limits");
                    self.problem(&entry.key_span, format!("unknown limit `{}`", entry.key), help);
                }
            }
        }
    }

    fn limit(&mut self, limits: &mut Limits, limit: &Limit, entry: &Entry) {
        let range =
            format!("write a value from {} to {}", limit.show(limit.min), limit.show(limit.max));
        let value = match (&entry.value.data, limit.unit()) {
            (Data::Integer(number), _) => u64::try_from(*number).ok(),
            (Data::String(text), Unit::Bytes) => units::size(text),
            (Data::String(text), Unit::Milliseconds) => units::duration(text),
            _ => None,
        };
        match value.filter(|value| (limit.min..=limit.max).contains(value)) {
            Some(value) => (limit.set)(limits, value),
            None => self.problem(
                &entry.value.span,
                format!("`{}` is out of its range", limit.name),
                range,
            ),
        }
    }

    fn wrong<T>(&mut self, key: &str, value: &Value, expected: &str, help: &str) -> Option<T> {
        self.problem(
            &value.span,
            format!("`{key}` must be {expected}, this is {}", value.describe()),
            help,
        );
        None
    }
}
