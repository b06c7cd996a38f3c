//! The host's service `medusa.status`: what it tells instances of itself, and of all instances.
//!
//! The answer is a piece for the host, then one for each instance, by name. Each is made apart, when it is asked for: one that
//! cannot be made says so in its own place, and the others come all the same.

use std::{
    any::Any,
    collections::{BTreeSet, HashMap},
    iter,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use crate::{
    app::{
        figures,
        host::{ConnectionsServed, Host, metrics_of},
    },
    monitor::control::{Control, HostStatus, InstanceStatus, MetricStatus},
    net::connections::Tally,
    plugin::{
        instance::Instance,
        manifest::Capability,
        own::{Answer, OwnService},
    },
    status::InstanceFigures,
    sys::process,
};

/// The version of the pieces below. New fields do not change it.
const VERSION: u32 = 1;

/// One piece of the answer, as CBOR: a map with one key, which says what it is.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Piece {
    Host(Box<HostPiece>),
    Instance(Box<InstancePiece>),
    Failed(Failed),
}

/// The host and its process.
#[derive(Serialize)]
struct HostPiece {
    #[serde(flatten)]
    status: HostStatus,
    /// When the host began, in seconds since 1970.
    started_s: u64,
    /// Of the whole process; unknown where `/proc` cannot be read.
    resident_bytes: Option<u64>,
    descriptors: Option<usize>,
    threads: Option<usize>,
}

/// One instance: all its generations together, then each.
#[derive(Serialize)]
struct InstancePiece {
    /// Of the generation that gets new work, or else of the last one; the counts are those of all generations that there are, and
    /// for `requests` and `panics` of those that there were.
    #[serde(flatten)]
    status: InstanceStatus,
    /// Whether there is a generation that gets new work, or would if it were well. What was unloaded and still drains has none.
    is_loaded: bool,
    generations: Vec<InstanceStatus>,
    /// Over all generations; none of an instance that could not be loaded.
    figures: Option<InstanceFigures>,
    listeners: Vec<ListenerPiece>,
    metrics: Vec<MetricStatus>,
}

#[derive(Serialize)]
struct ListenerPiece {
    address: String,
    /// Connections, since it was bound.
    accepted: u64,
}

/// What there is to say cannot be said.
#[derive(Serialize)]
struct Failed {
    /// Of that instance; none for the host.
    name: Option<String>,
    reason: String,
}

/// Has `host` answer the service, for as long as it lives.
pub(super) fn offer(host: &Rc<Host>) {
    let weak = Rc::downgrade(host);
    let service = OwnService {
        name: "medusa.status",
        version: VERSION,
        capability: Capability::Status,
        answer: Box::new(move || match weak.upgrade() {
            Some(host) => answer(host),
            None => Box::new(iter::empty()),
        }),
    };
    let services = &host.registry.own_services;
    services
        .set(vec![service])
        .ok()
        .expect("the services are offered once, where the host is made");
}

fn answer(host: Rc<Host>) -> Answer {
    let instances = host.registry.instances();
    let loaded = instances.iter().map(|instance| instance.name.clone());
    let names: BTreeSet<_> = loaded.chain(host.failures().into_iter().map(|it| it.name)).collect();
    let connections = Connections::look(&host, &instances);
    let about = iter::once(None).chain(names.into_iter().map(Some));
    Box::new(about.filter_map(move |name| {
        made_apart(name.as_deref(), || match &name {
            None => Some(Piece::Host(Box::new(host_piece(&host)))),
            Some(name) => instance_piece(&host, &connections, name)
                .map(|piece| Piece::Instance(Box::new(piece))),
        })
    }))
}

/// All connections, counted once for all pieces.
struct Connections {
    of_generations: ConnectionsServed,
    of_instances: HashMap<String, Tally>,
}

impl Connections {
    fn look(host: &Host, instances: &[Rc<Instance>]) -> Connections {
        let traffic: Vec<_> = instances.iter().map(|instance| &instance.traffic).collect();
        let tallies = host.registry.connections.tallies(&traffic);
        let names = instances.iter().map(|instance| instance.name.clone());
        Connections {
            of_generations: host.connections_served(),
            of_instances: names.zip(tallies).collect(),
        }
    }
}

