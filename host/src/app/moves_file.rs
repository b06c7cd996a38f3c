//! `state_dir/routes.toml`: the operator's order of HTTP routes, which lasts over a restart.
//!
//! It is written by the host. What it does not understand in it, it leaves there; a file that is broken it does not touch.

use std::{
    cell::{Cell, RefCell},
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    http::{HostPattern, Move, Place, RouteKey, RouteKind, path},
    plugin::{registry::Registry, route::Sites},
};

const NAME: &str = "routes.toml";

const HEAD: &str = "# Where `routes move` has put HTTP routes, in the order in which that was done. medusa writes this file.\n";

/// The array of the moves.
const MOVES: &str = "move";

/// The file, as far as it is not in the sites.
pub struct MovesFile {
    path: PathBuf,
    /// Everything but the moves that were understood.
    rest: RefCell<toml::Table>,
    /// It could not be read; as long as it is there it is left alone.
    is_broken: Cell<bool>,
    /// Held by whoever writes.
    turn: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    server: String,
    kind: String,
    instance: String,
    host: String,
    path: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    index: u32,
    place: String,
    other: Option<Other>,
}

/// The route that another stands before or behind; it is of the same kind.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Other {
    instance: String,
    host: String,
    path: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    index: u32,
}

impl MovesFile {
    /// Reads the file, if it is there, and has the sites ordered by it. Called before the loop serves, so that it may wait for
    /// the disk.
    pub fn read(state_dir: &Path, sites: &Sites) -> MovesFile {
        let path = state_dir.join(NAME);
        let read = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(toml::Table::new()),
            Err(error) => Err(error.to_string()),
            Ok(text) => parse(&text),
        };
        let is_broken = Cell::new(read.is_err());
        let mut rest = read.unwrap_or_else(|reason| {
            let file = path.display();
            tracing::error!(
                "{file} cannot be read and is left alone, so that HTTP routes stand in their own order; mend or remove it: {reason}"
            );
            toml::Table::new()
        });
        let unknown = take_entries(&mut rest)
            .into_iter()
            .filter(|entry| match apply(entry, sites) {
                Ok(()) => false,
                Err(reason) => {
                    let file = path.display();
                    tracing::warn!("a move of an HTTP route in {file} is passed over: {reason}");
                    true
                }
            })
            .collect();
        rest.insert(MOVES.to_owned(), toml::Value::Array(unknown));
        MovesFile { path, rest: RefCell::new(rest), is_broken, turn: Mutex::default() }
    }

    /// Writes the moves of all sites down: whole, or not at all.
    ///
    /// # Errors
    /// Why they are not in the file.
    pub async fn write(&self, registry: &Registry) -> Result<(), String> {
        let _turn = self.turn.lock().await;
        let (path, text) = (self.path.clone(), self.text(&registry.sites));
        let is_broken = self.is_broken.get();
        let job = move || {
            if is_broken && path.exists() {
                return Err(format!(
                    "{} could not be read at the start and is left alone; mend it and restart, or remove it and move again",
                    path.display()
                ));
            }
            replace(&path, &text)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))
        };
        let ticket = registry.host_pool.submit(job).map_err(|full| full.to_string())?;
        ticket.await.map_err(|error| error.to_string())??;
        self.is_broken.set(false);
        Ok(())
    }

    fn text(&self, sites: &Sites) -> String {
        let mut table = self.rest.borrow().clone();
        let mut entries = Vec::new();
        for (server, site) in sites.sites() {
            let of_site = site.moves().into_iter().map(|it| {
                toml::Value::try_from(entry(&server, &it)).expect("an entry is a plain table")
            });
            entries.extend(of_site);
        }
        entries.extend(take_entries(&mut table));
        table.insert(MOVES.to_owned(), toml::Value::Array(entries));
        format!("{HEAD}\n{table}")
    }
}

fn parse(text: &str) -> Result<toml::Table, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(0, |span| text[..span.start].lines().count().max(1));
        format!("line {line}: {}", error.message())
    })?;
    match table.get(MOVES) {
        None | Some(toml::Value::Array(_)) => Ok(table),
        Some(_) => Err(format!("`{MOVES}` is no array of tables")),
    }
}

fn take_entries(table: &mut toml::Table) -> Vec<toml::Value> {
    match table.remove(MOVES) {
        Some(toml::Value::Array(entries)) => entries,
        _ => Vec::new(),
    }
}

fn apply(entry: &toml::Value, sites: &Sites) -> Result<(), String> {
    let Entry { server, kind, instance, host, path, index, place, other } =
        entry.clone().try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let kind = RouteKind::ALL.into_iter().find(|it| it.as_str() == kind);
    let kind = kind.ok_or("its `kind` is none")?;
    let key = |instance: &str, host: &str, path: &str, index: u32| {
        let host = HostPattern::parse(host).map_err(|error| error.to_string())?;
        let path = path::mount_point(path).map_err(|error| error.to_string())?.into();
        Ok::<_, String>(RouteKey { instance: instance.into(), kind, host, path, index })
    };
    let other = other
        .map(|other| key(&other.instance, &other.host, &other.path, other.index))
        .transpose()?;
    let place = match (place.as_str(), other) {
        ("first", None) => Place::First,
        ("last", None) => Place::Last,
        ("before", Some(other)) => Place::Before(other),
        ("after", Some(other)) => Place::After(other),
        _ => return Err("its `place` is none, or does not go with `other`".to_owned()),
    };
    let key = key(&instance, &host, &path, index)?;
    sites.site(&server).add_move(Move { key, place }).map_err(|error| error.to_string())
}

fn entry(server: &str, Move { key, place }: &Move) -> Entry {
    let place_name = match place {
        Place::First => "first",
        Place::Last => "last",
        Place::Before(_) => "before",
        Place::After(_) => "after",
    };
    Entry {
        server: server.to_owned(),
        kind: key.kind.as_str().to_owned(),
        instance: key.instance.to_string(),
        host: key.host.to_string(),
        path: key.path_shown().to_owned(),
        index: key.index,
        place: place_name.to_owned(),
        other: place.neighbour().map(|other| Other {
            instance: other.instance.to_string(),
            host: other.host.to_string(),
            path: other.path_shown().to_owned(),
            index: other.index,
        }),
    }
}

/// Puts a file in the place of another in one step. Called on the pool.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let new = path.with_extension("toml.new");
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn is_zero(index: &u32) -> bool {
    *index == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOVED: &str = "[[move]]\nhost = \"*\"\ninstance = \"a\"\nkind = \"handler\"\npath = \"/\"\n\
                         place = \"before\"\nserver = \"web\"\n\n\
                         [move.other]\nhost = \"*.example.org\"\nindex = 1\ninstance = \"b\"\npath = \"/\"\n";

    #[test]
    fn what_is_written_is_what_was_read() {
        let unknown = "[[move]]\nplace = \"sideways\"\n";
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        fs::write(&path, format!("later = 1\n\n{MOVED}\n{unknown}")).unwrap();
        let sites = Sites::new(10);
        let file = MovesFile::read(folder.path(), &sites);
        assert_eq!(sites.site("web").moves().len(), 1);
        let text = file.text(&sites);
        assert_eq!(text, format!("{HEAD}\nlater = 1\n\n{MOVED}\n{unknown}"));
        replace(&path, &text).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_broken_is_told_with_its_line() {
        assert!(parse("a = 1\nb = = 2\n").unwrap_err().contains("line 2"));
        assert!(parse("move = 1\n").unwrap_err().contains("array"));
        assert!(parse("").is_ok());
    }
}
