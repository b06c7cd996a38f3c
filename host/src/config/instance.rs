//! `[[plugin]]`: a library under a name of its own, where it listens, and what it extends.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::config::{
    Config,
    address::{Address, Listen},
    diagnostic::Diagnostics,
    limits::{Limits, Scope},
    section::{Section, Text},
    source::{Source, Span},
    value::{Data, Table, Value},
    words,
};

/// One configured instance.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Unique among the instances.
    pub name: String,
    /// The library: a name in `plugin_dir`, or a path if it has a slash. `Config::library` makes a path of it.
    pub library: String,
    /// Where it listens.
    pub listen: Vec<Listen>,
    /// The instance that it extends.
    pub attach: Option<String>,
    /// The host name that it is narrowed to, in lower case; `*.example.org` are all names below `example.org`, at any depth, and not
    /// that name itself (as in nginx; a certificate's `*` is one label only).
    pub host: Option<String>,
    /// The path that it is mounted at; begins with a slash.
    pub path: Option<String>,
    /// Its place among handlers of equal path, and among filters; smaller comes first.
    pub order: i32,
    /// Whether it is started with the host.
    pub enabled: bool,
    /// The limits in force for it.
    pub limits: Limits,
    /// `[plugin.config]`, to be checked against the plugin's schema.
    pub config: Option<Table>,
    /// The text that it comes from.
    pub source: Rc<Source>,
    /// The line `[[plugin]]`, for messages about what is missing.
    pub header: Span,
    pub(super) places: Places,
}

/// An instance as the words of a `load` command describe it.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the fields are those of `Instance`, not parsed yet")]
pub struct AdHoc {
    pub name: String,
    pub library: String,
    pub listen: Vec<String>,
    pub attach: Option<String>,
    pub host: Option<String>,
    pub path: Option<String>,
    pub order: Option<i64>,
    /// `key=value`; the value is TOML where it can be read as that, else text.
    pub set: Vec<(String, String)>,
}

/// Where the parts stand that are checked against other instances.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub name: Span,
    pub library: Span,
    pub attach: Span,
    pub listen: Vec<Span>,
    /// The `tls` of each entry of `listen`.
    pub tls: Vec<Span>,
}

pub(super) const KEYS: &[&str] = &[
    "name", "library", "listen", "attach", "host", "path", "order", "enabled", "config", "limits",
];

impl Instance {
    /// Makes an instance of a `load` command's words. Relative paths are relative to `folder`; limits, and the TLS names that
    /// it may use, are those of `config`.
    pub fn ad_hoc(words: &AdHoc, folder: &Path, config: &Config) -> Result<Instance, Diagnostics> {
        let source = Source::new(format!("load {}", words.name), folder, ad_hoc_text(words));
        Instance::of_source(&source, config)
    }

    /// Makes an instance of the text that [`Instance::ad_hoc`] has made of words.
    pub fn of_source(source: &Rc<Source>, config: &Config) -> Result<Instance, Diagnostics> {
        let mut problems = Diagnostics::new(source);
        let table = Table::parse(source, &mut problems);
        let mut section =
            Section { place: "load".to_owned(), table: &table, source, problems: &mut problems };
        let instance = Instance::read(&mut section, 0..0, &config.limits);
        if let Some(instance) = &instance {
            super::check::tls_names(instance, &config.tls, &mut problems);
        }
        match instance {
            Some(instance) => problems.or(instance),
            None => Err(problems.or(()).expect_err("what could not be read was noted")),
        }
    }

