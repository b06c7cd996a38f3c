//! The metrics, in Prometheus's text format 0.0.4.
//!
//! An instance's label is `name`: `instance` is what Prometheus itself calls the server that it asks.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::Value;

use crate::{
    figures::{self, Durations, Figure, Kind, QUANTILES, number, seconds},
    gather::{Entry, Fields, Report, text},
};

/// Of the text.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Before the names of what plugins count of their own.
const OF_PLUGINS: &str = "medusa_plugin_";

/// The states that there are; others are a newer host's.
const STATES: [&str; 7] =
    ["starting", "running", "waiting", "draining", "quarantined", "pinned", "failed"];

/// Labels by name, and a number.
type Sample<'a> = (Vec<(&'a str, String)>, String);

/// The whole text.
pub(crate) fn metrics(report: &Report) -> String {
    let mut text = Text::default();
    if let Ok(host) = &report.host {
        text.of_host(host);
    }
    text.of_instances(&report.instances);
    text.of_plugins(&report.instances);
    text.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn of_host(&mut self, host: &Fields) {
        let labels = vec![("version", text(host, "version"))];
        self.family(
            "medusa_build_info",
            "gauge",
            "The host's version.",
            [(labels, "1".to_owned())],
        );
        for figure in figures::HOST {
            let sample = figure.of(host).map(|value| (Vec::new(), figure.sample(value)));
            self.figure(figure, sample);
        }
    }

    fn of_instances(&mut self, entries: &[Entry]) {
        let told = |is_told: bool| if is_told { "0" } else { "1" }.to_owned();
        let failed = entries.iter().map(|entry| (named(entry), told(entry.figures.is_ok())));
        self.family(
            "medusa_instance_figures_failed",
            "gauge",
            "1 if its figures could not be had, so that it has no others here.",
            failed,
        );
        let known = || entries.iter().filter_map(|it| Some((it, it.known()?)));
        let info = known().map(|(entry, fields)| {
            let mut labels = named(entry);
            labels.push(("library", text(fields, "library")));
            labels.push(("version", text(fields, "version")));
            (labels, "1".to_owned())
        });
        self.family("medusa_instance_info", "gauge", "What it is made of.", info);
        let states = known().flat_map(|(entry, fields)| {
            let state = text(fields, "state");
            let other = Some(state.clone()).filter(|state| !STATES.contains(&state.as_str()));
            let states = STATES.map(str::to_owned).into_iter().chain(other);
            states.map(move |one| {
                let value = if one == state { "1" } else { "0" }.to_owned();
                let mut labels = named(entry);
                labels.push(("state", one));
                (labels, value)
            })
        });
        self.family("medusa_instance_state", "gauge", "1 for the state that it is in.", states);
        for figure in figures::INSTANCE.iter().chain(figures::INSTANCE_MORE) {
            let samples = known().filter_map(|(entry, fields)| {
                Some((named(entry), figure.sample(figure.of(fields)?)))
            });
            self.figure(figure, samples);
        }
        for durations in figures::INSTANCE_DURATIONS {
            let told = known().filter_map(|(entry, fields)| Some((entry, durations.of(fields)?)));
            self.durations(durations, told);
        }
        let listeners = known().flat_map(|(entry, fields)| {
            list(fields, "listeners").map(|listener| {
                let mut labels = named(entry);
                labels.push(("address", word(listener, "address").to_owned()));
                (labels, listener["accepted"].as_u64().unwrap_or_default().to_string())
            })
        });
        self.family(
            "medusa_listener_accepted_total",
            "counter",
            "Connections that came in by an address, since it was bound.",
            listeners,
        );
    }

    /// What plugins count of their own: one family for all that have it by the same name.
    fn of_plugins(&mut self, entries: &[Entry]) {
        let mut families = BTreeMap::<&str, Vec<(&Entry, &Value)>>::new();
        for entry in entries {
            let Some(fields) = entry.known() else { continue };
            for metric in list(fields, "metrics") {
                families.entry(word(metric, "name")).or_default().push((entry, metric));
            }
        }
        for (name, members) in families.into_iter().filter(|(name, _)| is_name(name)) {
            let first = members[0].1;
            let is_one_kind = members.iter().all(|(_, it)| it["kind"] == first["kind"]);
            let kind = match word(first, "kind") {
                kind @ ("counter" | "gauge") if is_one_kind => kind,
                // Two plugins mean something else by the name.
                _ => "untyped",
            };
            let samples = members.iter().map(|(entry, metric)| {
                (named(entry), metric["value"].as_u64().unwrap_or_default().to_string())
            });
            self.family(&format!("{OF_PLUGINS}{name}"), kind, word(first, "help"), samples);
        }
    }

    fn figure<'a>(&mut self, figure: &Figure, samples: impl IntoIterator<Item = Sample<'a>>) {
        let kind = match figure.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.family(figure.metric, kind, figure.help, samples);
    }

    /// A summary, and the longest, which has no place in one.
    fn durations<'a>(
        &mut self,
        durations: &Durations,
        told: impl Iterator<Item = (&'a Entry, &'a Fields)> + Clone,
    ) {
        let name = format!("{}_seconds", durations.metric);
        let samples = told.clone().flat_map(|(entry, fields)| {
            let quantiles = QUANTILES.into_iter().map(move |(field, quantile, _)| {
                let mut labels = named(entry);
                labels.push(("quantile", quantile.to_owned()));
                ("", labels, seconds(number(fields, field)))
            });
            let sum = ("_sum", named(entry), seconds(number(fields, "total_ns")));
            let count = ("_count", named(entry), number(fields, "count").to_string());
            quantiles.chain([sum, count])
        });
        self.suffixed(&name, "summary", durations.help, samples);
        let longest =
            told.map(|(entry, fields)| (named(entry), seconds(number(fields, "longest_ns"))));
        let help = format!("{} The longest.", durations.help);
        self.family(&format!("{}_longest_seconds", durations.metric), "gauge", &help, longest);
    }

    /// A metric with all of its samples, which have to stand together. Nothing if there are none.
    fn family<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        let samples = samples.into_iter().map(|(labels, value)| ("", labels, value));
        self.suffixed(name, kind, help, samples);
    }

    /// As [`Text::family`], with samples whose names have an end of their own.
    fn suffixed<'a>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        samples: impl Iterator<Item = (&'static str, Vec<(&'a str, String)>, String)>,
    ) {
        let mut samples = samples.peekable();
        if samples.peek().is_none() {
            return;
        }
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for (end, labels, value) in samples {
            self.line(format_args!("{name}{end}"));
            for (index, (label, text)) in labels.iter().enumerate() {
                let before = if index == 0 { '{' } else { ',' };
                self.line(format_args!("{before}{label}=\"{}\"", escaped(text)));
            }
            let after = if labels.is_empty() { "" } else { "}" };
            self.line(format_args!("{after} {value}\n"));
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String cannot fail");
    }
}

