//! `connections`: who is connected, narrowed, sorted and counted.
//!
//! There may be very many: they are looked at a part in each turn of the loop, and no more are kept than are shown.

use std::{
    collections::{BTreeMap, btree_map},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use serde_json::json;
use tokio::task::yield_now;

use crate::{
    config::{units, words},
    monitor::{
        command::{Arguments, Call, Failure},
        commands::look::{bytes, elapsed},
        control::{ConnectionStatus, Control},
        table::Table,
    },
};

/// How many rows people are shown if they do not say; programs get all.
const ROWS: usize = 100;

/// Rows that are written in one turn of the loop.
const ROWS_PER_TURN: usize = 256;

/// What a connection can be at.
pub(super) const STATES: &[&str] = &["connecting", "open", "parked", "closing"];

/// What connections can be sorted by.
pub(super) const KEYS: &[&str] = &["id", "age", "idle", "received", "sent", "bytes"];

/// `connections [NAME]… [--state STATE]… [--peer PEER] …`
pub(super) async fn connections(call: Call) -> Result<(), Failure> {
    let filter = Filter::of(&call.arguments, &*call.control)?;
    let order = Order::of(&call.arguments)?;
    let limit =
        call.arguments.number("limit")?.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let only_counts = call.arguments.get("count").is_some();
    let rows_max = match limit {
        _ if only_counts => 0,
        None if call.json => usize::MAX,
        limit => limit.unwrap_or(ROWS),
    };
    let found = Found::gather(&*call.control, &filter, order, rows_max).await;
    match (call.json, only_counts) {
        (true, true) => Ok(call.out.json(&found.counts_json()).await?),
        (true, false) => found.tell_json(&call).await,
        (false, _) => found.tell_text(&call, only_counts).await,
    }
}

// === What was found ===

/// The connections that match: as many as are to be shown, and the number of all.
struct Found {
    /// In the order in which they are shown.
    rows: BTreeMap<(u64, u64), ConnectionStatus>,
    all: u64,
    /// How many match, by what they are at.
    states: BTreeMap<String, u64>,
}

impl Found {
    async fn gather(
        control: &dyn Control,
        filter: &Filter,
        order: Order,
        rows_max: usize,
    ) -> Found {
        let mut found = Found { rows: BTreeMap::new(), all: 0, states: BTreeMap::new() };
        let mut from = Some(0);
        while let Some(at) = from {
            let (part, next) = control.connections(at);
            found.all += part.len() as u64;
            for connection in part.into_iter().filter(|it| filter.matches(it)) {
                *found.states.entry(connection.state.clone()).or_default() += 1;
                found.rows.insert((order.place(&connection), connection.id), connection);
                if found.rows.len() > rows_max {
                    found.rows.pop_last();
                }
            }
            from = next;
            if from.is_some() {
                yield_now().await;
            }
        }
        found
    }

    fn matched(&self) -> u64 {
        self.states.values().sum()
    }

    fn counts_json(&self) -> serde_json::Value {
        json!({ "all": self.all, "matched": self.matched(), "states": self.states })
    }

    /// One array, as it would be written at once.
    async fn tell_json(self, call: &Call) -> Result<(), Failure> {
        let (mut rows, mut separator) = (self.rows.into_values(), '[');
        let mut text = String::new();
        while let Some(part) = next_part(&mut rows) {
            for connection in part {
                let row = serde_json::to_string(&connection).expect("it is plain data");
                let _ = write!(text, "{separator}{row}");
                separator = ',';
            }
            call.out.text(&std::mem::take(&mut text)).await?;
            yield_now().await;
        }
        Ok(call.out.text(if separator == '[' { "[]\n" } else { "]\n" }).await?)
    }

    async fn tell_text(self, call: &Call, only_counts: bool) -> Result<(), Failure> {
        let counts = self.counts_text(only_counts);
        let mut table = Table::new(&[
            "id#",
            "instance",
            "gen#",
            "peer",
            "local",
            "tls",
            "state",
            "age#",
            "idle#",
            "received#",
            "sent#",
        ]);
        let mut rows = self.rows.into_values();
        while let Some(part) = next_part(&mut rows) {
            part.into_iter().for_each(|connection| table.row(cells(connection)));
            yield_now().await;
        }
        if !table.is_empty() {
            let mut lines = table.lines(call.width);
            loop {
                let part: String = lines.by_ref().take(ROWS_PER_TURN).collect();
                if part.is_empty() {
                    break;
                }
                call.out.text(&part).await?;
                yield_now().await;
            }
        }
        Ok(call.out.text(&counts).await?)
    }

    /// The line at the end.
    fn counts_text(&self, only_counts: bool) -> String {
        let (all, matched, shown) = (self.all, self.matched(), self.rows.len() as u64);
        let noun = if all == 1 { "connection" } else { "connections" };
        let mut line = if matched == all {
            format!("{all} {noun}")
        } else {
            format!("{matched} of {all} {noun}")
        };
        let states = STATES
            .iter()
            .filter_map(|state| self.states.get(*state).map(|count| format!("{count} {state}")));
        let states = states.collect::<Vec<_>>().join(", ");
        if !states.is_empty() {
            line += &format!(": {states}");
        }
        if shown < matched && !only_counts {
            line += &format!("; {shown} shown, `--limit N` shows more");
        }
        line + "\n"
    }
}

fn next_part(
    rows: &mut btree_map::IntoValues<(u64, u64), ConnectionStatus>,
) -> Option<Vec<ConnectionStatus>> {
    let part: Vec<_> = rows.take(ROWS_PER_TURN).collect();
    (!part.is_empty()).then_some(part)
}

fn cells(connection: ConnectionStatus) -> [String; 11] {
    [
        connection.id.to_string(),
        connection.instance,
        connection.generation.to_string(),
        connection.peer,
        connection.local,
        if connection.tls { "tls".to_owned() } else { String::new() },
        connection.state,
        elapsed(connection.age_ms),
        connection.idle_ms.map(elapsed).unwrap_or_default(),
        bytes(connection.received_bytes),
        bytes(connection.sent_bytes),
    ]
}

// === Order ===

#[derive(Clone, Copy)]
struct Order {
    value: fn(&ConnectionStatus) -> u64,
    largest_first: bool,
}

impl Order {
    fn of(arguments: &Arguments) -> Result<Order, Failure> {
        let key = arguments.get("sort").unwrap_or("id");
        let value: fn(&ConnectionStatus) -> u64 = match key {
            "id" => |it| it.id,
            "age" => |it| it.age_ms,
            "idle" => |it| it.idle_ms.unwrap_or_default(),
            "received" => |it| it.received_bytes,
            "sent" => |it| it.sent_bytes,
            "bytes" => sum,
            other => return Err(unknown("sort", other, KEYS)),
        };
        let is_reversed = arguments.get("reverse").is_some();
        Ok(Order { value, largest_first: (key == "id") == is_reversed })
    }

    /// Less, the earlier it comes.
    fn place(self, connection: &ConnectionStatus) -> u64 {
        let value = (self.value)(connection);
        if self.largest_first { u64::MAX - value } else { value }
    }
}

fn sum(connection: &ConnectionStatus) -> u64 {
    connection.received_bytes.saturating_add(connection.sent_bytes)
}

// === Filters ===

/// Which connections are meant; all that it asks for has to hold.
struct Filter {
    /// Any of them; all, if there are none.
    instances: Vec<String>,
    /// Any of them; all, if there are none.
    states: Vec<String>,
    peer: Option<End>,
    local: Option<End>,
    older_ms: u64,
    idle_ms: Option<u64>,
    bytes_min: u64,
}

/// One side of a connection, more or less exactly.
#[derive(Debug, PartialEq)]
enum End {
    Unix(String),
    Exact(SocketAddr),
    /// An address, with as many of its leading bits as count.
    Network(IpAddr, u8),
}

impl Filter {
    fn of(arguments: &Arguments, control: &dyn Control) -> Result<Filter, Failure> {
        let owned = |name: &str| arguments.all(name).map(str::to_owned).collect::<Vec<_>>();
        let (instances, states) = (owned("NAME"), owned("state"));
        if !instances.is_empty() {
            let running = control.instances();
            let known: Vec<&str> = running.iter().map(|status| status.name.as_str()).collect();
            if let Some(name) = instances.iter().find(|name| !known.contains(&name.as_str())) {
                let suggestion = words::suggest(name, &known, "instances");
                return Err(Failure::Refused(format!(
                    "there is no instance `{name}`; {suggestion}"
                )));
            }
        }
        if let Some(state) = states.iter().find(|state| !STATES.contains(&state.as_str())) {
            return Err(unknown("state", state, STATES));
        }
        let end = |name: &str| arguments.get(name).map(|text| End::parse(name, text)).transpose();
        Ok(Filter {
            instances,
            states,
            peer: end("peer")?,
            local: end("local")?,
            older_ms: amount(arguments, "older", units::duration, units::DURATION_HELP)?
                .unwrap_or(0),
            idle_ms: amount(arguments, "idle", units::duration, units::DURATION_HELP)?,
            bytes_min: amount(arguments, "bytes", units::size, units::SIZE_HELP)?.unwrap_or(0),
        })
    }

    fn matches(&self, connection: &ConnectionStatus) -> bool {
        let any = |wanted: &[String], found: &String| wanted.is_empty() || wanted.contains(found);
        any(&self.instances, &connection.instance)
            && any(&self.states, &connection.state)
            && connection.age_ms >= self.older_ms
            && self.idle_ms.is_none_or(|ms| connection.idle_ms.is_some_and(|idle| idle >= ms))
            && sum(connection) >= self.bytes_min
            && self.peer.as_ref().is_none_or(|peer| peer.matches(&connection.peer))
            && self.local.as_ref().is_none_or(|local| local.matches(&connection.local))
    }
}

impl End {
    fn parse(option: &str, text: &str) -> Result<End, Failure> {
        if let Some(path) = text.strip_prefix("unix") {
            if path.is_empty() || path.starts_with(':') {
                return Ok(End::Unix(text.to_owned()));
            }
        } else if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(End::Exact(plain(address)));
        } else if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return Ok(End::Network(ip, width(ip)));
        } else if let Some((ip, bits)) = text.split_once('/')
            && let (Ok(ip), Ok(bits)) = (ip.parse::<IpAddr>(), bits.parse::<u8>())
            && bits <= width(ip)
        {
            return Ok(End::Network(ip, bits));
        }
        Err(Failure::Usage(format!(
            "--{option} takes an address (10.0.0.7, [::1]:4242), a network (10.0.0.0/8) or `unix`, not {}",
            words::quote(text)
        )))
    }

    fn matches(&self, shown: &str) -> bool {
        match (self, shown.parse::<SocketAddr>()) {
            (End::Exact(wanted), Ok(address)) => plain(address) == *wanted,
            (End::Network(network, bits), Ok(address)) => {
                is_within(address.ip().to_canonical(), *network, *bits)
            }
            (End::Unix(wanted), Err(_)) => wanted == "unix" || wanted == shown,
            _ => false,
        }
    }
}