/// The piece that `make` makes, or one that says why there is none. `None` if there is nothing to tell of.
fn made_apart(name: Option<&str>, make: impl FnOnce() -> Option<Piece>) -> Option<Vec<u8>> {
    let made = catch_unwind(AssertUnwindSafe(make)).unwrap_or_else(|panic| {
        let reason =
            format!("its figures cannot be made, which is a bug in medusa: {}", said(&*panic));
        tracing::error!(instance = name.unwrap_or_default(), "{reason}");
        Some(Piece::Failed(Failed { name: name.map(str::to_owned), reason }))
    })?;
    let mut bytes = Vec::new();
    ciborium::into_writer(&made, &mut bytes)
        .expect("maps of text and numbers can be written to memory");
    Some(bytes)
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked")
}

fn host_piece(host: &Host) -> HostPiece {
    let status = host.host();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    HostPiece {
        started_s: since_1970.saturating_sub(Duration::from_millis(status.uptime_ms)).as_secs(),
        status,
        resident_bytes: process::resident_bytes().ok(),
        descriptors: process::descriptor_count().ok(),
        threads: process::thread_count().ok(),
    }
}

/// What there is to say of the instance `name`; `None` if it has gone meanwhile.
fn instance_piece(host: &Host, connections: &Connections, name: &str) -> Option<InstancePiece> {
    let failed = host.failures().into_iter().find(|failed| failed.name == name);
    let Some(instance) = host.registry.instance(name) else {
        return failed.map(InstancePiece::not_loaded);
    };
    let generations: Vec<_> = instance
        .generations()
        .iter()
        .map(|it| host.status(it, &connections.of_generations))
        .collect();
    let current = instance.current();
    let number = current.as_ref().map(|current| u64::from(current.number));
    let shown = generations.iter().find(|it| Some(it.generation) == number);
    let status = shown.or(failed.as_ref()).or(generations.last())?.clone();
    Some(InstancePiece {
        is_loaded: current.is_some() || generations.iter().any(|it| it.state == "starting"),
        status: together(&instance, &generations, status),
        generations,
        figures: Some(figures::figures(
            &instance,
            connections.of_instances.get(name).copied().unwrap_or_default(),
        )),
        listeners: listeners(&instance),
        metrics: current.map(|current| metrics_of(&current)).unwrap_or_default(),
    })
}

impl InstancePiece {
    fn not_loaded(status: InstanceStatus) -> InstancePiece {
        InstancePiece {
            status,
            is_loaded: false,
            generations: Vec::new(),
            figures: None,
            listeners: Vec::new(),
            metrics: Vec::new(),
        }
    }
}

/// `status` with the counts of all generations.
fn together(
    instance: &Instance,
    generations: &[InstanceStatus],
    status: InstanceStatus,
) -> InstanceStatus {
    let sum = |of: fn(&InstanceStatus) -> u64| generations.iter().map(of).sum();
    InstanceStatus {
        connections: sum(|it| it.connections),
        heap_bytes: sum(|it| it.heap_bytes),
        requests: instance.requests(),
        panics: instance.panics(),
        ..status
    }
}

fn listeners(instance: &Instance) -> Vec<ListenerPiece> {
    let listeners = instance.accepted().into_iter();
    listeners
        .map(|(listener, accepted)| ListenerPiece {
            address: listener.address().to_string(),
            accepted,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(piece: Option<Vec<u8>>) -> serde_json::Value {
        ciborium::from_reader(&*piece.unwrap()).unwrap()
    }

    #[test]
    fn a_piece_that_cannot_be_made_says_so_in_its_place() {
        let status = InstanceStatus { name: "web".to_owned(), ..InstanceStatus::default() };
        let piece = || Some(Piece::Instance(Box::new(InstancePiece::not_loaded(status.clone()))));
        let names = ["a", "broken", "z"];
        let pieces = names.map(|name| {
            read(made_apart(Some(name), || {
                if name == "broken" { panic!("no figures") } else { piece() }
            }))
        });
        assert_eq!(pieces[0]["instance"]["name"], "web");
        assert_eq!(pieces[0]["instance"]["is_loaded"], false);
        assert_eq!(pieces[1]["failed"]["name"], "broken");
        assert!(pieces[1]["failed"]["reason"].as_str().unwrap().ends_with(": no figures"));
        assert_eq!(pieces[2], pieces[0]);
        assert!(made_apart(Some("gone"), || None).is_none());
    }
}
