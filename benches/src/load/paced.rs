//! Requests by a fixed schedule, whatever the server does: how long an answer takes from when its request was due.
//!
//! A request that has to wait because all connections are busy waits in the figure too: a server that stands still for a
//! moment is charged with all that was due in it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    Result,
    load::exchange::{self, Connection},
    report::median,
    servers::Server,
};

/// Requests per second.
const RATE: u32 = 4_000;

/// Connections that they are spread over.
const CONNECTIONS: usize = 64;

/// How much later than the schedule's end everything has to be answered.
const LATE_MAX: Duration = Duration::from_secs(10);

/// A connection that waits for an answer, and when its request was due.
struct Waiting {
    connection: Connection,
    due: Instant,
}

/// The latency that one request in a hundred exceeds, in microseconds.
pub(crate) struct P99 {
    /// Of all requests.
    pub(crate) all_us: f64,
    /// Of those of each quarter of a second, and the median of the quarters: what the server does in most of them, without the
    /// milliseconds for which a machine that others use too stands still now and then.
    pub(crate) quarters_us: f64,
}

/// Asks at the rate for so long.
///
/// The core is the load's own, so it looks at its connections without ever sleeping: how fast this program wakes up is not in
/// the figure.
pub(crate) fn p99(server: &Server, request: &[u8], length: Duration) -> Result<P99> {
    let mut free = VecDeque::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut connection = exchange::connect(server.address)?;
        connection.ask(request)?;
        connection.never_wait()?;
        free.push_back(connection);
    }
    let interval = Duration::from_secs(1) / RATE;
    let total = (length.as_secs_f64() * f64::from(RATE)) as u32;
    let mut latencies_us = vec![Vec::new(); total.div_ceil(RATE / 4) as usize];
    let mut answered = 0;
    let mut waiting: VecDeque<Waiting> = VecDeque::new();
    let started = Instant::now();
    let mut next = 0;
    while answered < total {
        let due = started + interval * next;
        if next < total
            && due <= Instant::now()
            && let Some(mut connection) = free.pop_front()
        {
            connection.send(request)?;
            waiting.push_back(Waiting { connection, due });
            next += 1;
        }
        // Each that waits is looked at once; in turn, for answers mostly come in the order of the requests.
        for _ in 0..waiting.len() {
            let Some(mut first) = waiting.pop_front() else { break };
            match first.connection.answer()? {
                None => waiting.push_back(first),
                Some(answer) if answer.status == 200 => {
                    let quarter = (first.due - started).as_millis() as usize / 250;
                    latencies_us[quarter].push(first.due.elapsed().as_secs_f64() * 1e6);
                    answered += 1;
                    free.push_back(first.connection);
                }
                Some(answer) => return Err(format!("a wrong answer: {answer:?}")),
            }
        }
        if started.elapsed() > length + LATE_MAX {
            return Err(server.complaint(&format!("cannot do {RATE} requests a second")));
        }
    }
    let mut quarters_us: Vec<_> = latencies_us.iter_mut().map(|it| percentile(it, 99)).collect();
    Ok(P99 {
        quarters_us: median(&mut quarters_us),
        all_us: percentile(&mut latencies_us.concat(), 99),
    })
}

/// The value that so many of a hundred do not exceed.
fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * percent).div_ceil(100).saturating_sub(1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut values, 99), 198.0);
        assert_eq!(percentile(&mut values, 100), 200.0);
        assert_eq!(percentile(&mut [7.0], 99), 7.0);
    }
}
