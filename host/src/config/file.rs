//! The whole file: `[host]`, `[monitor]`, `[log]`, `[tls.NAME]` and `[[plugin]]`, each with its keys.

use std::{collections::BTreeMap, path::PathBuf, rc::Rc, str::FromStr};

use crate::config::{
    Config, Diagnostics, Instance, LEVELS, Limits, Log, LogFormat, Source, Tls, check,
    limits::Scope,
    section::Section,
    source::Span,
    value::{Data, Table},
    words,
};

const PLUGIN_DIR: &str = "plugins";
const STATE_DIR: &str = "state";
const MONITOR_SOCKET: &str = "run/medusa.sock";

/// Reads and checks a text; all that is wrong with it is found at once, except that what is not TOML hides the rest.
pub(super) fn read(source: &Rc<Source>) -> Result<Config, Diagnostics> {
    let mut problems = Diagnostics::new(source);
    let table = Table::parse(source, &mut problems);
    problems = problems.or(()).err().unwrap_or_else(|| Diagnostics::new(source));
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut section =
        Section { place: "the file".to_owned(), table: &table, source, problems: &mut problems };
    let config = document(&mut section);
    check::config(&config, &mut problems);
    problems.or(config)
}

/// The monitor's socket, as far as the text can be understood.
pub(super) fn monitor_socket(source: &Rc<Source>) -> PathBuf {
    let table = Table::parse(source, &mut Diagnostics::new(source));
    let monitor = table.get("monitor").and_then(|monitor| match &monitor.data {
        Data::Table(monitor) => monitor.get("socket"),
        _ => None,
    });
    match monitor.map(|socket| &socket.data) {
        Some(Data::String(path)) => source.path(path),
        _ => source.path(MONITOR_SOCKET),
    }
}

fn document(file: &mut Section<'_>) -> Config {
    file.only(&["host", "monitor", "log", "tls", "plugin"]);
    let mut config = Config {
        source: file.source.clone(),
        plugin_dir: file.source.path(PLUGIN_DIR),
        state_dir: file.source.path(STATE_DIR),
        counters: true,
        limits: Limits::default(),
        monitor_socket: file.source.path(MONITOR_SOCKET),
        log: Log::default(),
        tls: BTreeMap::new(),
        instances: Vec::new(),
    };
    if let Some(table) = file.table("host") {
        host(&mut file.within("[host]", table), &mut config);
    }
    if let Some(table) = file.table("monitor") {
        let mut section = file.within("[monitor]", table);
        section.only(&["socket"]);
        directory(&mut section, "socket", &mut config.monitor_socket);
    }
    if let Some(table) = file.table("log") {
        config.log = log(&mut file.within("[log]", table));
    }
    if let Some(table) = file.table("tls") {
        config.tls = tls(&mut file.within("[tls]", table));
    }
    for (table, header) in file.tables("plugin") {
        let instance =
            Instance::read(&mut file.within("[[plugin]]", table), header, &config.limits);
        config.instances.extend(instance);
    }
    config
}

fn host(section: &mut Section<'_>, config: &mut Config) {
    section.only(&["plugin_dir", "state_dir", "counters", "limits"]);
    directory(section, "plugin_dir", &mut config.plugin_dir);
    directory(section, "state_dir", &mut config.state_dir);
    config.counters = section.boolean("counters").unwrap_or(config.counters);
    if let Some(table) = section.table("limits") {
        section
            .within("[host.limits]", table)
            .limits(&mut config.limits, &[Scope::Host, Scope::Instance]);
    }
}

fn directory(section: &mut Section<'_>, key: &str, path: &mut PathBuf) {
    let Some(text) = section.string(key) else { return };
    if text.text.is_empty() || text.text.contains('\0') {
        section.problem(
            &text.span,
            format!("`{key}` is empty"),
            "write a path, relative to this file or absolute",
        );
        return;
    }
    *path = section.source.path(text.text);
}

fn log(section: &mut Section<'_>) -> Log {
    section.only(&["level", "format"]);
    let mut log = Log::default();
    if let Some(index) = section.word("level", LEVELS) {
        log.level = tracing::Level::from_str(LEVELS[index]).expect("they are tracing's own names");
    }
    if let Some(index) = section.word("format", &["text", "json"]) {
        log.format = [LogFormat::Text, LogFormat::Json][index];
    }
    log
}

fn tls(section: &mut Section<'_>) -> BTreeMap<String, Tls> {
    let mut map = BTreeMap::new();
    for entry in &section.table.entries {
        let Some(table) = section.table(&entry.key) else { continue };
        let mut section = section.within(format!("[tls.{}]", entry.key), table);
        if !super::instance::is_name(&entry.key) {
            let message =
                format!("{} cannot be the name of a certificate", words::quote(&entry.key));
            section.problem(
                &entry.key_span,
                message,
                "use at most 64 letters, digits, `-`, `_` and `.`",
            );
        }
        let tls = tls_files(&mut section, &entry.value.span);
        map.insert(entry.key.clone(), tls);
    }
    map
}

