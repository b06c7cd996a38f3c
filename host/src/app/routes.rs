//! What the monitor's `routes` shows and changes: who is asked for an HTTP answer, and in which order.

use std::rc::Rc;

use crate::{
    app::moves_file::MovesFile,
    http::{Move, Place, RouteKey},
    monitor::control::{Refusal, RoutePlace, RouteStatus},
    plugin::{registry::Registry, route::Site},
};

/// All routes in the order in which they are asked, then the observers, site by site.
pub fn list(registry: &Registry) -> Vec<RouteStatus> {
    let mut routes = Vec::new();
    for (server, site) in registry.sites.sites() {
        let (places, moves) = (places(&site), site.moves());
        let status = |id: u64, key: &RouteKey, order: i32, requests: u64| RouteStatus {
            id,
            kind: key.kind.as_str().to_owned(),
            server: server.to_string(),
            instance: key.instance.to_string(),
            host: Some(key.host.to_string()).filter(|host| host != "*"),
            path: key.path_shown().to_owned(),
            order: i64::from(order),
            moved: moves.iter().rfind(|it| it.key == *key).map(|it| shown(&it.place, &places)),
            requests,
        };
        for route in site.list() {
            routes.push(status(route.id, &route.key, route.order, route.handler.requests()));
        }
        for observer in site.list_observers() {
            routes.push(status(observer.id, &observer.key, 0, observer.handler.told()));
        }
    }
    routes
}

/// Moves a route, or takes its move back, and has that last. It is moved even if that cannot be written down.
///
/// # Errors
/// It cannot stand there; or it stands there now, but not after a restart.
pub async fn move_route(
    registry: &Rc<Registry>,
    file: &MovesFile,
    id: u64,
    place: RoutePlace,
) -> Result<(), Refusal> {
    rearrange(registry, id, place)?;
    file.write(registry).await.map_err(|reason| {
        Refusal(format!("route {id} is moved, but will not be after a restart: {reason}"))
    })
}

fn rearrange(registry: &Registry, id: u64, place: RoutePlace) -> Result<(), Refusal> {
    let sites = registry.sites.sites();
    let found = sites.values().find_map(|site| {
        let (_, key) = places(site).into_iter().find(|(other, _)| *other == id)?;
        Some((site, key))
    });
    let Some((site, key)) = found else {
        return Err(Refusal(format!(
            "there is no route {id}; `routes` shows those that there are"
        )));
    };
    let beside = |other: u64| {
        let found = places(site).into_iter().find(|(it, _)| *it == other);
        found.map(|(_, key)| key).ok_or_else(|| {
            Refusal(format!(
                "cannot move route {id}: there is no route {other} at its server; `routes` shows those that there are"
            ))
        })
    };
    let place = match place {
        RoutePlace::First => Place::First,
        RoutePlace::Last => Place::Last,
        RoutePlace::Before(other) => Place::Before(beside(other)?),
        RoutePlace::After(other) => Place::After(beside(other)?),
        RoutePlace::Back => {
            site.take_back(&key);
            return Ok(());
        }
    };
    site.add_move(Move { key, place })
        .map_err(|reason| Refusal(format!("cannot move route {id}: {reason}")))
}

/// What is mounted at a site, by number.
fn places(site: &Site) -> Vec<(u64, RouteKey)> {
    let routes = site.list().into_iter().map(|route| (route.id, route.key.clone()));
    let observers = site.list_observers().into_iter().map(|it| (it.id, it.key.clone()));
    routes.chain(observers).collect()
}

fn shown(place: &Place, places: &[(u64, RouteKey)]) -> String {
    let other = |key: &RouteKey| match places.iter().find(|(_, other)| other == key) {
        Some((id, _)) => id.to_string(),
        None => format!("{key}, when it is there"),
    };
    match place {
        Place::First => "first".to_owned(),
        Place::Last => "last".to_owned(),
        Place::Before(key) => format!("before {}", other(key)),
        Place::After(key) => format!("after {}", other(key)),
    }
}
