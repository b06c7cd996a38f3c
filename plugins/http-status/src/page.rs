//! The page.

use std::{
    fmt::{Display, Write as _},
    iter,
};

use medusa_plugin_api::Escaped;
use serde_json::Value;

use crate::{
    figures::{self, QUANTILES, number},
    gather::{Entry, Fields, Report, Told, text},
    health,
    metrics::list,
    words::{count, moment, shown},
};

/// The most lines of what an instance shows of its own.
const LINES_MAX: usize = 100;

const STYLE: &str = include_str!("page.css");

/// The page about `report`, mounted at `mount`.
pub(crate) fn page(report: &Report, mount: &str, refresh_s: u64) -> String {
    let mut page = Page(String::with_capacity(8 * 1024));
    page.add("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    page.add("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    if refresh_s > 0 {
        page.add(format_args!("<meta http-equiv=\"refresh\" content=\"{refresh_s}\">"));
    }
    page.add(format_args!("<title>medusa: status</title><style>{STYLE}</style></head>\n<body>\n"));
    page.head(report);
    page.add("<main>\n");
    page.host(&report.host);
    page.instances(&report.instances);
    for durations in figures::INSTANCE_DURATIONS {
        page.durations(durations, &report.instances);
    }
    page.add("<h2>Details</h2>\n");
    report.instances.iter().for_each(|entry| page.details(entry));
    page.add("</main>\n");
    page.foot(mount, refresh_s);
    page.0
}

struct Page(String);

impl Page {
    fn add(&mut self, text: impl Display) {
        write!(self.0, "{text}").expect("writing to a String cannot fail");
    }

    fn head(&mut self, report: &Report) {
        self.add("<header><h1>medusa</h1>");
        if let Ok(host) = &report.host {
            self.add(format_args!(
                "<p>{}, process {}</p>",
                Escaped(&text(host, "version")),
                host.get("pid").and_then(Value::as_u64).unwrap_or_default()
            ));
        }
        let (is_good, said) = health::health(report);
        let ill = said["not_running"].as_array().map(Vec::len).unwrap_or_default();
        let verdict = match (is_good, ill) {
            (true, _) => "All instances are running.".to_owned(),
            (false, 0) => format!("The host is {}.", said["host"].as_str().unwrap_or("unknown")),
            (false, 1) => "One instance is not running.".to_owned(),
            (false, ill) => format!("{ill} instances are not running."),
        };
        let class = if is_good { "good" } else { "bad" };
        self.add(format_args!("<p class=\"verdict {class}\">{}</p></header>\n", Escaped(&verdict)));
    }

    fn host(&mut self, host: &Told) {
        self.add("<section aria-labelledby=\"host\"><h2 id=\"host\">Host</h2>\n");
        match host {
            Ok(fields) => {
                self.add("<dl class=\"figures\">");
                figures::HOST.iter().for_each(|figure| self.figure(figure, fields));
                self.add("</dl>\n");
            }
            Err(reason) => self.failed("The host's figures", reason),
        }
        self.add("</section>\n");
    }

    fn figure(&mut self, figure: &figures::Figure, fields: &Fields) {
        if let Some(value) = figure.of(fields).filter(|_| !figure.label.is_empty()) {
            self.term(figure.label, &shown(value, figure.unit));
        }
    }

    fn term(&mut self, name: &str, value: &str) {
        self.add(format_args!("<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(value)));
    }

    fn failed(&mut self, what: &str, reason: &str) {
        self.add(format_args!(
            "<p class=\"failed\" role=\"alert\"><strong>{} cannot be shown.</strong> {}</p>\n",
            Escaped(what),
            Escaped(reason)
        ));
    }

    /// A line for each instance.
    fn instances(&mut self, entries: &[Entry]) {
        self.add("<section aria-labelledby=\"instances\"><h2 id=\"instances\">Instances</h2>\n");
        self.table(["state"].into_iter(), figures::INSTANCE.iter().map(|figure| figure.label));
        entries.iter().for_each(|entry| self.row(entry));
        self.add("</tbody></table>\n</section>\n");
    }

    /// A line for each instance that has any of these durations.
    fn durations(&mut self, durations: &figures::Durations, entries: &[Entry]) {
        let told = |entry| Some((entry, durations.of(Entry::known(entry)?)?));
        let told: Vec<_> =
            entries.iter().filter_map(told).filter(|(_, told)| number(told, "count") > 0).collect();
        if told.is_empty() {
            return;
        }
        let (id, title, help) = (durations.field, durations.title, durations.help);
        self.add(format_args!(
            "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{title}</h2>\n<p>{help} So many of them took no longer than:</p>\n"
        ));
        let spread = QUANTILES.map(|(field, _, label)| (field, label)).into_iter();
        let spread = spread.chain([("longest_ns", "longest")]);
        self.table(
            iter::empty(),
            ["number"].into_iter().chain(spread.clone().map(|(_, label)| label)),
        );
        for (entry, told) in told {
            self.add("<tr role=\"row\"><th role=\"rowheader\" scope=\"row\">");
            self.add(format_args!("{}</th>", Escaped(&entry.name)));
            self.cell("number", &count(number(told, "count")));
            spread
                .clone()
                .for_each(|(field, label)| self.cell(label, &moment(number(told, field))));
            self.add("</tr>\n");
        }
        self.add("</tbody></table>\n</section>\n");
    }

    /// Begins a table. The roles are those that the elements have anyway, and lose where they are laid out otherwise.
    fn table<'a>(
        &mut self,
        texts: impl Iterator<Item = &'a str>,
        numbers: impl Iterator<Item = &'a str>,
    ) {
        self.add("<table role=\"table\"><thead role=\"rowgroup\"><tr role=\"row\">");
        let columns = ["name"].into_iter().chain(texts).map(|label| (label, ""));
        for (label, class) in columns.chain(numbers.map(|label| (label, " class=\"number\""))) {
            self.add(format_args!("<th role=\"columnheader\" scope=\"col\"{class}>{label}</th>"));
        }
        self.add("</tr></thead>\n<tbody role=\"rowgroup\">\n");
    }

    fn cell(&mut self, label: &str, value: &str) {
        self.add(format_args!(
            "<td role=\"cell\" class=\"number\" data-label=\"{label}\">{value}</td>"
        ));
    }

    fn row(&mut self, entry: &Entry) {
        let name = Escaped(&entry.name);
        let class = if health::ill(entry).is_some() { " class=\"bad\"" } else { "" };
        self.add(format_args!(
            "<tr role=\"row\"{class}><th role=\"rowheader\" scope=\"row\">{name}"
        ));
        let fields = match &entry.figures {
            Ok(fields) => fields,
            Err(reason) => {
                let columns = 1 + figures::INSTANCE.len();
                self.add(format_args!(
                    "</th><td role=\"cell\" colspan=\"{columns}\" class=\"wide\">"
                ));
                self.failed("Its figures", reason);
                return self.add("</td></tr>\n");
            }
        };
        let (library, version) = (text(fields, "library"), text(fields, "version"));
        self.add(format_args!("<small>{} {}</small></th>", Escaped(&library), Escaped(&version)));
        let state = text(fields, "state");
        let state = Escaped(&state);
        self.add(format_args!(
            "<td role=\"cell\" data-label=\"state\"><span class=\"state {state}\">{state}</span></td>"
        ));
        for figure in figures::INSTANCE {
            let value =
                figure.of(fields).map(|value| shown(value, figure.unit)).unwrap_or_default();
            self.cell(figure.label, &value);
        }
        self.add("</tr>\n");
    }

    /// All that there is about an instance beside its line.
    fn details(&mut self, entry: &Entry) {
        let mut parts = Page(String::new());
        if let Ok(fields) = &entry.figures {
            parts.about(fields);
        }
        match &entry.block {
            None => {}
            Some(Ok(shown)) => parts.block(shown),
            Some(Err(reason)) => parts.failed("What it shows of its own", reason),
        }
        if !parts.0.is_empty() {
            self.add(format_args!(
                "<section class=\"instance\"><h3>{}</h3>\n",
                Escaped(&entry.name)
            ));
            self.add(parts.0);
            self.add("</section>\n");
        }
    }

    fn about(&mut self, fields: &Fields) {
        let reason = text(fields, "reason");
        if !reason.is_empty() {
            self.add(format_args!("<p class=\"reason\">{}</p>\n", Escaped(&reason)));
        }
        let mut terms = Page(String::new());
        let attach = text(fields, "attach");
        if !attach.is_empty() {
            terms.term("extends", &attach);
        }
        for listener in list(fields, "listeners") {
            let address = listener["address"].as_str().unwrap_or_default();
            let accepted = count(listener["accepted"].as_u64().unwrap_or_default());
            terms.term("listens on", &format!("{address} ({accepted} accepted)"));
        }
        let generations: Vec<&Value> = list(fields, "generations").collect();
        if generations.len() > 1 {
            for one in generations {
                let number = |name: &str| count(one[name].as_u64().unwrap_or_default());
                let said = format!(
                    "{} {}, {} connections",
                    one["version"].as_str().unwrap_or_default(),
                    one["state"].as_str().unwrap_or_default(),
                    number("connections")
                );
                terms.term(&format!("generation {}", number("generation")), &said);
            }
        }
        for figure in figures::INSTANCE_MORE {
            // Of so many, those that are nothing say nothing.
            if figure.of(fields) != Some(0) {
                terms.figure(figure, fields);
            }
        }
        for metric in list(fields, "metrics") {
            let name = metric["name"].as_str().unwrap_or_default();
            terms.term(name, &count(metric["value"].as_u64().unwrap_or_default()));
        }
        if !terms.0.is_empty() {
            self.add(format_args!("<dl>{}</dl>\n", terms.0));
        }
    }

    fn block(&mut self, shown: &Fields) {
        self.add("<dl class=\"own\">");
        for (name, value) in shown.iter().take(LINES_MAX) {
            match value {
                Value::String(text) => self.term(name, text),
                Value::Null => self.term(name, ""),
                value => match value.as_u64() {
                    Some(number) => self.term(name, &count(number)),
                    None => self.term(name, &value.to_string()),
                },
            }
        }
        self.add("</dl>\n");
        if shown.len() > LINES_MAX {
            self.add(format_args!("<p>It shows {} lines more.</p>\n", shown.len() - LINES_MAX));
        }
    }

    fn foot(&mut self, mount: &str, refresh_s: u64) {
        let mount = Escaped(mount);
        self.add(format_args!(
            "<footer><nav><a href=\"{mount}/status.json\">JSON</a> <a href=\"{mount}/metrics\">metrics</a> \
             <a href=\"{mount}/health\">health</a></nav>"
        ));
        if refresh_s > 0 {
            self.add(format_args!("<p>Asks again every {refresh_s} s.</p>"));
        }
        self.add("</footer>\n</body></html>\n");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_that_fails_leaves_the_others_and_names_are_escaped() {
        let figures = json!({
            "library": "<i>", "state": "running", "requests": 1234, "metrics": [], "is_loaded": true
        });
        let entry = |name: &str| Entry {
            name: name.to_owned(),
            figures: Ok(serde_json::from_value(figures.clone()).unwrap()),
            block: None,
        };
        let mut instances = vec![entry("<script>"), entry("b"), entry("c"), entry("d")];
        instances[1].figures = Err("no <figures>".to_owned());
        instances[2].block = Some(Err("it & died".to_owned()));
        let shown = json!({ "sites": 3, "word": "<x>", "list": [1, 2], "no": null });
        instances[3].block = Some(Ok(serde_json::from_value(shown).unwrap()));
        let page = page(&Report { host: Err("gone".into()), instances }, "/status", 0);
        let has = |part: &str| assert!(page.contains(part), "{part} in {page}");
        assert!(!page.contains("<script") && !page.contains("<i>") && !page.contains("<x>"));
        assert!(!page.contains("http-equiv"));
        has("&lt;script&gt;<small>&lt;i&gt; </small>");
        has("Its figures cannot be shown.</strong> no &lt;figures&gt;");
        has("What it shows of its own cannot be shown.</strong> it &amp; died");
        has("The host's figures cannot be shown.</strong> gone".replace('\'', "&#39;").as_str());
        has("<dt>sites</dt><dd>3</dd>");
        has("<dt>list</dt><dd>[1,2]</dd>");
        assert_eq!(page.matches("data-label=\"requests\">1\u{202f}234<").count(), 3);
    }
}
