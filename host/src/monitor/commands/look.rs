//! `status`, `plugins`, `listeners`, `metrics`: what there is.

use crate::{
    config::units,
    monitor::{
        command::{Call, Failure},
        control::{HostStatus, InstanceStatus, ListenerStatus, MetricStatus},
        table::{self, Table},
    },
};

/// `status`
pub(super) async fn status(call: Call) -> Result<(), Failure> {
    let host = call.control.host();
    if call.json {
        return Ok(call.out.json(&host).await?);
    }
    Ok(call.out.text(&host_text(&host)).await?)
}

/// `plugins`
pub(super) async fn plugins(call: Call) -> Result<(), Failure> {
    let instances = call.control.instances();
    if call.json {
        return Ok(call.out.json(&instances).await?);
    }
    if instances.is_empty() {
        return Ok(call
            .out
            .text("no instances; `load NAME --library LIBRARY` loads one\n")
            .await?);
    }
    Ok(call.out.text(&instances_text(&instances, call.width)).await?)
}

/// `metrics`
pub(super) async fn metrics(call: Call) -> Result<(), Failure> {
    let mut metrics = call.control.metrics();
    if let Some(name) = call.arguments.get("NAME") {
        metrics.retain(|metric| metric.instance == name);
    }
    if call.json {
        return Ok(call.out.json(&metrics).await?);
    }
    let mut table = Table::new(&["instance", "metric", "kind", "value#", "help"]);
    for MetricStatus { instance, name, kind, value, help } in metrics {
        table.row([instance, name, kind, value.to_string(), help]);
    }
    Ok(call.out.text(&table.render(call.width)).await?)
}

/// `listeners`
pub(super) async fn listeners(call: Call) -> Result<(), Failure> {
    let listeners = call.control.listeners();
    if call.json {
        return Ok(call.out.json(&listeners).await?);
    }
    let mut table = Table::new(&["instance", "address", "tls", "connections#", "accepted#"]);
    for ListenerStatus { instance, address, tls, connections, accepted } in listeners {
        table.row([
            instance,
            address,
            tls.unwrap_or_default(),
            connections.to_string(),
            accepted.to_string(),
        ]);
    }
    Ok(call.out.text(&table.render(call.width)).await?)
}

/// Bytes for people: three digits and a unit.
pub(super) fn bytes(bytes: u64) -> String {
    let (mut size, mut units) = (bytes as f64, ["B", "KiB", "MiB", "GiB", "TiB"].iter());
    let mut unit = units.next().unwrap_or(&"B");
    while size >= 1024.0 {
        let Some(next) = units.next() else { break };
        (size, unit) = (size / 1024.0, next);
    }
    if *unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

/// A time for people: its two largest units.
pub(super) fn elapsed(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => units::show_duration(ms),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn upgrades(host: &HostStatus) -> String {
    let draining = match host.children {
        0 => String::new(),
        1 => "; 1 child process still drains".to_owned(),
        count => format!("; {count} child processes still drain"),
    };
    let probation = host
        .probation_ms
        .map_or(String::new(), |ms| format!("; on probation for another {}", elapsed(ms)));
    let back = host.back.as_ref().map_or(String::new(), |why| format!("; back, for {why}"));
    format!("{}{probation}{back}{draining}", host.upgrades)
}

fn host_text(host: &HostStatus) -> String {
    let lines = [
        (
            "medusa",
            format!(
                "{}, process {}, {} for {}",
                host.version,
                host.pid,
                host.state,
                elapsed(host.uptime_ms)
            ),
        ),
        ("upgrades", upgrades(host)),
        ("configuration", host.config.clone()),
        ("instances", host.instances.to_string()),
        (
            "connections",
            format!("{} now, {} since the start", host.connections, host.connections_total),
        ),
        ("requests", host.requests.to_string()),
        ("plugins' heaps", bytes(host.heap_bytes)),
        ("blocking jobs", format!("{} running, {} waiting", host.jobs_running, host.jobs_queued)),
        ("panics", host.panics.to_string()),
        ("stalls", host.stalls.to_string()),
        ("crashes", host.crashes.to_string()),
        ("pinned libraries", host.pinned.to_string()),
    ];
    lines.iter().map(|(name, value)| format!("{name:16}  {}\n", table::clean(value))).collect()
}

fn instances_text(instances: &[InstanceStatus], width: usize) -> String {
    let heads = [
        "name",
        "library",
        "version",
        "gen#",
        "state",
        "conns#",
        "requests#",
        "heap#",
        "panics#",
        "stalls#",
        "restarts#",
        "serves",
        "reason",
    ];
    let mut table = Table::new(&heads);
    for instance in instances {
        let serves = match &instance.attach {
            Some(attach) => instance
                .listen
                .iter()
                .cloned()
                .chain([format!("in {attach}")])
                .collect::<Vec<_>>()
                .join(" "),
            None => instance.listen.join(" "),
        };
        table.row([
            instance.name.clone(),
            instance.library.clone(),
            instance.version.clone(),
            instance.generation.to_string(),
            instance.state.clone(),
            instance.connections.to_string(),
            instance.requests.to_string(),
            bytes(instance.heap_bytes),
            instance.panics.to_string(),
            instance.stalls.to_string(),
            instance.restarts.to_string(),
            serves,
            instance.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(elapsed(5), "5 ms");
        assert_eq!(elapsed(61_000), "1 min 1 s");
        assert_eq!(elapsed(90_000_000), "1 d 1 h");
    }
}
