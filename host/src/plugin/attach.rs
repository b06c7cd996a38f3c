//! Why an instance is of no use to anybody yet, as the operator should read it.

use crate::{
    config::words,
    plugin::{
        generation::{Generation, Phase},
        instance::Instance,
        manifest::PluginKind,
        route::Route,
    },
};

/// Why nobody can reach what a running generation offers: it extends nothing, or listens nowhere. `None` if somebody can, or if it
/// offers nothing of the kind.
pub fn reaches_nobody(generation: &Generation) -> Option<String> {
    let instance = &generation.instance;
    let is_alone = instance.spec.borrow().attach.is_none()
        && generation.manifest.kind != PluginKind::HttpServer;
    if generation.phase.get() != Phase::Running || !is_alone {
        return None;
    }
    let (name, listens) = (&instance.name, !instance.listeners().is_empty());
    if generation.service.borrow().is_some() && !listens {
        return Some(format!(
            "listens nowhere, so that nobody can connect to it; `unload {name}`, and load it with `--listen ADDRESS`"
        ));
    }
    let has_routes = !generation.handles.all::<Route>().is_empty();
    (has_routes && !listens).then(|| {
        format!(
            "extends no server of HTTP, so that no request comes to it; `unload {name}`, and load it with `--attach SERVER`"
        )
    })
}

/// Why an extension answers nothing yet: what it waits for, and which servers of HTTP there are instead. `None` if it does not wait.
pub fn waits_for(instance: &Instance) -> Option<String> {
    if !instance.is_waiting() {
        return None;
    }
    let attach = instance.spec.borrow().attach.clone()?;
    let others = instance.registry.instances();
    let servers = others.iter().filter(|other| {
        other.current().is_some_and(|current| current.manifest.kind == PluginKind::HttpServer)
    });
    let servers: Vec<&str> = servers.map(|server| server.name.as_str()).collect();
    let hint = match servers[..] {
        [] => "no server of HTTP is running".to_owned(),
        _ => words::suggest(&attach, &servers, "running servers of HTTP"),
    };
    Some(format!("waits for `{attach}`, which is not running; {hint}"))
}
