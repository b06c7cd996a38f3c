//! What can only be seen of all instances together: names, what they extend, where they listen.

use std::collections::{BTreeMap, HashMap};

use crate::config::{Config, Diagnostic, Diagnostics, Instance, Tls, source::Span, words};

/// Checks a configuration whose parts are all right in themselves.
pub(super) fn config(config: &Config, problems: &mut Diagnostics) {
    names(&config.instances, problems);
    attachments(&config.instances, problems);
    addresses(&config.instances, problems);
    for instance in &config.instances {
        tls_names(instance, &config.tls, problems);
    }
}

/// Checks that the certificates which an instance names are there.
pub(super) fn tls_names(
    instance: &Instance,
    tls: &BTreeMap<String, Tls>,
    problems: &mut Diagnostics,
) {
    let known: Vec<&str> = tls.keys().map(String::as_str).collect();
    for (listen, span) in instance.listen.iter().zip(&instance.places.tls) {
        let Some(name) = listen.tls.as_deref().filter(|name| !tls.contains_key(*name)) else {
            continue;
        };
        let help = match words::nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "add a table of that name: [tls.default], say; without keys it is self-signed"
                .to_owned(),
        };
        problems.push(Diagnostic::new(span.clone(), format!("there is no [tls.{name}]"), help));
    }
}

/// Refuses TLS on a listener, which loading the instance would refuse.
pub(super) fn tls_is_missing(instance: &Instance, problems: &mut Diagnostics) {
    for (listen, span) in instance.listen.iter().zip(&instance.places.tls) {
        if listen.tls.is_some() {
            let message = format!(
                "`{}` asks for TLS on {}, which this version of medusa does not have yet",
                instance.name, listen.address
            );
            let help = format!(
                "write {} without `tls`, and leave TLS to a proxy in front of it",
                words::quote(&listen.address.to_string())
            );
            problems.push(Diagnostic::new(span.clone(), message, help));
        }
    }
}

fn names(instances: &[Instance], problems: &mut Diagnostics) {
    let mut seen: HashMap<&str, &Span> = HashMap::new();
    for instance in instances {
        let span = &instance.places.name;
        if let Some(first) = seen.insert(&instance.name, span) {
            let message = format!("two instances are named `{}`", instance.name);
            let problem = Diagnostic::new(span.clone(), message, "give one of them another name");
            problems.push(problem.also(first.clone(), "the first one"));
        }
    }
}

fn attachments(instances: &[Instance], problems: &mut Diagnostics) {
    let known: Vec<&str> = instances.iter().map(|instance| instance.name.as_str()).collect();
    let by_name: HashMap<&str, &Instance> =
        instances.iter().map(|instance| (instance.name.as_str(), instance)).collect();
    for instance in instances {
        let Some(target) = &instance.attach else { continue };
        let span = instance.places.attach.clone();
        if !by_name.contains_key(target.as_str()) {
            let message =
                format!("`{}` extends `{target}`, which is not an instance", instance.name);
            problems.push(Diagnostic::new(
                span,
                message,
                words::suggest(target, &known, "instances"),
            ));
        } else if let Some(cycle) = cycle(instance, &by_name) {
            let message = format!("`{}` extends itself: {cycle}", instance.name);
            problems.push(Diagnostic::new(
                span,
                message,
                "attach one of them to the HTTP instance instead",
            ));
        }
    }
}

/// The way from an instance back to itself, if there is one. Each member of a cycle is told; who only leads into one is not.
fn cycle(start: &Instance, by_name: &HashMap<&str, &Instance>) -> Option<String> {
    const SHOWN_MAX: usize = 8;
    let mut way = vec![start.name.as_str()];
    let mut at = start;
    for _ in 0..by_name.len() {
        at = by_name.get(at.attach.as_deref()?)?;
        if way.len() < SHOWN_MAX {
            way.push(&at.name);
        } else if way.len() == SHOWN_MAX {
            way.push("…");
        }
        if at.name == start.name {
            return Some(way.join(" > "));
        }
    }
    None
}

