//! The load: wrk on the second core.

use std::{process::Command, time::Duration};

use crate::server::Server;

/// Which headers a request has.
#[derive(Clone, Copy)]
pub(crate) enum Headers {
    /// Those of a load generator: `Host` alone.
    Few,
    /// Those of a browser.
    Browser,
}

/// What Chromium sends with a navigation, in shape and length.
const BROWSER: &[&str] = &[
    "Connection: keep-alive",
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Mode: navigate",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9",
];

/// One load.
pub(crate) struct Load {
    /// What is asked for.
    pub(crate) path: &'static str,
    /// With which headers.
    pub(crate) headers: Headers,
    /// For how long.
    pub(crate) length: Duration,
}

impl Load {
    /// Runs it, and answers the server's CPU time per request in microseconds. Every answer has to be a success.
    pub(crate) fn cpu_us_per_request(&self, server: &Server) -> Result<f64, String> {
        let mut wrk = Command::new("taskset");
        wrk.args(["-c", "1", "wrk", "-t1", "-c64", &format!("-d{}s", self.length.as_secs())]);
        if let Headers::Browser = self.headers {
            BROWSER.iter().for_each(|header| {
                wrk.args(["-H", header]);
            });
        }
        wrk.arg(format!("http://{}{}", server.address, self.path));
        let before = server.cpu_ns()?;
        let output =
            wrk.output().map_err(|error| format!("wrk does not start: {error}; install it"))?;
        let spent = server.cpu_ns()? - before;
        let said = String::from_utf8_lossy(&output.stdout);
        if said.contains("Non-2xx") || said.contains("Socket errors") {
            return Err(format!("not every request succeeded:\n{said}"));
        }
        let requests = said.lines().find_map(|line| line.trim().split_once(" requests in "));
        let requests: f64 =
            requests.and_then(|(count, _)| count.parse().ok()).ok_or_else(|| said.to_string())?;
        Ok(spent as f64 / 1000.0 / requests)
    }
}
