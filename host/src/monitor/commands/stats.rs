//! `stats`: what each instance has in use, and has done.

use std::time::UNIX_EPOCH;

use crate::{
    config::words,
    monitor::{
        command::{Call, Failure},
        commands::look::{bytes, elapsed},
        table::Table,
    },
    status::{DurationFigures, InstanceFigures},
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
    let now_ms = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let polls = durations("polls#", now_ms, all.iter().map(|it| (&it.name, it.polls)));
    let latency = durations("answered#", now_ms, all.iter().map(|it| (&it.name, it.latency)));
    let tables = [connections(&all), work(&all), polls, latency];
    let tables = tables.iter().filter(|table| !table.is_empty());
    let mut text: Vec<_> = tables.map(|table| table.render(call.width)).collect();
    if all.iter().any(|figures| figures.polls.is_none()) {
        text.push(NOT_COUNTED.to_owned());
    }
    Ok(call.out.text(&text.join("\n")).await?)
}

/// Stands for what is not counted.
const NOT_COUNTED: &str =
    "polls and latency are not counted: the configuration says `counters = false`\n";

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

/// One row for each of which there are figures.
fn durations<'a>(
    count: &'static str,
    now_ms: u64,
    all: impl Iterator<Item = (&'a String, Option<DurationFigures>)>,
) -> Table {
    let heads = ["instance", count, "total#", "p50#", "p99#", "longest#", "ago"];
    let mut table = Table::new(&heads);
    for (name, figures) in all.filter_map(|(name, figures)| Some((name, figures?))) {
        let times = [figures.total_ns, figures.p50_ns, figures.p99_ns];
        let ago = |at_ms| elapsed(now_ms.saturating_sub(at_ms));
        let counts = [name.clone(), figures.count.to_string()].into_iter();
        let longest =
            [duration(figures.longest_ns), figures.longest_at_ms.map(ago).unwrap_or_default()];
        table.row(counts.chain(times.map(duration)).chain(longest));
    }
    table
}

/// A time for people: three or four digits and a unit.
fn duration(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1000 => return format!("{ns} ns"),
        1000..1_000_000 => (ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        1_000_000_000..1_000_000_000_000 => (ns as f64 / 1e9, "s"),
        _ => return elapsed(ns / 1_000_000),
    };
    format!("{value:.1} {unit}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        assert_eq!(duration(0), "0 ns");
        assert_eq!(duration(999), "999 ns");
        assert_eq!(duration(12_345), "12.3 µs");
        assert_eq!(duration(150_000_000), "150.0 ms");
        assert_eq!(duration(2_500_000_000), "2.5 s");
        assert_eq!(duration(1_000_000_000_000), "16 min 40 s");
    }
}
