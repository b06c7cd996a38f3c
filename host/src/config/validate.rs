//! Checks `[plugin.config]` against the plugin's schema, and makes of it what the plugin sees: one CBOR map.
//!
//! Defaults are filled in, paths made absolute, sizes turned into bytes and durations into milliseconds.

use ciborium::Value as Cbor;

use crate::config::{
    Diagnostic, Diagnostics, Instance, Source,
    schema::{Field, Kind, Schema},
    source::Span,
    units,
    value::{Data, Table, Value},
    words,
};

/// Checks an instance's configuration; the result is a map from field names to values.
pub fn validate(schema: &Schema, instance: &Instance) -> Result<Cbor, Diagnostics> {
    let mut problems = Diagnostics::new(&instance.source);
    let empty = Table::default();
    let mut validator = Validator { source: &instance.source, problems: &mut problems };
    let place = Place { path: "[plugin.config]".to_owned(), header: instance.header.clone() };
    let map = validator.table(schema, instance.config.as_ref().unwrap_or(&empty), &place);
    problems.or(map)
}

struct Validator<'a> {
    source: &'a Source,
    problems: &'a mut Diagnostics,
}

/// A table for messages: what it is called, and where a missing key is reported.
struct Place {
    path: String,
    header: Span,
}

impl Validator<'_> {
    fn table(&mut self, schema: &Schema, table: &Table, place: &Place) -> Cbor {
        let known: Vec<&str> = schema.fields.iter().map(|field| field.name.as_str()).collect();
        for entry in table.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
            let help = match known[..] {
                [] => "there is nothing to be set here; remove it".to_owned(),
                _ => words::suggest(&entry.key, &known, "keys here"),
            };
            let message = format!("unknown key `{}` in {}", entry.key, place.path);
            self.problem(&entry.key_span, message, help);
        }
        let mut map = Vec::new();
        for field in &schema.fields {
            let value = match table.get(&field.name) {
                Some(value) => Some(self.field(field, value)),
                None => self.absent(field, place),
            };
            map.extend(value.map(|value| (Cbor::Text(field.name.clone()), value)));
        }
        Cbor::Map(map)
    }

    /// What stands for a key that is not there.
    fn absent(&mut self, field: &Field, place: &Place) -> Option<Cbor> {
        if let Some(default) = &field.default {
            return self.default(field, default, place);
        }
        if field.required {
            let message = format!("{} needs `{}`", place.path, field.name);
            let mut help = format!("add `{} = {}` below it", field.name, example(&field.kind));
            if !field.doc.is_empty() {
                help += &format!(": {}", field.doc);
            }
            self.problem(&place.header, message, help);
        }
        None
    }

    /// A default goes the way of a value in the file; one that does not fit is the plugin's fault, and said to be.
    fn default(
        &mut self,
        field: &Field,
        default: &serde_json::Value,
        place: &Place,
    ) -> Option<Cbor> {
        let value = Value::from_json(default, &place.header)?;
        let mut problems = Diagnostics::new(&Source::new("", self.source.folder.clone(), ""));
        let cbor = Validator { source: self.source, problems: &mut problems }.field(field, &value);
        if let Some(message) = problems.messages().next() {
            let message =
                format!("the plugin's own default for `{}` does not fit: {message}", field.name);
            let help =
                format!("set `{}` in {}, and tell the plugin's author", field.name, place.path);
            self.problem(&place.header, message, help);
        }
        Some(cbor)
    }

    fn field(&mut self, field: &Field, value: &Value) -> Cbor {
        let before = self.problems.len();
        let cbor = self.value(&field.kind, value, &field.name);
        if self.problems.len() == before {
            self.range(field, &cbor, &value.span);
        }
        cbor
    }

    /// The value as the plugin sees it; null, with a problem noted, where it is not of that kind.
    fn value(&mut self, kind: &Kind, value: &Value, name: &str) -> Cbor {
        match (kind, &value.data) {
            (Kind::Bool, Data::Bool(bool)) => Cbor::Bool(*bool),
            (Kind::Integer, Data::Integer(integer)) => Cbor::Integer((*integer).into()),
            (Kind::Float, Data::Float(float)) => Cbor::Float(*float),
            (Kind::Float, Data::Integer(integer)) => Cbor::Float(*integer as f64),
            (Kind::String, Data::String(text)) => Cbor::Text(text.clone()),
            (Kind::Path, Data::String(text)) if !text.is_empty() && !text.contains('\0') => {
                self.path(text, value, name)
            }
            (Kind::Size | Kind::Duration, Data::Integer(number @ 0..)) => {
                Cbor::Integer((*number).into())
            }
            (Kind::Size, Data::String(text)) => {
                self.unit(units::size(text), value, name, units::SIZE_HELP)
            }
            (Kind::Duration, Data::String(text)) => {
                self.unit(units::duration(text), value, name, units::DURATION_HELP)
            }
            (Kind::List(kind), Data::List(list)) => {
                Cbor::Array(list.iter().map(|element| self.value(kind, element, name)).collect())
            }
            (Kind::Table(schema), Data::Table(table)) => {
                let place = Place { path: format!("`{name}`"), header: value.span.clone() };
                self.table(schema, table, &place)
            }
            (Kind::OneOf(choices), Data::String(text)) if choices.contains(text) => {
                Cbor::Text(text.clone())
            }
            (Kind::OneOf(choices), Data::String(text)) => {
                let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
                let message = format!("`{name}` cannot be {}", words::quote(text));
                self.refuse(value, message, words::suggest(text, &choices, "choices"))
            }
            _ => {
                let message =
                    format!("`{name}` must be {}, this is {}", expected(kind), value.describe());
                self.refuse(value, message, format!("write it as in `{name} = {}`", example(kind)))
            }
        }
    }

    fn path(&mut self, text: &str, value: &Value, name: &str) -> Cbor {
        match self.source.path(text).to_str() {
            Some(path) => Cbor::Text(path.to_owned()),
            None => {
                let message = format!("`{name}` is below a folder whose name is not UTF-8");
                self.refuse(
                    value,
                    message,
                    "write an absolute path, or move the configuration".to_owned(),
                )
            }
        }
    }

    fn unit(&mut self, number: Option<u64>, value: &Value, name: &str, help: &str) -> Cbor {
        match number {
            Some(number) => Cbor::Integer(number.into()),
            None => self.refuse(
                value,
                format!("`{name}` has a unit that is not known, or no number"),
                help.to_owned(),
            ),
        }
    }

    fn range(&mut self, field: &Field, cbor: &Cbor, span: &Span) {
        let (measure, of) = match cbor {
            Cbor::Integer(integer) => (i128::from(*integer) as f64, ""),
            Cbor::Float(float) => (*float, ""),
            Cbor::Text(text) => (text.chars().count() as f64, "the length of "),
            Cbor::Array(list) => (list.len() as f64, "the number of entries of "),
            _ => return,
        };
        let show = |bound: f64| show_bound(&field.kind, bound);
        // TOML has `nan`, which is in no range.
        if let Some(min) = field.min.filter(|min| measure.is_nan() || measure < *min) {
            self.problem(
                span,
                format!("{of}`{}` is below {}", field.name, show(min)),
                range_help(field),
            );
        } else if let Some(max) = field.max.filter(|max| measure.is_nan() || measure > *max) {
            self.problem(
                span,
                format!("{of}`{}` is above {}", field.name, show(max)),
                range_help(field),
            );
        }
    }

    fn refuse(&mut self, value: &Value, message: String, help: String) -> Cbor {
        self.problem(&value.span, message, help);
        Cbor::Null
    }

    fn problem(&mut self, span: &Span, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Diagnostic::new(span.clone(), message, help));
    }
}

