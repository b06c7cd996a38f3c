//! What an extension waits for, as the operator should read it.

use crate::{
    config::words,
    plugin::{instance::Instance, manifest::PluginKind},
};

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
