//! The headers of a request.

/// Which headers a request has.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Headers {
    /// Those of a load generator: `Host` alone.
    Few,
    /// Those of a browser.
    Browser,
    /// `Host`, and a condition that the server's own validator meets.
    Unchanged,
    /// `Host`, and that the connection ends with the answer.
    Close,
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

impl Headers {
    /// The lines, without `Host`; `etag` is that of the server for what is asked for.
    pub(crate) fn lines(self, etag: &str) -> Vec<String> {
        match self {
            Headers::Few => Vec::new(),
            Headers::Browser => BROWSER.iter().map(|&line| line.to_owned()).collect(),
            Headers::Unchanged => vec![format!("If-None-Match: {etag}")],
            Headers::Close => vec!["Connection: close".to_owned()],
        }
    }
}
