//! Addresses of sockets, between the ABI's form and the standard library's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use medusa_abi::net::SocketAddress;

/// `None` for a Unix socket, and for no address.
pub(crate) fn from_abi(address: &SocketAddress) -> Option<SocketAddr> {
    match address.family {
        4 => {
            let [a, b, c, d, ..] = address.address;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), address.port))
        }
        6 => Some(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(address.address),
            address.port,
            0,
            address.scope,
        ))),
        _ => None,
    }
}

pub(crate) fn to_abi(address: SocketAddr) -> SocketAddress {
    match address {
        SocketAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.ip().octets());
            SocketAddress { family: 4, port: v4.port(), scope: 0, address: bytes }
        }
        SocketAddr::V6(v6) => SocketAddress {
            family: 6,
            port: v6.port(),
            scope: v6.scope_id(),
            address: v6.ip().octets(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_crossing() {
        for text in ["127.0.0.1:80", "[::1]:8080", "[fe80::1%3]:21"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(from_abi(&to_abi(address)), Some(address));
        }
        assert_eq!(from_abi(&SocketAddress::NONE), None);
    }
}
