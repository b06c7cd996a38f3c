//! Where an instance listens: an IP address with a port, or a Unix socket.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use serde::{Serialize, Serializer};

use crate::config::source::Source;

/// An address with what is done to its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// The `[tls.NAME]` that its connections begin with; none for plain text.
    pub tls: Option<String>,
    /// Whether a connection is accepted only once its client has said something; where nothing is said, the kind of plugin decides.
    pub deferred: Option<bool>,
}

/// An address to listen on. It is written as it is read: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/x.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix stream socket, by an absolute path.
    Unix(PathBuf),
}

/// Why text is not an address, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadAddress {
    /// A sentence without the text itself.
    pub message: String,
    /// The mend.
    pub help: String,
}

/// The longest path that fits into a `sockaddr_un` with its final zero (unix(7)).
pub const UNIX_PATH_BYTES_MAX: usize = 107;

impl Address {
    /// Reads an address; a relative socket path is relative to the source's folder.
    pub fn parse(text: &str, source: &Source) -> Result<Address, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path, source);
        }
        text.parse().map(Address::Tcp).map_err(|_| not_an_address(text))
    }

    /// Whether the system would refuse to bind the second of the two.
    pub fn clashes(&self, other: &Address) -> bool {
        let (Address::Tcp(one), Address::Tcp(two)) = (self, other) else { return self == other };
        let same_family = one.is_ipv4() == two.is_ipv4();
        let same_ip =
            one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified();
        one.port() != 0 && one.port() == two.port() && same_family && same_ip
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn unix(path: &str, source: &Source) -> Result<Address, BadAddress> {
    let bad = |message: String, help: &str| Err(BadAddress { message, help: help.to_owned() });
    if path.is_empty() || path.contains('\0') {
        return bad(
            "there is no path after `unix:`".to_owned(),
            "write the socket's path: \"unix:run/web.sock\"",
        );
    }
    let path = source.path(path);
    let length = path.as_os_str().len();
    if length > UNIX_PATH_BYTES_MAX {
        let message =
            format!("the socket's path has {length} bytes, the system takes {UNIX_PATH_BYTES_MAX}");
        return bad(message, "choose a shorter path, below /run or /tmp say");
    }
    Ok(Address::Unix(path))
}

fn not_an_address(text: &str) -> BadAddress {
    let port = |text: &str| text.parse::<u16>().ok();
    let (host, last) = text.rsplit_once(':').unwrap_or((text, ""));
    let help = if let Some(port) = port(text) {
        format!("write the address as well: \"127.0.0.1:{port}\", or \"[::]:{port}\" for all")
    } else if text.parse::<IpAddr>().is_ok() {
        let ip: IpAddr = text.parse().expect("it just parsed");
        format!("add a port: \"{}\"", SocketAddr::new(ip, 8080))
    } else if let (Some(port), "" | "*") = (port(last), host) {
        format!("write \"0.0.0.0:{port}\" for all IPv4 addresses, or \"[::]:{port}\" for IPv6")
    } else if let (Some(port), "localhost") = (port(last), host) {
        format!("names are not looked up here; write \"127.0.0.1:{port}\"")
    } else if text.starts_with('/') || text.starts_with("./") {
        format!("for a Unix socket write \"unix:{text}\"")
    } else {
        "write an IP address with a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\", or \"unix:PATH\"".to_owned()
    };
    BadAddress { message: "not an address to listen on".to_owned(), help }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let source = Source::new("t", "/srv", "");
        let good = |text: &str, shown: &str| {
            assert_eq!(Address::parse(text, &source).unwrap().to_string(), shown);
        };
        good("127.0.0.1:8080", "127.0.0.1:8080");
        good("[::1]:0", "[::1]:0");
        good("0.0.0.0:65535", "0.0.0.0:65535");
        good("unix:run/a.sock", "unix:/srv/run/a.sock");
        good("unix:/a", "unix:/a");

        let bad = |text: &str, help: &str| {
            let error = Address::parse(text, &source).unwrap_err();
            assert!(error.help.contains(help), "{text:?}: {}", error.help);
        };
        bad("", "127.0.0.1:8080");
        bad("8080", "\"127.0.0.1:8080\"");
        bad("127.0.0.1", "\"127.0.0.1:8080\"");
        bad("::1", "\"[::1]:8080\"");
        bad("*:80", "\"0.0.0.0:80\"");
        bad(":80", "\"0.0.0.0:80\"");
        bad("localhost:21", "\"127.0.0.1:21\"");
        bad("127.0.0.1:65536", "an IP address with a port");
        bad("256.0.0.1:1", "an IP address with a port");
        bad("127.0.0.1:-1", "an IP address with a port");
        bad("/run/x", "\"unix:/run/x\"");
        bad("unix:", "path");
        bad(&format!("unix:/{}", "x".repeat(107)), "shorter");
    }

    #[test]
    fn clashes() {
        let source = Source::new("t", "/", "");
        let check = |one, two, expected| {
            let [one, two] = [one, two].map(|text| Address::parse(text, &source).unwrap());
            assert_eq!(one.clashes(&two), expected, "{one} {two}");
            assert_eq!(two.clashes(&one), expected, "{two} {one}");
        };
        check("127.0.0.1:80", "127.0.0.1:80", true);
        check("127.0.0.1:80", "127.0.0.1:81", false);
        check("127.0.0.1:0", "127.0.0.1:0", false);
        check("0.0.0.0:80", "127.0.0.1:80", true);
        check("[::]:80", "[::1]:80", true);
        check("[::]:80", "0.0.0.0:80", false);
        check("127.0.0.1:80", "127.0.0.2:80", false);
        check("unix:/a", "unix:/a", true);
        check("unix:/a", "unix:/b", false);
        check("unix:/a", "127.0.0.1:80", false);
    }
}
