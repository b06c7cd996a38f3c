//! Measures what the boundary costs: hello by hyper linked in statically, by a handler inside `http`, and by an extension.
//!
//! Everything is measured in one run, in rounds whose order alternates; the figures are CPU time per request of the server, as
//! ratios to the baseline's in the same round. The server has one core, the load generator the other. Usage:
//! `cargo xtask bench`, which builds the tree and names it in `MEDUSA_TREE`; wants `wrk` and `taskset`.

mod load;
mod server;

use std::{fmt::Write as _, process::ExitCode, time::Duration};

use crate::{
    load::{Headers, Load},
    server::Server,
};

/// What is measured, and what the ratio may be at the most.
struct Case {
    name: &'static str,
    headers: Headers,
    path: &'static str,
    bound: f64,
}

const CASES: &[Case] = &[
    Case { name: "handler inside http", headers: Headers::Few, path: "/health", bound: 1.03 },
    Case { name: "extension hello", headers: Headers::Few, path: "/hello", bound: 1.15 },
    Case {
        name: "extension hello, browser's headers",
        headers: Headers::Browser,
        path: "/hello",
        bound: 1.20,
    },
];

fn main() -> ExitCode {
    let argument = |at: usize, default: u64| {
        std::env::args().nth(at).and_then(|it| it.parse().ok()).unwrap_or(default)
    };
    let (rounds, seconds) = (argument(1, 7), argument(2, 3));
    match measure(rounds, Duration::from_secs(seconds)) {
        Ok(table) => {
            println!("{table}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("cannot measure: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn measure(rounds: u64, length: Duration) -> Result<String, String> {
    let (medusa, baseline) = (Server::medusa()?, Server::baseline()?);
    let mut table = format!(
        "{rounds} rounds of {} s, 64 connections; CPU per request\n\n\
         | case | baseline µs | medusa µs | ratio: median | min | max | at most |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        length.as_secs()
    );
    for case in CASES {
        let (mut ratios, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let load = Load { path: case.path, headers: case.headers, length };
            let (our, their) = if round % 2 == 0 {
                let our = load.cpu_us_per_request(&medusa)?;
                (our, load.cpu_us_per_request(&baseline)?)
            } else {
                let their = load.cpu_us_per_request(&baseline)?;
                (load.cpu_us_per_request(&medusa)?, their)
            };
            ratios.push(our / their);
            ours.push(our);
            theirs.push(their);
        }
        let _ = writeln!(
            table,
            "| {} | {:.2} | {:.2} | {:.3} | {:.3} | {:.3} | {:.2} |",
            case.name,
            median(&mut theirs),
            median(&mut ours),
            median(&mut ratios),
            ratios[0],
            ratios[ratios.len() - 1],
            case.bound
        );
    }
    Ok(table)
}

/// The median; sorts.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