/// The value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn named(entry: &Entry) -> Vec<(&'static str, String)> {
    vec![("name", entry.name.clone())]
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The members of a list; none if there is no such list.
pub(crate) fn list<'a>(fields: &'a Fields, name: &str) -> impl Iterator<Item = &'a Value> {
    fields.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn word<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(name: &str, fields: Value) -> Entry {
        let figures = Ok(serde_json::from_value(fields).unwrap());
        Entry { name: name.to_owned(), figures, block: None }
    }

    #[test]
    fn text_is_escaped_and_families_stand_together() {
        let metric = |kind: &str, help: &str| json!({ "name": "x_total", "kind": kind, "value": 7, "help": help });
        let instances = vec![
            entry(
                "a\"b\\c\nd",
                json!({ "library": "l", "requests": 1, "metrics": [metric("counter", "A\\B\nC")] }),
            ),
            entry(
                "e",
                json!({ "library": "l", "requests": 2, "metrics": [metric("gauge", "other")] }),
            ),
            Entry { name: "f".into(), figures: Err("no".into()), block: None },
        ];
        let host = json!({ "version": "1", "uptime_ms": 1050 });
        let report = Report { host: Ok(serde_json::from_value(host).unwrap()), instances };
        let text = metrics(&report);
        let has = |part: &str| assert!(text.contains(part), "{part} in {text}");
        has("\nmedusa_uptime_seconds 1.050\n");
        has(
            "# TYPE medusa_instance_requests_total counter\nmedusa_instance_requests_total{name=\"a\\\"b\\\\c\\nd\"} 1\n\
             medusa_instance_requests_total{name=\"e\"} 2\n# ",
        );
        has("# HELP medusa_plugin_x_total A\\\\B\\nC\n# TYPE medusa_plugin_x_total untyped\n");
        has("medusa_instance_figures_failed{name=\"f\"} 1\n");
        assert_eq!(text.matches("name=\"f\"").count(), 1);
        assert!(!text.contains("medusa_panics_total"), "what is not told is not zero");
    }
}
