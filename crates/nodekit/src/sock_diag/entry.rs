//! A socket as the kernel lists it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of `struct inet_diag_sockid`.
pub(super) const ID: usize = 48;
/// `INET_DIAG_NOCOOKIE`: whichever socket has these addresses.
const ANY: [u8; 8] = [0xff; 8];
const AF_INET: u8 = 2;

/// A socket that has a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peered {
    /// `SO_COOKIE`: never used again for another socket.
    pub cookie: u64,
    /// Its own address; IPv4 as such, also of an IPv6 socket.
    pub local: SocketAddr,
    /// Whom it talks to; IPv4 as such, also of an IPv6 socket.
    pub peer: SocketAddr,
    family: u8,
    protocol: u8,
    /// As the kernel said it.
    id: [u8; ID],
}

impl fmt::Display for Peered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            local,
            peer,
            protocol,
            cookie,
            ..
        } = self;
        write!(
            f,
            "{local} -> {peer} protocol {protocol} (cookie {cookie:#x})"
        )
    }
}

impl Peered {
    /// Reads a `struct inet_diag_msg`; `None` for bytes that are none.
    pub(super) fn read(protocol: u8, payload: &[u8]) -> Option<Self> {
        let family = *payload.first()?;
        let id: [u8; ID] = *payload.get(4..)?.first_chunk()?;
        let ports = (be16(&id, 0)?, be16(&id, 2)?);
        Some(Self {
            cookie: u64::from(ne32(&id, 40)?) | u64::from(ne32(&id, 44)?) << 32,
            local: SocketAddr::new(address(family, id.get(4..20)?)?, ports.0),
            peer: SocketAddr::new(address(family, id.get(20..36)?)?, ports.1),
            family,
            protocol,
            id,
        })
    }

    /// What names exactly this one.
    pub(super) fn request(&self) -> Vec<u8> {
        request(self.family, self.protocol, u32::MAX, &self.id)
    }
}

/// `struct inet_diag_req_v2`
pub(super) fn request(family: u8, protocol: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut bytes = vec![family, protocol, 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// What names the socket that is bound to `port` of every address.
pub(super) fn bound_to(port: u16) -> [u8; ID] {
    let mut id = [0; ID];
    for (place, byte) in id.iter_mut().zip(port.to_be_bytes()) {
        *place = byte;
    }
    for (place, byte) in id.iter_mut().skip(40).zip(ANY) {
        *place = byte;
    }
    id
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

fn ne32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if family == AF_INET {
        let octets: [u8; 4] = *bytes.first_chunk()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets: [u8; 16] = *bytes.first_chunk()?;
    Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Peered::read(17, &bytes);
        }
    }
}
