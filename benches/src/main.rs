//! Measures medusa beside nginx, lighttpd and hyper linked in statically: what a request costs, what a connection that is
//! idle costs, how long an answer takes, and how long a start.
//!
//! Everything is compared within one run, in rounds whose order alternates: the figures are ratios to the other's in the same
//! round. The server has one core, the load and this program another. `cargo xtask bench` builds the tree and names it in
//! `MEDUSA_TREE`; `benches/README.md` says how the table is read.

mod interrupt;
mod load;
mod machine;
mod options;
mod report;
mod rows;
mod servers;
mod site;
mod start;
mod trial;

use std::process::ExitCode;

use crate::{options::Options, report::Outcome, servers::Kind};

/// What everything here returns; the message is a sentence for a person.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    match run() {
        Ok(Outcome::Complete) => ExitCode::SUCCESS,
        Ok(Outcome::Incomplete) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("cannot measure: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Outcome> {
    let options = Options::read(std::env::args().skip(1))?;
    let rows = rows::named(options.only.as_deref())?;
    machine::prepare()?;
    interrupt::watch()?;
    let site = site::Site::create()?;
    let measured = trial::run_all(&rows, &options, &site)?;
    let peers = Kind::versions_in(&rows);
    let (text, outcome) = report::render(&measured, &options, &peers);
    print!("{text}");
    Ok(outcome)
}
