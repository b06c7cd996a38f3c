//! Shows what the server does: a page for people, JSON, metrics for Prometheus, and whether all is well.
//!
//! Everything shown is asked for anew for each request, of the host and of the instances themselves; nothing is kept. Figures that
//! cannot be had are said so in their own place, and never keep back others'.

mod answer;
mod config;
mod figures;
mod gather;
mod health;
mod metrics;
mod page;
mod words;

use std::rc::Rc;

use medusa_plugin_api::{Registrar, Request, Result, export_plugin};

use crate::config::Settings;

export_plugin!(
    load,
    config = Settings,
    capabilities = ["status", "services"],
    kind = "http-extension"
);

fn load(registrar: &mut Registrar) -> Result<()> {
    let settings = Rc::new(registrar.config::<Settings>()?);
    // A host that cannot tell is found out now, and not by the first visitor.
    registrar.on_start(async { gather::check().await });
    registrar.http("/", move |request: Request| {
        let settings = settings.clone();
        async move { answer::answer(request, &settings).await }
    });
    Ok(())
}
