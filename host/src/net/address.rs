//! Addresses of sockets, and the form in which plugins see them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use medusa_abi::net::SocketAddress;

// One type for what is configured and what is bound: it is written and read in one way.
pub use crate::config::address::Address;

/// [`SocketAddress::family`] of a Unix socket.
const FAMILY_UNIX: u16 = 1;
/// [`SocketAddress::family`] of IPv4.
const FAMILY_V4: u16 = 4;
/// [`SocketAddress::family`] of IPv6.
const FAMILY_V6: u16 = 6;

/// The address as a plugin sees it; a Unix socket's path is not told.
#[must_use]
pub fn to_abi(address: &Address) -> SocketAddress {
    match address {
        Address::Tcp(address) => tcp_to_abi(*address),
        Address::Unix(_) => SocketAddress { family: FAMILY_UNIX, ..SocketAddress::NONE },
    }
}

/// The address of a TCP socket as a plugin sees it.
#[must_use]
pub fn tcp_to_abi(address: SocketAddr) -> SocketAddress {
    let port = address.port();
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.ip().octets());
            SocketAddress { family: FAMILY_V4, port, scope: 0, address: bytes }
        }
        SocketAddr::V6(v6) => SocketAddress {
            family: FAMILY_V6,
            port,
            scope: v6.scope_id(),
            address: v6.ip().octets(),
        },
    }
}

/// The address that a plugin names; none where it is not one of TCP.
#[must_use]
pub fn from_abi(address: &SocketAddress) -> Option<SocketAddr> {
    match address.family {
        FAMILY_V4 => {
            let [a, b, c, d, ..] = address.address;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), address.port))
        }
        FAMILY_V6 => {
            let ip = Ipv6Addr::from(address.address);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, address.port, 0, address.scope)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_cross_the_boundary_unchanged() {
        for text in ["127.0.0.1:80", "[::1]:0", "[fe80::1%7]:65535", "0.0.0.0:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_abi(&to_abi(&Address::Tcp(address))), Some(address));
        }
        let unix = to_abi(&Address::Unix("/run/x".into()));
        assert_eq!((unix.family, unix.address), (1, [0; 16]));
        assert_eq!(from_abi(&unix), None);
        assert_eq!(from_abi(&SocketAddress::NONE), None);
        assert_eq!(from_abi(&SocketAddress { family: 9, ..SocketAddress::NONE }), None);
    }
}
