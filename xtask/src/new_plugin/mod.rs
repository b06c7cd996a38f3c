//! `cargo xtask new-plugin NAME [--http|--filter|--observer|--session] [--path DIR]`: a plugin that builds, has a test and can be loaded.

use std::{
    env, fs,
    path::{Component, Path, PathBuf},
};

use crate::{
    Result,
    arguments::{Arguments, Usage},
    workspace,
};

/// Enough for a name, and few enough for a table of the monitor.
const NAME_BYTES_MAX: usize = 32;

/// Where the plugin goes, and what follows from that.
enum Place {
    /// `plugins/NAME` of medusa's workspace, as a member of it.
    Member(PathBuf),
    /// A folder somewhere else, with a workspace of its own.
    Alone(PathBuf),
}

/// What the plugin is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// Serves connections, a task for each.
    Service,
    /// Serves connections that rest between their turns.
    Session,
    /// Answers requests.
    Handler,
    /// Stands before those that answer.
    Filter,
    /// Hears what became of requests.
    Observer,
}

impl Kind {
    const OPTIONS: [(&str, Kind); 4] = [
        ("--session", Kind::Session),
        ("--http", Kind::Handler),
        ("--filter", Kind::Filter),
        ("--observer", Kind::Observer),
    ];

    fn take(arguments: &mut Arguments) -> Result<Kind> {
        let given = Kind::OPTIONS.into_iter().filter(|(option, _)| arguments.flag(option));
        match given.collect::<Vec<_>>()[..] {
            [] => Ok(Kind::Service),
            [(_, kind)] => Ok(kind),
            [(one, _), (two, _), ..] => Err(Usage::of(format!(
                "`{one}` and `{two}` are two kinds of plugin; give one, and add the other to its code"
            ))),
        }
    }

    fn code(self) -> &'static str {
        match self {
            Kind::Service => include_str!("service.rs.txt"),
            Kind::Session => include_str!("session.rs.txt"),
            Kind::Handler => include_str!("http.rs.txt"),
            Kind::Filter => include_str!("filter.rs.txt"),
            Kind::Observer => include_str!("observer.rs.txt"),
        }
    }

    fn extends_http(self) -> bool {
        matches!(self, Kind::Handler | Kind::Filter | Kind::Observer)
    }
}

pub(crate) fn run(mut arguments: Arguments) -> Result<()> {
    let kind = Kind::take(&mut arguments)?;
    let path = arguments.option("--path")?;
    let Some(name) = arguments.positional() else {
        return Err(Usage::of(
            "say how the plugin is called: `cargo xtask new-plugin NAME`".into(),
        ));
    };
    arguments.finish()?;
    check_name(&name)
        .map_err(|why| Usage::of(format!("a plugin cannot be called `{name}`: {why}")))?;

    let root = workspace::root();
    let place = Place::choose(&root, &name, path.as_deref())?;
    let folder = place.folder();
    if folder.exists() {
        return Err(format!(
            "{} exists; choose another name, or another place with --path",
            folder.display()
        )
        .into());
    }
    for (file, text) in files(&root, &place, &name, kind) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if let Place::Alone(_) = place {
        // With the versions that medusa was tested with; cargo drops the entries that are not needed.
        let from = root.join("Cargo.lock");
        fs::copy(&from, folder.join("Cargo.lock"))
            .and_then(|_| fs::write(folder.join(".gitignore"), "/target\n"))
            .map_err(|error| format!("cannot fill {}: {error}", folder.display()))?;
    }
    println!("made {}; its README.md says how to build, test and load it", folder.display());
    Ok(())
}

/// A name must do as a crate, as a file and as an instance.
fn check_name(name: &str) -> Result<(), String> {
    let is_letter = |it: char| it.is_ascii_lowercase();
    if !name.starts_with(is_letter) {
        return Err("it has to begin with a small letter".into());
    }
    if let Some(wrong) =
        name.chars().find(|it| !is_letter(*it) && !it.is_ascii_digit() && *it != '-')
    {
        return Err(format!("`{wrong}` is no small letter, digit or hyphen"));
    }
    if name.ends_with('-') || name.contains("--") {
        return Err("a hyphen stands between two letters or digits".into());
    }
    if name.starts_with("medusa-") {
        return Err("the package gets the `medusa-` by itself".into());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("it has more than {NAME_BYTES_MAX} letters"));
    }
    Ok(())
}

