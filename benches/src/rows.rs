//! The table: what is measured, beside whom, and what the ratio may be at the most.

use crate::{
    Result,
    load::{Headers, Load},
    servers::Kind,
    trial::{Figure, Trial},
};

/// One line of the table.
pub(crate) struct Row {
    /// What is done.
    pub(crate) work: &'static str,
    /// How it is done; rows with the same are measured together.
    pub(crate) trial: Trial,
    /// Which of the trial's figures counts.
    pub(crate) figure: Figure,
    /// Beside whom.
    pub(crate) peer: Kind,
    /// What holds if the median is not above it.
    pub(crate) at_most: Bound,
    /// What is hoped for, in the bound's terms.
    pub(crate) aim: Option<f64>,
}

/// What a figure may be at the most.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// So many times the peer's in the same round.
    Ratio(f64),
    /// So much, whatever the peer's is.
    Figure(f64),
}

/// 64 connections that are kept, as most rows have them.
const fn kept(path: &'static str, bytes: usize) -> Load {
    Load { path, headers: Headers::Few, connections: 64, status: 200, body_bytes: Some(bytes) }
}

const GREETING: Load =
    Load { path: "/hello", headers: Headers::Few, connections: 64, status: 200, body_bytes: None };
const SMALL: Load = kept("/1k.txt", 1024);
const UNCHANGED: Load =
    Load { headers: Headers::Unchanged, status: 304, body_bytes: Some(0), ..SMALL };
const MEDIUM: Trial = Trial::Wrk(kept("/100k.bin", 100 * 1024));
const LARGE: Load = Load { connections: 4, ..kept("/10m.bin", 10 * 1024 * 1024) };

/// A bound on the server's time per request, as most rows have it.
const fn row(work: &'static str, load: Load, peer: Kind, at_most: f64) -> Row {
    Row {
        work,
        trial: Trial::Wrk(load),
        figure: Figure::ServerUs,
        peer,
        at_most: Bound::Ratio(at_most),
        aim: None,
    }
}

const fn held(work: &'static str, figure: Figure, at_most: Bound, aim: Option<f64>) -> Row {
    Row { work, trial: Trial::Held, figure, peer: Kind::Nginx, at_most, aim }
}

/// All rows. The first three say what the boundary costs; a greeting is made anew for each request, and never cached.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    row("handler inside http", Load { path: "/health", ..GREETING }, Kind::Hyper, 1.03),
    row("extension hello", GREETING, Kind::Hyper, 1.15),
    row("extension hello, browser's headers", Load { headers: Headers::Browser, ..GREETING }, Kind::Hyper, 1.20),
    row("1 KiB file", SMALL, Kind::Nginx, 0.75),
    Row { aim: Some(0.85), ..row("1 KiB file", SMALL, Kind::Lighttpd, 1.0) },
    row("1 KiB file, browser's headers", Load { headers: Headers::Browser, ..SMALL }, Kind::Nginx, 0.70),
    row("extension hello", GREETING, Kind::MedusaUncounted, 1.02),
    row("1 KiB file", SMALL, Kind::MedusaUncounted, 1.02),
    row("1 KiB file, 304", UNCHANGED, Kind::Nginx, 0.90),
    row("1 KiB file, 304", UNCHANGED, Kind::BareLoop, 1.15),
    Row { trial: MEDIUM, ..row("100 KiB file", SMALL, Kind::Nginx, 1.0) },
    Row { trial: MEDIUM, figure: Figure::BothUs, ..row("100 KiB file", SMALL, Kind::Nginx, 1.0) },
    Row { figure: Figure::BothUs, ..row("10 MiB file", LARGE, Kind::Nginx, 1.0) },
    row("1 KiB file, new connection", Load { headers: Headers::Close, ..SMALL }, Kind::Nginx, 0.85),
    row("1 KiB file, new connection", Load { headers: Headers::Close, ..SMALL }, Kind::NginxDeferred, 0.85),
    held("idle connection after a request", Figure::ConnectionBytes, Bound::Figure(513.0), Some(100.0)),
    held("each idle connection asks once, in turn", Figure::TurnUs, Bound::Ratio(1.0), None),
    held("4,000 requests/s beside the idle ones", Figure::P99Us, Bound::Ratio(1.0), None),
    held("4,000 requests/s beside the idle ones", Figure::QuartersP99Us, Bound::Ratio(1.0), None),
    Row { trial: Trial::Start, figure: Figure::StartMs, ..row("start, all sample plugins", SMALL, Kind::Nginx, 1.0) },
];

/// What cannot be measured by anybody yet, and why.
pub(crate) const LEFT_OUT: &[&str] =
    &["Observers: no observer is shipped yet, so all rows are without one."];

/// The rows that have a word in their names; all without one.
pub(crate) fn named(word: Option<&str>) -> Result<Vec<&'static Row>> {
    let word = word.unwrap_or_default().to_lowercase();
    let rows: Vec<_> =
        ROWS.iter().filter(|row| row.name().to_lowercase().contains(&word)).collect();
    if rows.is_empty() {
        let names: Vec<_> = ROWS.iter().map(Row::name).collect();
        return Err(format!(
            "no row has `{word}` in its name; there are\n  {}",
            names.join("\n  ")
        ));
    }
    Ok(rows)
}

impl Row {
    /// What `--only` looks at.
    pub(crate) fn name(&self) -> String {
        format!("{}: {}, beside {}", self.work, self.figure.name(), self.peer.name())
    }
}

impl Bound {
    /// The bound in the table.
    pub(crate) fn shown(self, value: f64) -> String {
        match self {
            Bound::Ratio(_) => format!("{value:.2}"),
            Bound::Figure(_) => format!("{value:.0} by itself"),
        }
    }

    /// The bound's own value.
    pub(crate) fn value(self) -> f64 {
        let (Bound::Ratio(value) | Bound::Figure(value)) = self;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_a_word() {
        let names =
            |word| named(Some(word)).unwrap().iter().map(|row| row.work).collect::<Vec<_>>();
        assert_eq!(names("START"), ["start, all sample plugins"]);
        assert_eq!(names("lighttpd"), ["1 KiB file"]);
        assert_eq!(names("10 mib"), ["10 MiB file"]);
        assert_eq!(named(None).unwrap().len(), ROWS.len());
        assert!(named(Some("nothing")).is_err_and(|why| why.contains("start, all sample plugins")));
    }
}