    /// Reads a `[[plugin]]`. `None` if it lacks what nothing can be done without; every problem is noted.
    pub(super) fn read(
        section: &mut Section<'_>,
        header: Span,
        host_limits: &Limits,
    ) -> Option<Instance> {
        section.only(KEYS);
        let (name, library) = (name(section, &header), library(section, &header));
        let (listen, places) = listen(section);
        let attach = section.string("attach");
        let attach_span = attach.as_ref().map(|attach| attach.span.clone()).unwrap_or_default();
        let attach = attach.map(|attach| attach.text.to_owned());
        let (host, path) = (host(section), path(section));
        for key in ["host", "path"] {
            if let (None, Some(entry)) = (&attach, section.table.entry(key)) {
                let message =
                    format!("`{key}` narrows what an instance extends, and this one extends none");
                section.problem(
                    &entry.key_span,
                    message,
                    "add `attach = \"…\"` with the name of an HTTP instance, or remove it",
                );
            }
        }
        let mut limits = host_limits.clone();
        if let Some(table) = section.table("limits") {
            section.within("[plugin.limits]", table).limits(&mut limits, &[Scope::Instance]);
        }
        let (name, library) = (name?, library?);
        Some(Instance {
            name: name.text.to_owned(),
            library: library.text.to_owned(),
            listen,
            attach,
            host,
            path,
            order: order(section),
            enabled: section.boolean("enabled").unwrap_or(true),
            limits,
            config: section.table("config").cloned(),
            source: section.source.clone(),
            header,
            places: Places {
                name: name.span,
                library: library.span,
                attach: attach_span,
                ..places
            },
        })
    }

    /// Whether both say the same, wherever they say it. What differs makes a restart or upgrade necessary.
    pub fn same(&self, other: &Instance) -> bool {
        let plain = |i: &Instance| {
            (i.name.clone(), i.library.clone(), i.listen.clone(), i.order, i.enabled)
        };
        let attached = |i: &Instance| (i.attach.clone(), i.host.clone(), i.path.clone());
        plain(self) == plain(other)
            && attached(self) == attached(other)
            && self.limits == other.limits
            && self.config == other.config
            && self.source.folder == other.source.folder
    }

    /// Whether they differ in nothing but where they listen: a generation that runs does not notice.
    pub fn same_work(&self, other: &Instance) -> bool {
        self.same(&Instance { listen: self.listen.clone(), ..other.clone() })
    }

    /// The file of its library: `NAME.so` in `plugin_dir`, or its path where the name has a slash.
    pub fn library_file(&self, plugin_dir: &Path) -> PathBuf {
        library_file(&self.library, plugin_dir, &self.source)
    }
}

/// The file that a library's name or path stands for; a relative path is relative to the source's folder.
pub fn library_file(library: &str, plugin_dir: &Path, source: &Source) -> PathBuf {
    if library.contains('/') {
        source.path(library)
    } else {
        plugin_dir.join(format!("{library}.so"))
    }
}

/// Whether text can name an instance: at most 64 letters, digits, `-`, `_` and `.`, a letter or digit first.
pub fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(inner)
}

fn name<'a>(section: &mut Section<'a>, header: &Span) -> Option<Text<'a>> {
    if section.table.get("name").is_none() {
        section.problem(
            header,
            "a plugin without a name",
            "add `name = \"web\"`, a name of your choice",
        );
        return None;
    }
    let name = section.string("name")?;
    if !is_name(name.text) {
        let help =
            "use at most 64 letters, digits, `-`, `_` and `.`, beginning with a letter or digit";
        section.problem(
            &name.span,
            format!("\"{}\" cannot be an instance's name", name.text),
            help,
        );
        return None;
    }
    Some(name)
}

fn library<'a>(section: &mut Section<'a>, header: &Span) -> Option<Text<'a>> {
    if section.table.get("library").is_none() {
        let help = "add `library = \"http\"`, the name of a library in plugin_dir, or its path";
        section.problem(header, "a plugin without a library", help);
        return None;
    }
    let Text { text, span } = section.string("library")?;
    if text.is_empty() || text.contains('\0') || (!text.contains('/') && !is_name(text)) {
        let help =
            "write its name without `.so`, such as \"http\", or a path with a slash: \"./http.so\"";
        section.problem(&span, format!("\"{text}\" is not a library"), help);
        return None;
    }
    if let (false, Some(stem)) = (text.contains('/'), text.strip_suffix(".so")) {
        let help = format!(
            "write \"{stem}\" for the library in plugin_dir, or \"./{text}\" for the file beside this one"
        );
        section.problem(&span, "a library's name goes without `.so`", help);
        return None;
    }
    Some(Text { text, span })
}

