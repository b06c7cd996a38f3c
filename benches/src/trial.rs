//! A trial: one kind of load, put on medusa and on others in rounds whose order alternates.

use crate::{
    Result, interrupt,
    load::{Load, held},
    options::Options,
    rows::Row,
    servers::{Kind, Server},
    site::Site,
    start,
};

/// One kind of load.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Trial {
    /// wrk against a server that runs.
    Wrk(Load),
    /// Many connections of which few ask for something, against a server that has just been started.
    Held,
    /// Starting the server, up to its first answer.
    Start,
}

/// One of the things that a trial measures.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Figure {
    /// The server's time on its core per request.
    ServerUs,
    /// The same and the client's together.
    BothUs,
    /// Memory that the server needs for each connection that is idle.
    ConnectionBytes,
    /// The server's time per request when every idle connection asks once.
    TurnUs,
    /// The latency that one request in a hundred exceeds.
    P99Us,
    /// The same of a quarter of a second, as it is in most quarters.
    QuartersP99Us,
    /// From the start of the process to its first answer.
    StartMs,
}

/// What one server did in one round.
pub(crate) type Figures = Vec<(Figure, f64)>;

/// A row with its measurements, or with the reason why there are none.
pub(crate) struct Measured<'a> {
    pub(crate) row: &'a Row,
    pub(crate) outcome: Result<Vec<Pair>>,
}

/// A figure of medusa and of another in the same round.
pub(crate) struct Pair {
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
}

impl Figure {
    /// What is counted, for the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Figure::ServerUs => "server µs/request",
            Figure::BothUs => "client + server µs/request",
            Figure::ConnectionBytes => "memory B/connection",
            Figure::TurnUs => "idle, server µs/request",
            Figure::P99Us => "latency p99 µs",
            Figure::QuartersP99Us => "latency p99 µs, by the quarter",
            Figure::StartMs => "first answer ms",
        }
    }
}

/// Measures all rows. What fails is told there, and the others go on; only an interruption ends everything.
pub(crate) fn run_all<'a>(
    rows: &[&'a Row],
    options: &Options,
    site: &Site,
) -> Result<Vec<Measured<'a>>> {
    let mut measured: Vec<Measured<'a>> = Vec::new();
    for row in rows {
        if measured.iter().any(|it| it.row.trial == row.trial) {
            continue;
        }
        let together: Vec<_> = rows.iter().filter(|it| it.trial == row.trial).copied().collect();
        measured.extend(measure(&together, options, site));
        interrupt::check()?;
    }
    Ok(measured)
}

/// Measures the rows of one trial. A peer that cannot be had takes its own rows with it, and no others.
fn measure<'a>(rows: &[&'a Row], options: &Options, site: &Site) -> Vec<Measured<'a>> {
    let mut reasons: Vec<(Kind, String)> = Vec::new();
    let mut contestants = Vec::new();
    for kind in [Kind::Medusa].into_iter().chain(rows.iter().map(|row| row.peer)) {
        let is_known = contestants.iter().any(|it: &Contestant| it.kind == kind);
        if is_known || reasons.iter().any(|(other, _)| *other == kind) {
            continue;
        }
        match Contestant::prepare(kind, rows[0].trial, site) {
            Ok(contestant) => contestants.push(contestant),
            Err(reason) => reasons.push((kind, reason)),
        }
    }
    let is_worth_it = contestants.len() > 1 && contestants[0].kind == Kind::Medusa;
    if is_worth_it && let Err((kind, reason)) = run_rounds(&mut contestants, rows, options, site) {
        // Without a whole round of everybody there is no pair of anybody.
        reasons.extend(rows.iter().map(|row| (row.peer, format!("{}: {reason}", kind.name()))));
    }
    let outcome = |row: &Row| {
        let reason = reasons.iter().find(|(kind, _)| [Kind::Medusa, row.peer].contains(kind));
        match reason {
            Some((_, reason)) => Err(reason.clone()),
            None => Ok(pairs(&contestants, row)),
        }
    };
    rows.iter().map(|row| Measured { row, outcome: outcome(row) }).collect()
}

/// A server that takes part, with what it did in each round.
struct Contestant {
    kind: Kind,
    /// Only for a load that wants one that runs.
    server: Option<Server>,
    figures: Vec<Figures>,
}

impl Contestant {
    fn prepare(kind: Kind, trial: Trial, site: &Site) -> Result<Contestant> {
        let server = match trial {
            Trial::Wrk(_) => Some(Server::start_ready(kind, site)?),
            Trial::Held | Trial::Start => kind.installed().map(|()| None)?,
        };
        Ok(Contestant { kind, server, figures: Vec::new() })
    }

    fn measure(&mut self, trial: Trial, options: &Options, site: &Site) -> Result<()> {
        let figures = match (trial, &self.server) {
            (Trial::Wrk(load), Some(server)) => load.measure(server, options.length())?,
            (Trial::Wrk(_), None) => return Err("it does not run".to_owned()),
            (Trial::Held, _) => held::measure(self.kind, options, site)?,
            (Trial::Start, _) => start::measure(self.kind, options, site)?,
        };
        self.figures.push(figures);
        interrupt::check()
    }
}

fn run_rounds(
    contestants: &mut [Contestant],
    rows: &[&Row],
    options: &Options,
    site: &Site,
) -> std::result::Result<(), (Kind, String)> {
    for round in 0..options.rounds {
        eprintln!("{}: round {} of {}", rows[0].work, round + 1, options.rounds);
        for contestant in contestants.iter_mut() {
            contestant
                .measure(rows[0].trial, options, site)
                .map_err(|reason| (contestant.kind, reason))?;
        }
        // The next round goes the other way, so that nobody profits from always being first.
        contestants.reverse();
    }
    Ok(())
}

fn pairs(contestants: &[Contestant], row: &Row) -> Vec<Pair> {
    let figures = |kind| {
        let of_kind = contestants.iter().filter(move |it: &&Contestant| it.kind == kind);
        let all = of_kind.flat_map(|it| &it.figures).flatten();
        all.filter(|(figure, _)| *figure == row.figure).map(|(_, value)| *value)
    };
    figures(Kind::Medusa)
        .zip(figures(row.peer))
        .map(|(ours, theirs)| Pair { ours, theirs })
        .collect()
}
