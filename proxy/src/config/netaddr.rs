//! Addresses as the configuration writes them.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;

/// `IP:port`, `[IPv6]:port`, or an IP alone, which gets `default_port`.
pub(crate) fn socket_address(text: &str, default_port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip: IpAddr = bare.unwrap_or(text).parse().ok()?;
    Some(SocketAddr::new(ip, default_port))
}

/// Networks with a comma between: one, or one for each family.
pub(crate) fn family_pair(text: &str) -> Option<Vec<IpNetwork>> {
    let networks: Vec<IpNetwork> = text
        .split(',')
        .map(|part| network(part.trim()))
        .collect::<Option<_>>()?;
    match networks.as_slice() {
        [_] => Some(networks),
        [a, b] if a.is_ipv4() != b.is_ipv4() => Some(networks),
        _ => None,
    }
}

/// One network; a plain address without a prefix length is none.
pub(crate) fn network(text: &str) -> Option<IpNetwork> {
    text.contains('/').then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_addresses_with_and_without_a_port() {
        assert_eq!(socket_address("0.0.0.0:1", 9), "0.0.0.0:1".parse().ok());
        assert_eq!(socket_address("127.0.0.1", 9), "127.0.0.1:9".parse().ok());
        assert_eq!(socket_address("::1", 9), "[::1]:9".parse().ok());
        assert_eq!(socket_address("[::]", 9), "[::]:9".parse().ok());
        assert_eq!(socket_address("localhost:1", 9), None);
    }

    #[test]
    fn at_most_one_network_a_family() {
        assert_eq!(family_pair("10.0.0.0/8").unwrap().len(), 1);
        assert_eq!(family_pair("10.0.0.0/8, fd00::/8").unwrap().len(), 2);
        assert_eq!(family_pair("10.0.0.0/8,11.0.0.0/8"), None);
        assert_eq!(family_pair("10.0.0.1"), None);
    }
}
