//! wrk on the load's core: as many requests as the server or wrk can do.

use std::{process::Command, time::Duration};

use crate::{
    Result,
    load::{Headers, exchange},
    machine,
    servers::{self, Server},
    trial::{Figure, Figures},
};

/// One load, and what has to come back.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Load {
    /// What is asked for.
    pub(crate) path: &'static str,
    /// With which headers.
    pub(crate) headers: Headers,
    /// By how many connections.
    pub(crate) connections: u32,
    /// The status of each answer.
    pub(crate) status: u16,
    /// The length of each body, if that is known.
    pub(crate) body_bytes: Option<usize>,
}

impl Load {
    /// Runs it, and answers time on cores per request: the server's, and that of both.
    ///
    /// # Errors
    ///
    /// If one answer that is asked for beforehand is not the right one, or any that wrk got was a failure.
    pub(crate) fn measure(self, server: &Server, length: Duration) -> Result<Figures> {
        let headers = self.check(server)?;
        let mut wrk = Command::new(servers::find("wrk")?);
        wrk.args(["-t1", &format!("-c{}", self.connections), &format!("-d{}s", length.as_secs())]);
        headers.iter().for_each(|header| {
            wrk.args(["-H", header]);
        });
        wrk.arg(format!("http://{}{}", server.address, self.path));
        let before = (server.cpu_us()?, machine::children_us()?);
        let output = wrk.output().map_err(|error| format!("wrk does not start: {error}"))?;
        let after = (server.cpu_us()?, machine::children_us()?);
        let said = String::from_utf8_lossy(&output.stdout);
        let requests =
            requests(&said).ok_or_else(|| server.complaint(&format!("failed: {said}")))?;
        let (server_us, wrk_us) = (after.0 - before.0, after.1 - before.1);
        Ok(vec![
            (Figure::ServerUs, server_us / requests),
            (Figure::BothUs, (server_us + wrk_us) / requests),
        ])
    }

    /// Asks once, so that no wrong answer is measured; and answers the headers for this server.
    fn check(self, server: &Server) -> Result<Vec<String>> {
        let ask = |headers: &[String]| {
            exchange::connect(server.address)?.ask(&exchange::request(self.path, headers))
        };
        let etag = match self.headers {
            Headers::Unchanged => ask(&[])?.etag.ok_or("there is no ETag")?,
            _ => String::new(),
        };
        let headers = self.headers.lines(&etag);
        let answer = ask(&headers)?;
        let is_right = answer.status == self.status
            && self.body_bytes.is_none_or(|bytes| bytes == answer.body_bytes);
        if !is_right {
            return Err(server.complaint(&format!("gave a wrong answer, {answer:?}")));
        }
        Ok(headers)
    }
}

/// How many requests wrk made, if it counts no failure.
fn requests(said: &str) -> Option<f64> {
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        return None;
    }
    let line = said.lines().find_map(|line| line.trim().split_once(" requests in "));
    line.and_then(|(count, _)| count.parse().ok()).filter(|count| *count > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_no_requests() {
        let fine = "Running 1s test\n  5120 requests in 1.00s, 5.2MB read\n";
        assert_eq!(requests(fine), Some(5120.0));
        assert_eq!(requests(&format!("{fine}  Non-2xx or 3xx responses: 1\n")), None);
        assert_eq!(requests(&format!("{fine}  Socket errors: connect 0, read 1\n")), None);
        assert_eq!(requests("  0 requests in 1.00s, 0B read\n"), None);
        assert_eq!(requests(""), None);
    }
}