fn range_help(field: &Field) -> String {
    let show = |bound: f64| show_bound(&field.kind, bound);
    match (field.min, field.max) {
        (Some(min), Some(max)) => format!("it may be from {} to {}", show(min), show(max)),
        (Some(min), None) => format!("it must be at least {}", show(min)),
        (None, Some(max)) => format!("it must be at most {}", show(max)),
        (None, None) => String::new(),
    }
}

fn show_bound(kind: &Kind, bound: f64) -> String {
    match kind {
        Kind::Size if bound >= 0.0 => units::show_size(bound as u64),
        Kind::Duration if bound >= 0.0 => units::show_duration(bound as u64),
        _ => bound.to_string(),
    }
}

fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer => "an integer".to_owned(),
        Kind::Float => "a number".to_owned(),
        Kind::String => "a string".to_owned(),
        Kind::Path => "a path".to_owned(),
        Kind::Size => "a size".to_owned(),
        Kind::Duration => "a duration".to_owned(),
        Kind::List(_) => "an array".to_owned(),
        Kind::Table(_) => "a table".to_owned(),
        Kind::OneOf(choices) => {
            format!(
                "one of {}",
                words::list(&choices.iter().map(String::as_str).collect::<Vec<_>>())
            )
        }
    }
}

fn example(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "true".to_owned(),
        Kind::Integer => "10".to_owned(),
        Kind::Float => "1.5".to_owned(),
        Kind::String => "\"…\"".to_owned(),
        Kind::Path => "\"folder/file\"".to_owned(),
        Kind::Size => "\"64 KiB\"".to_owned(),
        Kind::Duration => "\"30 s\"".to_owned(),
        Kind::List(kind) => format!("[{}]", example(kind)),
        Kind::Table(schema) => {
            let required =
                schema.fields.iter().filter(|field| field.required && field.default.is_none());
            let keys: Vec<String> = required
                .map(|field| format!("{} = {}", field.name, example(&field.kind)))
                .collect();
            if keys.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", keys.join(", ")) }
        }
        Kind::OneOf(choices) => words::quote(choices.first().map_or("", String::as_str)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const SCHEMA: &str = r#"{"fields":[
        {"name":"root","type":"path","required":true,"doc":"The folder to serve"},
        {"name":"buffer","type":"size","default":"64 KiB","min":1024,"max":1048576},
        {"name":"idle","type":"duration","default":"30 s"},
        {"name":"on","type":"bool","default":true},
        {"name":"count","type":"integer","min":1},
        {"name":"rate","type":"float"},
        {"name":"title","type":"string","max":5},
        {"name":"mode","type":{"one_of":["off","read"]},"default":"off"},
        {"name":"index","type":{"list":"string"},"default":["index.html"],"max":2},
        {"name":"user","type":{"list":{"table":{"fields":[
            {"name":"name","type":"string","required":true},{"name":"root","type":"path","default":"home"}]}}}},
        {"name":"cache","type":{"table":{"fields":[{"name":"size","type":"size","default":16}]}},"default":{}}
    ]}"#;

    fn instance(config: &str) -> Instance {
        let text =
            format!("[[plugin]]\nname = \"a\"\nlibrary = \"x\"\n[plugin.config]\n{config}\n");
        Config::parse(&Source::new("medusa.toml", "/srv", text)).unwrap().instances.remove(0)
    }

    fn result(config: &str) -> Result<serde_json::Value, Diagnostics> {
        let cbor = validate(&serde_json::from_str(SCHEMA).unwrap(), &instance(config))?;
        Ok(cbor.deserialized().unwrap())
    }

    #[test]
    fn defaults_are_filled_in_and_units_turned_into_numbers() {
        let check = |config: &str, pointer: &str, expected: serde_json::Value| {
            let json = result(config).unwrap();
            assert_eq!(json.pointer(pointer), Some(&expected), "{config}: {json}");
        };
        check("root = \"site\"", "/root", "/srv/site".into());
        check("root = \"/a\"", "/root", "/a".into());
        check("root = \"/a\"", "/buffer", 65536.into());
        check("root = \"/a\"", "/idle", 30_000.into());
        check("root = \"/a\"", "/on", true.into());
        check("root = \"/a\"", "/index/0", "index.html".into());
        check("root = \"/a\"", "/cache/size", 16.into());
        check("root = \"/a\"\nbuffer = 2048\nidle = 5", "/buffer", 2048.into());
        check("root = \"/a\"\nrate = 2", "/rate", 2.0.into());
        check("root = \"/a\"\ncache.size = \"1 MiB\"", "/cache/size", 1_048_576.into());
        check(
            "root = \"/a\"\n[[plugin.config.user]]\nname = \"u\"",
            "/user/0/root",
            "/srv/home".into(),
        );
        assert_eq!(result("root = \"/a\"").unwrap().get("count"), None);
    }

    #[test]
    fn what_does_not_fit_is_told_with_a_mend() {
        let check = |config: &str, expected: &[&str]| {
            let problems = result(config).unwrap_err();
            let text = problems.render(false);
            assert!(expected.iter().all(|part| text.contains(part)), "{config}\n{text}");
        };
        check(
            "",
            &[
                "[plugin.config] needs `root`",
                "1 | [[plugin]]",
                "add `root = \"folder/file\"`",
                "The folder to serve",
            ],
        );
        check("rot = \"/a\"", &["unknown key `rot`", "did you mean `root`?", "needs `root`"]);
        check("root = 1", &["`root` must be a path, this is an integer"]);
        check("root = \"\"", &["`root` must be a path"]);
        check("root = \"a\"\nbuffer = \"64 kb\"", &["unit that is not known", "KiB"]);
        check("root = \"a\"\nbuffer = \"1 KB\"", &["not known"]);
        check("root = \"a\"\nbuffer = 5", &["`buffer` is below 1 KiB", "from 1 KiB to 1 MiB"]);
        check("root = \"a\"\nbuffer = \"2 MiB\"", &["`buffer` is above 1 MiB"]);
        check("root = \"a\"\nidle = -1", &["`idle` must be a duration"]);
        check("root = \"a\"\ncount = 0", &["`count` is below 1", "at least 1"]);
        check("root = \"a\"\ntitle = \"abcdef\"", &["the length of `title` is above 5"]);
        check("root = \"a\"\nmode = \"raed\"", &["cannot be \"raed\"", "did you mean `read`?"]);
        check("root = \"a\"\nindex = \"x\"", &["`index` must be an array, this is a string"]);
        check("root = \"a\"\nindex = [1]", &["`index` must be a string, this is an integer"]);
        check(
            "root = \"a\"\nindex = [\"1\", \"2\", \"3\"]",
            &["number of entries of `index` is above 2"],
        );
        check(
            "root = \"a\"\n[[plugin.config.user]]\nnam = \"u\"",
            &["unknown key `nam` in `user`", "`user` needs `name`"],
        );
        check("root = \"a\"\non = \"yes\"", &["`on` must be true or false, this is a string"]);
    }

    #[test]
    fn a_default_that_does_not_fit_is_the_plugins_fault() {
        let schema =
            serde_json::from_str(r#"{"fields":[{"name":"a","type":"bool","default":3}]}"#).unwrap();
        let text = validate(&schema, &instance("")).unwrap_err().render(false);
        assert!(text.contains("the plugin's own default for `a` does not fit"), "{text}");
    }
}
