//! ClusterIPs and node ports: which are free.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::admission::Held;

/// Node ports, as kube-apiserver's default `--service-node-port-range`.
pub(crate) const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// The first node port given out on its own accord: those below are left to who asks for one
/// (KEP-3668 keeps 86 of the default range).
const FIRST_DYNAMIC_PORT: u16 = 30_086;

/// The ranges ClusterIPs are taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRanges {
    /// For IPv4.
    pub v4: Ipv4Network,
    /// For IPv6.
    pub v6: Ipv6Network,
}

impl Default for ServiceRanges {
    /// 10.96.0.0/16 and fd00:10:96::/112.
    fn default() -> Self {
        let (v4, v6) = (
            Ipv4Addr::new(10, 96, 0, 0),
            Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0),
        );
        Self {
            v4: Ipv4Network::new_checked(v4, 16).unwrap_or_else(|| Ipv4Network::from(v4)),
            v6: Ipv6Network::new_checked(v6, 112).unwrap_or_else(|| Ipv6Network::from(v6)),
        }
    }
}

impl ServiceRanges {
    pub(crate) fn of(&self, address: IpAddr) -> IpNetwork {
        if address.is_ipv4() {
            IpNetwork::V4(self.v4)
        } else {
            IpNetwork::V6(self.v6)
        }
    }
}

/// What Services hold, and where to look next.
#[derive(Debug)]
pub(crate) struct Allocators {
    ranges: ServiceRanges,
    addresses: HashSet<IpAddr>,
    ports: BTreeSet<u16>,
    next_v4: u64,
    next_v6: u64,
    next_port: u16,
}

impl Allocators {
    pub(crate) fn new(ranges: ServiceRanges) -> Self {
        Self {
            ranges,
            addresses: HashSet::new(),
            ports: BTreeSet::new(),
            next_v4: first_dynamic(size(IpNetwork::V4(ranges.v4))),
            next_v6: first_dynamic(size(IpNetwork::V6(ranges.v6))),
            next_port: FIRST_DYNAMIC_PORT,
        }
    }

    pub(crate) fn ranges(&self) -> &ServiceRanges {
        &self.ranges
    }

    pub(crate) fn address_taken(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    pub(crate) fn port_taken(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }

    /// A free address; it is taken only once [`Self::hand_over`] says so.
    pub(crate) fn free_address(&mut self, ipv6: bool) -> Option<IpAddr> {
        let (range, next) = if ipv6 {
            (IpNetwork::V6(self.ranges.v6), &mut self.next_v6)
        } else {
            (IpNetwork::V4(self.ranges.v4), &mut self.next_v4)
        };
        let size = size(range);
        for _ in 0..size {
            let offset = *next;
            *next = if offset + 1 < size {
                offset + 1
            } else {
                1.min(size - 1)
            };
            if let Some(address) = nth(range, offset)
                && usable(range, offset, size)
                && !self.addresses.contains(&address)
            {
                return Some(address);
            }
        }
        None
    }

    /// A free node port that is none of `but`.
    pub(crate) fn free_port(&mut self, but: &[u16]) -> Option<u16> {
        for _ in NODE_PORTS {
            let port = self.next_port;
            self.next_port = if port < *NODE_PORTS.end() {
                port + 1
            } else {
                *NODE_PORTS.start()
            };
            if !self.ports.contains(&port) && !but.contains(&port) {
                return Some(port);
            }
        }
        None
    }

    /// Releases what a Service held before and takes what it holds now.
    pub(crate) fn hand_over(&mut self, before: &Held, now: &Held) {
        for address in &before.addresses {
            self.addresses.remove(address);
        }
        for port in &before.ports {
            self.ports.remove(port);
        }
        self.addresses.extend(&now.addresses);
        self.ports.extend(&now.ports);
    }
}

/// How many addresses of the range are looked at: all of a small one, 2^32 of a large one.
fn size(range: IpNetwork) -> u64 {
    let bits = match range {
        IpNetwork::V4(range) => 32 - range.prefix(),
        IpNetwork::V6(range) => 128 - range.prefix(),
    };
    1 << bits.min(32)
}

/// The lower part of a range is left to those who ask for an address of their own (KEP-3070).
fn first_dynamic(size: u64) -> u64 {
    (size / 16).clamp(16, 256).min(size - 1)
}

/// Neither the network's own address nor the broadcast address is given out.
fn usable(range: IpNetwork, offset: u64, size: u64) -> bool {
    size <= 2 || (offset != 0 && (range.is_ipv6() || offset != size - 1))
}

fn nth(range: IpNetwork, offset: u64) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(network) => {
            let address = u32::from(network).checked_add(u32::try_from(offset).ok()?)?;
            Some(IpAddr::V4(address.into()))
        }
        IpAddr::V6(network) => {
            let address = u128::from(network).checked_add(u128::from(offset))?;
            Some(IpAddr::V6(address.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(addresses: &[&str]) -> Held {
        let addresses = addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect();
        Held {
            addresses,
            ports: Vec::new(),
        }
    }

    #[test]
    fn addresses_come_from_the_dynamic_part_first_and_run_out_at_the_end() {
        let ranges = ServiceRanges {
            v4: "10.9.0.0/27".parse().unwrap(),
            ..ServiceRanges::default()
        };
        let mut allocators = Allocators::new(ranges);
        let mut given = Vec::new();
        while let Some(address) = allocators.free_address(false) {
            allocators.hand_over(&Held::default(), &held(&[&address.to_string()]));
            given.push(address.to_string());
        }
        assert_eq!(given.len(), 30, "{given:?}");
        assert_eq!(
            (given[0].as_str(), given[29].as_str()),
            ("10.9.0.16", "10.9.0.15")
        );
        allocators.hand_over(&held(&["10.9.0.7"]), &Held::default());
        assert_eq!(
            allocators.free_address(false),
            Some("10.9.0.7".parse().unwrap())
        );
    }

    #[test]
    fn the_default_ranges_are_those_of_a_cluster() {
        let mut allocators = Allocators::new(ServiceRanges::default());
        assert_eq!(
            allocators.free_address(false),
            Some("10.96.1.0".parse().unwrap())
        );
        assert_eq!(
            allocators.free_address(true),
            Some("fd00:10:96::100".parse().unwrap())
        );
    }

    #[test]
    fn node_ports_skip_what_is_taken() {
        let mut allocators = Allocators::new(ServiceRanges::default());
        let now = Held {
            addresses: Vec::new(),
            ports: vec![30_086],
        };
        allocators.hand_over(&Held::default(), &now);
        assert_eq!(allocators.free_port(&[30_087]), Some(30_088));
    }
}