/// The files of the new crate with their texts.
fn files(root: &Path, place: &Place, name: &str, kind: Kind) -> [(&'static str, String); 3] {
    let filled = |text: &str| {
        text.replace("{{package}}", &place.package_keys())
            .replace("{{more}}", &place.more(kind))
            .replace("{{sdk}}", &place.sdk(root))
            .replace("{{end}}", place.end_of_manifest())
            .replace("{{build}}", &place.build_line())
            .replace("{{load}}", &place.load_line(root, kind))
            .replace("{{guide}}", &place.guide(root))
            .replace("{{name}}", name)
            .replace("{{file}}", &name.replace('-', "_"))
    };
    [
        ("Cargo.toml", filled(include_str!("Cargo.toml.txt"))),
        ("src/lib.rs", filled(kind.code())),
        ("README.md", filled(include_str!("README.md.txt"))),
    ]
}

impl Place {
    /// `plugins/NAME` unless `--path` says otherwise; the path is that of the crate itself.
    fn choose(root: &Path, name: &str, path: Option<&str>) -> Result<Self> {
        let member = root.join("plugins").join(name);
        let Some(path) = path else { return Ok(Self::Member(member)) };
        let folder = plain(&env::current_dir()?.join(path));
        Ok(if folder == member { Self::Member(folder) } else { Self::Alone(folder) })
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Member(folder) | Self::Alone(folder) => folder,
        }
    }

    fn package_keys(&self) -> String {
        let from_workspace = ["version", "edition", "rust-version", "license", "publish"];
        match self {
            Self::Member(_) => {
                from_workspace.map(|key| format!("{key}.workspace = true")).join("\n")
            }
            Self::Alone(_) => "version = \"0.1.0\"\nedition = \"2024\"\npublish = false".into(),
        }
    }

    fn sdk(&self, root: &Path) -> String {
        match self {
            Self::Member(_) => "workspace = true".into(),
            Self::Alone(_) => format!("path = {:?}", root.join("plugin-api")),
        }
    }

    /// What else it depends on, as lines.
    fn more(&self, kind: Kind) -> String {
        match (kind, self) {
            (Kind::Session, Self::Member(_)) => "serde.workspace = true\n".into(),
            (Kind::Session, Self::Alone(_)) => {
                "serde = { version = \"1\", features = [\"derive\"] }\n".into()
            }
            _ => String::new(),
        }
    }

    fn end_of_manifest(&self) -> &'static str {
        match self {
            Self::Member(_) => "[lints]\nworkspace = true",
            // A workspace of its own, wherever it lies: in a folder of another workspace cargo would complain.
            Self::Alone(_) => "[workspace]",
        }
    }

    fn build_line(&self) -> String {
        match self {
            Self::Member(_) => "cargo xtask build".into(),
            Self::Alone(_) => "cargo build --release".into(),
        }
    }

    /// Where the guide lies, for a link.
    fn guide(&self, root: &Path) -> String {
        match self {
            Self::Member(_) => "[docs/writing-plugins.md](../../docs/writing-plugins.md)".into(),
            Self::Alone(_) => format!("`{}`", root.join("docs/writing-plugins.md").display()),
        }
    }

    /// The command that loads it into the server of `cargo xtask run`.
    fn load_line(&self, root: &Path, kind: Kind) -> String {
        let (tree, library) = match self {
            Self::Member(_) => ("target/medusa".into(), "{{name}}"),
            Self::Alone(_) => (
                root.join("target/medusa").display().to_string(),
                "target/release/libmedusa_{{file}}.so",
            ),
        };
        let place = if kind.extends_http() { "--attach web" } else { "--listen 127.0.0.1:7070" };
        format!(
            "{tree}/bin/medusa ctl --config {tree}/medusa.toml load {{{{name}}}} --library {library} {place}"
        )
    }
}

/// The path without `.` and `..`, for a folder that need not exist.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_with_a_reason() {
        let check = |name: &str, part: &str| {
            let why = check_name(name).unwrap_err();
            assert!(why.contains(part), "{name}: {why}");
        };
        check("", "begin with a small letter");
        check("9lives", "begin with a small letter");
        check("../up", "begin with a small letter");
        check("hello_world", "`_`");
        check("a/b", "`/`");
        check("a-", "hyphen");
        check("a--b", "hyphen");
        check("medusa-a", "by itself");
        check(&"a".repeat(33), "more than 32");
        check_name("chat-2").unwrap();
    }

    #[test]
    fn every_hole_of_the_templates_is_filled() {
        let root = Path::new("/srv/medusa");
        for place in
            [Place::Member("/srv/medusa/plugins/a-b".into()), Place::Alone("/srv/a-b".into())]
        {
            for kind in Kind::OPTIONS.map(|(_, kind)| kind).into_iter().chain([Kind::Service]) {
                for (file, text) in files(root, &place, "a-b", kind) {
                    assert!(!text.contains("{{") || file.ends_with(".rs"), "{file}: {text}");
                    assert!(
                        !["{{name}}", "{{file}}"].iter().any(|hole| text.contains(hole)),
                        "{file}: {text}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_path_is_made_plain() {
        assert_eq!(plain(Path::new("/srv/medusa/../greeting/./x")), Path::new("/srv/greeting/x"));
    }
}