fn tls_files(section: &mut Section<'_>, header: &Span) -> Tls {
    section.only(&["certificate", "key"]);
    for (there, missing) in [("certificate", "key"), ("key", "certificate")] {
        if section.table.get(there).is_some() && section.table.get(missing).is_none() {
            let message = format!("{} has a {there} and no {missing}", section.place);
            let help = format!("add `{missing} = \"FILE\"`, or remove both for a self-signed pair");
            section.problem(header, message, help);
        }
    }
    match (section.string("certificate"), section.string("key")) {
        (Some(certificate), Some(key)) => Tls::Files {
            certificate: section.source.path(certificate.text),
            key: section.source.path(key.text),
        },
        _ => Tls::SelfSigned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESIGN: &str = r#"
[host]
plugin_dir = "plugins"
state_dir = "state"
counters = false
[host.limits]
drain_ms_max = "5 s"
[monitor]
socket = "run/medusa.sock"
[log]
level = "debug"
format = "json"
[tls.default]             # with neither file named, a self-signed pair is made in state_dir
certificate = "cert.pem"
key = "key.pem"

[[plugin]]
name = "web"
library = "http"
listen = ["127.0.0.1:8080", { address = "127.0.0.1:8443", tls = "default" }]

[[plugin]]
name = "site"
library = "http-files"
attach = "web"
path = "/"
[plugin.limits]
drain_ms_max = 7
[plugin.config]
root = "sitü"

[[plugin]]
name = "files"
library = "./libftp.so"
listen = "unix:run/ftp.sock"
enabled = false
[plugin.config]
tls = "default"
[[plugin.config.user]]
name = "ada"
password = "$argon2id$…"
"#;

    #[test]
    fn the_whole_file_becomes_a_typed_configuration() {
        let config = Config::parse(&Source::new("medusa.toml", "/srv", DESIGN)).unwrap();
        let path = |path: &str| PathBuf::from(path);
        assert_eq!(
            (config.plugin_dir.clone(), config.state_dir.clone()),
            (path("/srv/plugins"), path("/srv/state"))
        );
        assert!(!config.counters);
        assert_eq!(config.monitor_socket, path("/srv/run/medusa.sock"));
        assert_eq!(config.log, Log { level: tracing::Level::DEBUG, format: LogFormat::Json });
        let files = Tls::Files { certificate: path("/srv/cert.pem"), key: path("/srv/key.pem") };
        assert_eq!(config.tls["default"], files);
        let [web, site, ftp] = &config.instances[..] else { panic!("{config:?}") };
        assert_eq!(web.listen[1].tls.as_deref(), Some("default"));
        assert_eq!((web.limits.drain_ms_max, site.limits.drain_ms_max), (5000, 7));
        assert_eq!((site.attach.as_deref(), site.path.as_deref()), (Some("web"), Some("/")));
        assert_eq!(config.library_file(web), path("/srv/plugins/http.so"));
        assert_eq!(config.library_file(ftp), path("/srv/libftp.so"));
        assert_eq!(ftp.listen[0].address.to_string(), "unix:/srv/run/ftp.sock");
        assert!(web.enabled && !ftp.enabled);
    }

    #[test]
    fn the_monitors_socket_is_found_in_a_file_that_is_broken_elsewhere() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                monitor_socket(&Source::new("t", "/srv", text)),
                PathBuf::from(expected),
                "{text}"
            );
        };
        check("[monitor]\nsocket = \"a.sock\"\n[host\nx = = 1", "/srv/a.sock");
        check("nonsense", "/srv/run/medusa.sock");
        check("monitor = 1", "/srv/run/medusa.sock");
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_with_line_and_column() {
        let text = DESIGN
            .replace("path = \"/\"", "path = \"x\"")
            .replace("level = \"debug\"", "level = \"loud\"");
        let shown =
            Config::parse(&Source::new("medusa.toml", "/srv", text)).unwrap_err().render(false);
        let (log, path) = (
            shown.find("--> medusa.toml:11:9").unwrap(),
            shown.find("--> medusa.toml:26:8").unwrap(),
        );
        assert!(log < path && shown.matches("= help: ").count() == 2, "{shown}");
    }

    /// Whatever is in the file, there is an answer, and every problem can be shown.
    #[test]
    fn mutated_files_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % bound as u64) as usize
        };
        let pieces =
            "[ ] [[ \" ''' = \n { } . # -1 9999999999999999999 nan ü \0 \u{1b}[0m , \r \u{feff}";
        let pieces: Vec<&str> = pieces.split(' ').collect();
        for _ in 0..3000 {
            let mut text: Vec<char> = DESIGN.chars().collect();
            for _ in 0..=random(6) {
                let at = random(text.len());
                let until = (at + random(20)).min(text.len());
                match random(3) {
                    0 => drop(text.drain(at..until)),
                    1 => drop(text.splice(at..at, pieces[random(pieces.len())].chars())),
                    _ => {
                        let copy: Vec<char> = text[at..until].to_vec();
                        let to = random(text.len());
                        text.splice(to..to, copy);
                    }
                }
            }
            let text: String = text.into_iter().collect();
            match Config::parse(&Source::new("medusa.toml", "/srv", &*text)) {
                Ok(config) => drop(crate::config::show::config(&config)),
                Err(problems) => assert!(problems.render(false).contains("help: "), "{text}"),
            }
        }
    }
}
