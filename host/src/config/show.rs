//! The configuration in force, as TOML that states what the file left out, too.
//!
//! Values under keys that sound like a secret are not shown.

use std::fmt::Write;

use crate::config::{
    Config, Instance, LogFormat, Tls,
    limits::{LIMITS, Limits, Scope},
    value::{Data, Table, Value},
    words,
};

/// What stands for a secret.
pub const REDACTED: &str = "(not shown)";

/// Whether what stands under a key is nobody's business.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passwd", "secret", "token", "key"].iter().any(|word| key.contains(word))
}

/// The whole configuration.
pub fn config(config: &Config) -> String {
    let mut text = String::new();
    let path = |path: &std::path::Path| words::quote(&path.display().to_string());
    let format = if config.log.format == LogFormat::Json { "json" } else { "text" };
    text += &format!(
        "[host]\nplugin_dir = {}\nstate_dir = {}\ncounters = {}\n\n",
        path(&config.plugin_dir),
        path(&config.state_dir),
        config.counters
    );
    text += &limits("[host.limits]", &config.limits, |_| true);
    text += &format!("[monitor]\nsocket = {}\n\n", path(&config.monitor_socket));
    text += &format!(
        "[log]\nlevel = \"{}\"\nformat = \"{format}\"\n\n",
        config.log.level.as_str().to_lowercase()
    );
    for (name, tls) in &config.tls {
        text += &format!("[tls.{name}]\n");
        if let Tls::Files { certificate, key } = tls {
            text += &format!("certificate = {}\nkey = {}\n", path(certificate), path(key));
        }
        text.push('\n');
    }
    for instance in &config.instances {
        text += &self::instance(instance, &config.limits);
    }
    text
}

/// One instance; of its limits, those that differ from the host's.
pub fn instance(instance: &Instance, host_limits: &Limits) -> String {
    let mut text = format!(
        "[[plugin]]\nname = \"{}\"\nlibrary = {}\n",
        instance.name,
        words::quote(&instance.library)
    );
    if !instance.listen.is_empty() {
        let entries: Vec<String> = instance.listen.iter().map(listen).collect();
        text += &format!("listen = [{}]\n", entries.join(", "));
    }
    for (key, value) in
        [("attach", &instance.attach), ("host", &instance.host), ("path", &instance.path)]
    {
        if let Some(value) = value {
            text += &format!("{key} = {}\n", words::quote(value));
        }
    }
    if instance.order != 0 {
        text += &format!("order = {}\n", instance.order);
    }
    if !instance.enabled {
        text += "enabled = false\n";
    }
    if let Some(table) = instance.config.as_ref().filter(|table| !table.entries.is_empty()) {
        text += "[plugin.config]\n";
        entries(table, &mut text);
    }
    text.push('\n');
    if instance.limits != *host_limits {
        text.pop();
        text += &limits("[plugin.limits]", &instance.limits, |name| {
            let limit =
                LIMITS.iter().find(|limit| limit.name == name).expect("names come from the table");
            limit.scope == Scope::Instance
                && (limit.get)(&instance.limits) != (limit.get)(host_limits)
        });
    }
    text
}

fn listen(listen: &crate::config::Listen) -> String {
    let address = words::quote(&listen.address.to_string());
    let tls = listen.tls.as_ref().map(|tls| format!(", tls = \"{tls}\""));
    let deferred = listen.deferred.map(|deferred| format!(", deferred = {deferred}"));
    match (tls, deferred) {
        (None, None) => address,
        (tls, deferred) => format!(
            "{{ address = {address}{}{} }}",
            tls.unwrap_or_default(),
            deferred.unwrap_or_default()
        ),
    }
}

fn limits(header: &str, limits: &Limits, shown: impl Fn(&str) -> bool) -> String {
    let mut text = format!("{header}\n");
    for limit in LIMITS.iter().filter(|limit| shown(limit.name)) {
        text += &format!("{} = {}\n", limit.name, limit.show((limit.get)(limits)));
    }
    text + "\n"
}

fn entries(table: &Table, text: &mut String) {
    for entry in &table.entries {
        let key = toml_key(&entry.key);
        let shown =
            if is_secret(&entry.key) { words::quote(REDACTED) } else { value(&entry.value) };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key} = {shown}");
    }
}

fn value(value: &Value) -> String {
    match &value.data {
        Data::Bool(bool) => bool.to_string(),
        Data::Integer(integer) => integer.to_string(),
        Data::Float(float) => format!("{float:?}"),
        Data::String(text) => words::quote(text),
        Data::Datetime(text) => text.clone(),
        Data::List(list) => {
            format!("[{}]", list.iter().map(self::value).collect::<Vec<_>>().join(", "))
        }
        Data::Table(table) => {
            let mut text = String::new();
            entries(table, &mut text);
            format!("{{ {} }}", text.trim_end().replace('\n', ", "))
        }
    }
}

fn toml_key(key: &str) -> String {
    let bare = !key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if bare { key.to_owned() } else { words::quote(key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        let text = "[tls.default]\n[[plugin]]\nname = \"a\"\nlibrary = \"x\"\nlisten = [\"[::1]:0\", {address = \"[::1]:1\", tls = \"default\", deferred = false}, \
                    {address = \"[::1]:2\", deferred = true}]\n\
                    enabled = false\norder = 3\n[plugin.limits]\nstall_ms = 5\n[plugin.config]\nroot = \"a\\\"\\nb\"\nn = [1, 1.0]\n\
                    t = { a.b = 1, \"x y\" = true }\n[[plugin]]\nname = \"b\"\nlibrary = \"y\"\nattach = \"a\"\npath = \"/x\"\n";
        let parse = |text: &str| Config::parse(&Source::new("medusa.toml", "/srv", text)).unwrap();
        let first = parse(text);
        let shown = config(&first);
        let second = parse(&shown);
        assert_eq!(shown, config(&second));
        assert!(
            first.instances.iter().zip(&second.instances).all(|(one, two)| one.same(two)),
            "{shown}"
        );
        assert_eq!(first.limits, second.limits);
    }

    #[test]
    fn secrets_are_not_shown() {
        let text = "[[plugin]]\nname = \"a\"\nlibrary = \"x\"\n[plugin.config]\nApiToken = \"hunter2\"\n\
                    [[plugin.config.user]]\npassword = \"hunter2\"\n";
        let config = Config::parse(&Source::new("medusa.toml", "/srv", text)).unwrap();
        let shown = super::config(&config);
        assert!(!shown.contains("hunter2") && shown.contains(REDACTED), "{shown}");
    }
}
