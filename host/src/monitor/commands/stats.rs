//! `stats`: what each instance has in use, and has done.

use crate::{
    config::words,
    monitor::{
        command::{Call, Failure},
        commands::look::bytes,
        table::Table,
    },
    status::InstanceFigures,
};

/// `stats`
pub(super) async fn stats(call: Call) -> Result<(), Failure> {
    let mut all = call.control.figures();
    if let Some(name) = call.arguments.get("NAME") {
        let known: Vec<&str> = all.iter().map(|figures| figures.name.as_str()).collect();
        if !known.contains(&name) {
            let suggestion = words::suggest(name, &known, "instances");
            let sentence = format!("no instance `{name}` is loaded; {suggestion}");
            return Err(Failure::Refused(sentence));
        }
        all.retain(|figures| figures.name == name);
    }
    if call.json {
        return Ok(call.out.json(&all).await?);
    }
    if all.is_empty() {
        return Ok(call.out.text("no instance is loaded\n").await?);
    }
    let tables = [connections(&all), work(&all)];
    let text: Vec<_> = tables.iter().map(|table| table.render(call.width)).collect();
    Ok(call.out.text(&text.join("\n")).await?)
}

fn connections(all: &[InstanceFigures]) -> Table {
    let heads = ["instance", "gens#", "active#", "parked#", "received#", "sent#", "requests#"];
    let mut table = Table::new(&heads);
    for figures in all {
        table.row([
            figures.name.clone(),
            figures.generations.to_string(),
            figures.connections_active.to_string(),
            figures.connections_parked.to_string(),
            bytes(figures.received_bytes),
            bytes(figures.sent_bytes),
            figures.requests.to_string(),
        ]);
    }
    table
}

fn work(all: &[InstanceFigures]) -> Table {
    let heads = ["instance", "tasks#", "timers#", "jobs#", "threads#", "heap#", "panics#"];
    let mut table = Table::new(&heads);
    for figures in all {
        table.row([
            figures.name.clone(),
            figures.tasks.to_string(),
            figures.timers.to_string(),
            figures.jobs.to_string(),
            figures.threads.to_string(),
            bytes(figures.heap_bytes),
            figures.panics.to_string(),
        ]);
    }
    table
}