fn listen(section: &mut Section<'_>) -> (Vec<Listen>, Places) {
    let (mut list, mut places) = (Vec::new(), Places::default());
    let Some(value) = section.table.get("listen") else { return (list, places) };
    let entries = match &value.data {
        Data::List(entries) => entries.as_slice(),
        _ => std::slice::from_ref(value),
    };
    for entry in entries {
        if let Some((listen, tls)) = listen_entry(section, entry) {
            list.push(listen);
            places.listen.push(entry.span.clone());
            places.tls.push(tls);
        }
    }
    (list, places)
}

fn listen_entry(section: &mut Section<'_>, entry: &Value) -> Option<(Listen, Span)> {
    let plain = |address| Some((Listen { address, tls: None, deferred: None }, Span::default()));
    match &entry.data {
        Data::String(text) => plain(address(section, Text { text, span: entry.span.clone() })?),
        Data::Integer(port @ 0..=65535) => {
            let help = format!("write the address as well: \"127.0.0.1:{port}\"");
            section.problem(&entry.span, "a port alone is not an address to listen on", help);
            None
        }
        Data::Table(table) => {
            let mut section = section.within("an entry of `listen`", table);
            section.only(&["address", "tls", "deferred"]);
            if table.get("address").is_none() {
                section.problem(
                    &entry.span,
                    "this entry of `listen` has no address",
                    "add `address = \"127.0.0.1:8443\"`",
                );
            }
            let tls = section.string("tls");
            let span = tls.as_ref().map(|tls| tls.span.clone()).unwrap_or_default();
            let tls = tls.map(|tls| tls.text.to_owned());
            let deferred = section.boolean("deferred");
            let text = section.string("address")?;
            let text_span = text.span.clone();
            let address = address(&mut section, text)?;
            if let (Address::Unix(_), Some(_)) = (&address, deferred) {
                let help = "leave `deferred` away: a Unix socket tells of every connection at once";
                section.problem(&text_span, "`deferred` is of TCP", help);
            }
            Some((Listen { address, tls, deferred }, span))
        }
        _ => {
            let message = format!("`listen` takes addresses, this is {}", entry.describe());
            let help =
                "write \"127.0.0.1:8080\", or { address = \"127.0.0.1:8443\", tls = \"default\" }";
            section.problem(&entry.span, message, help);
            None
        }
    }
}

fn address(section: &mut Section<'_>, text: Text<'_>) -> Option<Address> {
    let source = section.source;
    Address::parse(text.text, source)
        .map_err(|bad| {
            section.problem(&text.span, format!("\"{}\": {}", text.text, bad.message), bad.help)
        })
        .ok()
}

fn host(section: &mut Section<'_>) -> Option<String> {
    let Text { text, span } = section.string("host")?;
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if labels.is_empty()
        || text.len() > 253
        || !labels.bytes().all(inner)
        || labels.split('.').any(str::is_empty)
    {
        let help = "write a host name without scheme and port, such as \"www.example.org\" or \"*.example.org\"";
        section.problem(&span, format!("\"{text}\" is not a host name"), help);
        return None;
    }
    Some(text.to_ascii_lowercase())
}

fn order(section: &mut Section<'_>) -> i32 {
    let Some(order) = section.integer("order") else { return 0 };
    i32::try_from(order).unwrap_or_else(|_| {
        let span = section.table.get("order").map(|value| value.span.clone()).unwrap_or_default();
        let help = format!("write a number from {} to {}", i32::MIN, i32::MAX);
        section.problem(&span, "`order` is out of its range", help);
        0
    })
}

fn path(section: &mut Section<'_>) -> Option<String> {
    let Text { text, span } = section.string("path")?;
    let refuse = |section: &mut Section<'_>, message: &str, help: String| {
        section.problem(&span, message, help);
        None
    };
    if !text.starts_with('/') {
        let help = format!("write \"/{text}\"");
        return refuse(section, "a path that does not begin with a slash", help);
    }
    if let Some(odd) = text.chars().find(|c| c.is_control() || " ?#%\\".contains(*c)) {
        return refuse(
            section,
            &format!("a path with {odd:?} in it"),
            "write the path decoded, without query".to_owned(),
        );
    }
    if text.split('/').skip(1).any(|part| part == "." || part == "..") || text.contains("//") {
        return refuse(
            section,
            "a path that no request can have",
            "remove `//`, `.` and `..` from it".to_owned(),
        );
    }
    Some(if text == "/" { text } else { text.trim_end_matches('/') }.to_owned())
}

