//! An instance that is quarantined from the beginning: it has its listeners and its routes, and none of its code runs.
//!
//! So it is after the process has crashed in its code. Nobody stands in for it: connections are closed, and requests that its handlers and
//! filters would have been asked for are answered with 503, for a filter may be what guards a site.

#![allow(unsafe_code)] // Stands for a hook.

use std::{ffi::c_void, ptr, rc::Rc};

use medusa_abi::{
    code::{self, Code},
    data::Table,
};
use serde::{Deserialize, Serialize};

use crate::{
    config,
    http::{
        host::HostPattern,
        route::{RouteKey, RouteKind},
    },
    plugin::{
        generation::Generation,
        inherit::{self, Back, Legacy},
        library::Original,
        lifecycle::{self, Refused},
        owned::Owned,
        quarantine,
        registry::Registry,
        route::{Mount, Route},
    },
};

/// Where a handler or a filter stands, to be kept free for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    is_filter: bool,
    host: String,
    path: String,
    index: u32,
    order: i32,
}

/// Where the handlers and filters of a generation stand.
pub fn routes(generation: &Generation) -> Vec<RouteRecord> {
    let routes = generation.handles.all::<Route>();
    let mounted = routes.iter().filter(|(_, route)| route.mount.is_taken());
    let record = |route: &Rc<Route>| {
        let key = &route.mount.key;
        RouteRecord {
            is_filter: key.kind == RouteKind::Filter,
            host: key.host.to_string(),
            path: key.path.to_string(),
            index: key.index,
            order: route.order,
        }
    };
    mounted.map(|(_, route)| record(route)).collect()
}

/// Has an instance that another image of the host had be there, and quarantined. What it had of sessions and state is dropped.
///
/// # Errors
/// Why that cannot be.
pub async fn fence_off(
    registry: &Rc<Registry>,
    spec: config::Instance,
    legacy: Legacy,
    routes: &[RouteRecord],
) -> Result<(), Refused> {
    let instance = inherit::enter(registry, spec, &legacy.counts);
    let spec = instance.spec.borrow().clone();
    let original = Original::inherited(legacy.path.clone(), legacy.library);
    let staging = move || original.into_staged();
    let generation = lifecycle::map_dormant(&instance, &legacy.path, staging).await?;
    for record in routes {
        if let Err(reason) = stand(&generation, record) {
            tracing::error!(instance = instance.name, "a route of it is not kept free: {reason}");
        }
    }
    if let Err(reason) = lifecycle::activate(&generation, None) {
        tracing::error!(instance = instance.name, "its routes are not kept free: {reason}");
        instance.set_current(Some(generation.clone()));
    }
    let listeners = inherit::listeners(&instance, &legacy.listeners, Back::Closed)?;
    quarantine::quarantine(&generation, legacy.quarantined.unwrap_or_default());
    instance.quota.set_max(lifecycle::quota_of(&spec));
    instance.listen(&spec.listen, listeners).await;
    Ok(())
}

/// Takes the place of a route, for nobody.
fn stand(generation: &Rc<Generation>, record: &RouteRecord) -> Result<(), String> {
    let instance = &generation.instance;
    let host = HostPattern::parse(&record.host).map_err(|error| error.to_string())?;
    let kind = if record.is_filter { RouteKind::Filter } else { RouteKind::Handler };
    let key = RouteKey {
        instance: instance.name.as_str().into(),
        kind,
        host,
        path: record.path.as_str().into(),
        index: record.index,
    };
    let site = match &instance.spec.borrow().attach {
        Some(server) => instance.registry.sites.site(server),
        None => instance.registry.sites.site(&instance.name),
    };
    let object = Owned::new(generation, ptr::null_mut(), drop_nothing);
    let route = Route::new(object, Table::NULL, Mount::new(site, key), record.order);
    let kept = generation.handles.insert(route, u64::MAX);
    kept.map(drop).map_err(|code| format!("code {code}"))
}

unsafe extern "C" fn drop_nothing(_data: *mut c_void) -> Code {
    code::READY
}