fn addresses(instances: &[Instance], problems: &mut Diagnostics) {
    let mut seen: Vec<(&Instance, usize)> = Vec::new();
    for instance in instances.iter().filter(|instance| instance.enabled) {
        for (index, listen) in instance.listen.iter().enumerate() {
            let clash =
                seen.iter().find(|(other, at)| other.listen[*at].address.clashes(&listen.address));
            if let Some((other, at)) = clash {
                let message = format!(
                    "`{}` and `{}` both listen on {}",
                    other.name, instance.name, listen.address
                );
                let problem = Diagnostic::new(
                    instance.places.listen[index].clone(),
                    message,
                    "choose another port or address",
                );
                problems.push(problem.also(other.places.listen[*at].clone(), "taken here"));
            }
            seen.push((instance, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Source};

    fn check(text: &str, expected: &[&str]) {
        let source = Source::new("medusa.toml", "/srv", text);
        let found = match Config::parse(&source) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.messages().map(str::to_owned).collect(),
        };
        let matches =
            found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| f.contains(e));
        assert!(matches, "{text}\nfound {found:#?}\nexpected {expected:#?}");
    }

    fn plugins(lines: &[&str]) -> String {
        lines
            .iter()
            .map(|line| format!("[[plugin]]\nlibrary = \"x\"\n{}\n", line.replace("; ", "\n")))
            .collect()
    }

    #[test]
    fn what_is_wrong_between_instances_is_found() {
        check(&plugins(&["name = \"a\"", "name = \"b\"; attach = \"a\""]), &[]);
        check(
            &plugins(&["name = \"a\"", "name = \"a\"", "name = \"a\""]),
            &["named `a`", "named `a`"],
        );
        check(
            &plugins(&["name = \"a\"; attach = \"b\""]),
            &["extends `b`, which is not an instance"],
        );
        check(&plugins(&["name = \"a\"; attach = \"a\""]), &["a > a"]);
        check(
            &plugins(&[
                "name = \"a\"; attach = \"b\"",
                "name = \"b\"; attach = \"a\"",
                "name = \"c\"; attach = \"a\"",
            ]),
            &["a > b > a", "b > a > b"],
        );
        let same = [
            "name = \"a\"; listen = \"[::]:80\"",
            "name = \"b\"; listen = [\"[::]:81\", \"[::1]:80\"]",
        ];
        check(&plugins(&same), &["`a` and `b` both listen on [::1]:80"]);
        let off = [
            "name = \"a\"; listen = \"[::]:80\"; enabled = false",
            "name = \"b\"; listen = \"[::]:80\"",
        ];
        check(&plugins(&off), &[]);
        check(
            &plugins(&["name = \"a\"; listen = [\"[::]:80\", \"[::]:80\"]"]),
            &["`a` and `a` both"],
        );
        let tls = "name = \"a\"; listen = { address = \"[::]:80\", tls = \"defautl\" }";
        check(&plugins(&[tls]), &["there is no [tls.defautl]"]);
        check(&format!("[tls.defautl]\n{}", plugins(&[tls])), &[]);
    }

    #[test]
    fn tls_on_a_listener_is_refused_before_it_is_loaded() {
        let check = |more: &str| {
            let text = format!(
                "[tls.default]\n[[plugin]]\nname = \"a\"\nlibrary = \"x\"\n\
                 listen = [\"[::]:80\", {{ address = \"[::]:443\", tls = \"default\" }}]\n{more}"
            );
            let config = Config::parse(&Source::new("medusa.toml", "/srv", text)).unwrap();
            config.check_plugins(&|_| Ok(None))
        };
        let refusal = check("").unwrap_err().render(false);
        assert!(
            refusal.contains("medusa.toml:5:52") && refusal.contains("\"[::]:443\" without `tls`"),
            "{refusal}"
        );
        assert!(check("enabled = false\n").is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_key_is_found() {
        check("", &[]);
        check("[hots]", &["unknown key `hots`"]);
        check("host = 1", &["`host` must be a table, this is an integer"]);
        check(
            "[host]\nplugin_dir = 1\nstate_dir = \"\"\nx = 1",
            &["must be a string", "`state_dir` is empty", "unknown key `x`"],
        );
        check(
            "[host.limits]\ndrain_ms_max = \"5 s\"\npool_threads = 0\nzzz = 1",
            &["`pool_threads` is out", "unknown limit"],
        );
        check(
            "[host.limits]\nheap_bytes_max = \"1 x\"\nstall_ms = \"1 KiB\"",
            &["out of its range", "out of its range"],
        );
        check("[monitor]\nsocket = true", &["must be a string"]);
        check(
            "[log]\nlevel = \"verbose\"\nformat = \"xml\"",
            &["`level` cannot be", "`format` cannot be"],
        );
        check(
            "[tls.a]\nkey = \"k\"\n[tls.b]\ncertificate = \"c\"\nx = 1",
            &["no certificate", "no key", "unknown key"],
        );
        check("[tls.\"a b\"]", &["cannot be the name"]);
        check("[plugin]\nname = \"x\"", &["`plugin` must be an array of tables"]);
        check("plugin = [1]", &["must be an array of tables"]);
        check("[[plugin]]", &["without a name", "without a library"]);
        check(
            "[[plugin]]\nname = \"a b\"\nlibrary = \"a.so\"",
            &["cannot be an instance's name", "without `.so`"],
        );
        let listen =
            |value: &str| format!("[[plugin]]\nname = \"a\"\nlibrary = \"x\"\nlisten = {value}");
        check(&listen("8080"), &["a port alone"]);
        check(&listen("true"), &["`listen` takes addresses"]);
        check(
            &listen("[\"x\", {tls = 1}, {address = \"y\", ssl = 1}]"),
            &["\"x\"", "no address", "`tls` must", "\"y\"", "`ssl`"],
        );
        check(
            &listen(
                "[{address = \"[::]:80\", deferred = 1}, {address = \"unix:x\", deferred = true}]",
            ),
            &["`deferred` must", "`deferred` is of TCP"],
        );
        check(&plugins(&["name = \"a\"; path = \"/x\""]), &["`path` narrows"]);
        let path = |path: &str| {
            plugins(&["name = \"a\"", &format!("name = \"b\"; attach = \"a\"; path = \"{path}\"")])
        };
        check(&path("/"), &[]);
        check(&path("/a/b/"), &[]);
        check(&path("a"), &["does not begin with a slash"]);
        check(&path("/a/../b"), &["no request can have"]);
        check(&path("/a//b"), &["no request can have"]);
        check(&path("/a?b"), &["'?'"]);
        let host = |host: &str| {
            plugins(&["name = \"a\"", &format!("name = \"b\"; attach = \"a\"; host = \"{host}\"")])
        };
        check(&host("*.Example.org"), &[]);
        check(&host("http://x"), &["not a host name"]);
        check(&host("x:80"), &["not a host name"]);
        for order in ["2147483648", "-2147483649", "9223372036854775807"] {
            check(&plugins(&[&format!("name = \"a\"; order = {order}")]), &["`order` is out"]);
        }
        check(&plugins(&["name = \"a\"; order = -2147483648"]), &[]);
        check(
            &plugins(&["name = \"a\"; order = \"1\"; enabled = 1"]),
            &["`order` must", "`enabled` must"],
        );
        check(
            "[[plugin]]\nname = \"a\"\nlibrary = \"x\"\n[plugin.limits]\npool_threads = 1",
            &["binds the whole host"],
        );
    }
}