/// An IPv4 peer of a listener for both families is shown as IPv6, and looked for as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn is_within(ip: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) => {
            let differing = ip.to_bits() ^ network.to_bits();
            differing.checked_shr(32 - u32::from(bits)).unwrap_or(0) == 0
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) => {
            let differing = ip.to_bits() ^ network.to_bits();
            differing.checked_shr(128 - u32::from(bits)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// The value of an option that is a number with or without a unit.
fn amount(
    arguments: &Arguments,
    option: &str,
    with_unit: fn(&str) -> Option<u64>,
    help: &str,
) -> Result<Option<u64>, Failure> {
    let read = |text: &str| {
        text.parse().ok().or_else(|| with_unit(text)).ok_or_else(|| {
            Failure::Usage(format!("--{option} cannot be {}; {help}", words::quote(text)))
        })
    };
    arguments.get(option).map(read).transpose()
}

fn unknown(option: &str, word: &str, known: &[&str]) -> Failure {
    let suggestion = words::suggest(word, known, "words for it");
    Failure::Usage(format!("--{option} cannot be {}; {suggestion}", words::quote(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let check = |wanted: &str, shown: &str, expected: bool| {
            let end = End::parse("peer", wanted).unwrap();
            assert_eq!(end.matches(shown), expected, "{wanted} {shown}");
        };
        check("10.0.0.7", "10.0.0.7:5", true);
        check("10.0.0.7", "10.0.0.8:5", false);
        check("10.0.0.7:5", "10.0.0.7:5", true);
        check("10.0.0.7:6", "10.0.0.7:5", false);
        check("10.0.0.7", "[::ffff:10.0.0.7]:5", true);
        check("10.0.0.7:5", "[::ffff:10.0.0.7]:5", true);
        check("10.0.0.0/8", "10.255.0.7:5", true);
        check("10.0.0.0/8", "11.0.0.7:5", false);
        check("10.1.2.3/31", "10.1.2.2:5", true);
        check("0.0.0.0/0", "10.255.0.7:5", true);
        check("0.0.0.0/0", "[::1]:5", false);
        check("::/0", "[2001:db8::1]:5", true);
        check("2001:db8::/32", "[2001:db8:ffff::1]:5", true);
        check("2001:db8::/32", "[2001:db9::1]:5", false);
        check("::1", "[::1]:5", true);
        check("[::1]", "[::1]:5", true);
        check("[::1]:5", "[::1]:5", true);
        check("unix", "unix:", true);
        check("unix", "127.0.0.1:5", false);
        check("unix:/run/a", "unix:/run/a", true);
        check("unix:/run/a", "unix:/run/b", false);
        check("127.0.0.1", "unix:", false);
    }

    #[test]
    fn what_is_no_end_is_refused() {
        for text in [
            "",
            "localhost",
            "10.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/x",
            "unixes",
            ":80",
        ] {
            assert!(matches!(End::parse("peer", text), Err(Failure::Usage(_))), "{text}");
        }
    }
}