/// The words as the TOML that they stand for, so that there is one parser, and messages have a line to show.
fn ad_hoc_text(words: &AdHoc) -> String {
    let text = words::quote;
    let mut toml = format!("name = {}\nlibrary = {}\n", text(&words.name), text(&words.library));
    let listen: Vec<String> = words.listen.iter().map(|listen| text(listen)).collect();
    toml += &format!("listen = [{}]\n", listen.join(", "));
    for (key, value) in [("attach", &words.attach), ("host", &words.host), ("path", &words.path)] {
        if let Some(value) = value {
            toml += &format!("{key} = {}\n", text(value));
        }
    }
    if let Some(order) = words.order {
        toml += &format!("order = {order}\n");
    }
    toml += "[config]\n";
    for (key, value) in &words.set {
        let is_toml = !value.contains(['\n', '\r', '#']) && toml::de::DeValue::parse(value).is_ok();
        toml +=
            &format!("{} = {}\n", set_key(key), if is_toml { value.clone() } else { text(value) });
    }
    toml
}

/// Dots in a key of `--set` lead into tables; parts that are not bare keys are quoted.
fn set_key(key: &str) -> String {
    let bare = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let quoted = |part: &str| if bare(part) { part.to_owned() } else { words::quote(part) };
    key.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |text, expected| assert_eq!(is_name(text), expected, "{text:?}");
        check("web", true);
        check("http-files.2", true);
        check("2", true);
        check("", false);
        check("-x", false);
        check("..", false);
        check("a b", false);
        check("ä", false);
        check(&"x".repeat(65), false);
    }

    fn load(words: AdHoc) -> Result<Instance, Diagnostics> {
        let source = Source::new("medusa.toml", "/srv", "");
        Instance::ad_hoc(&words, Path::new("/home"), &Config::parse(&source).unwrap())
    }

    #[test]
    fn the_words_of_a_load_command_make_an_instance() {
        let set = [
            ("root", "site"),
            ("size", "64"),
            ("on", "true"),
            ("a.b", "[1, 2]"),
            ("odd", "x # y\nz = 1"),
        ];
        let instance = load(AdHoc {
            name: "echo".to_owned(),
            library: "./echo.so".to_owned(),
            listen: vec!["unix:e.sock".to_owned()],
            set: set.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
            ..AdHoc::default()
        })
        .unwrap();
        assert_eq!(instance.listen[0].address.to_string(), "unix:/home/e.sock");
        assert_eq!(instance.library_file(Path::new("/p")), Path::new("/home/echo.so"));
        let config = instance.config.unwrap();
        let check = |key: &str, expected: Data| assert_eq!(config.get(key).unwrap().data, expected);
        check("root", Data::String("site".to_owned()));
        check("size", Data::Integer(64));
        check("on", Data::Bool(true));
        check("odd", Data::String("x # y\nz = 1".to_owned()));
        assert!(matches!(config.get("a").unwrap().data, Data::Table(_)));
    }

    #[test]
    fn a_bad_load_command_is_told_what_is_bad() {
        let words =
            AdHoc { name: "echo".to_owned(), library: "echo".to_owned(), ..AdHoc::default() };
        let check = |words: AdHoc, expected: &str| {
            let error = load(words).unwrap_err().render(false);
            assert!(error.contains(expected), "{error}");
        };
        check(AdHoc { listen: vec!["80".to_owned()], ..words.clone() }, "127.0.0.1:80");
        check(AdHoc { name: "a\"\nb".to_owned(), ..words.clone() }, "cannot be an instance's name");
        check(
            AdHoc { attach: Some("web".to_owned()), path: Some("x".to_owned()), ..words.clone() },
            "\"/x\"",
        );
        let twice = vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
        check(AdHoc { set: twice, ..words.clone() }, "duplicate");
        check(
            AdHoc { set: vec![("\"] x".to_owned(), "]".to_owned())], name: String::new(), ..words },
            "name",
        );
    }
}
