//! A Service as it is kept: parsed, and only what decisions need.

mod read;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;

use crate::frontend::{Family, FrontendAddress, FrontendKind, Protocol};
use read::disjoint;

/// A Service that this proxy serves. It has a ClusterIP and a port at least.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Creation time as the decimal number `YYYYMMDDhhmmss`: it only needs to sort.
    pub(super) created: u64,
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    /// Of the families that have a ClusterIP; the load-balancer IPs likewise.
    external_ips: Box<[IpAddr]>,
    balancer_ips: Box<[IpAddr]>,
    /// Sorted; none contains another.
    source_ranges: Box<[IpNetwork]>,
    /// A source range was unreadable: no family may become open to everybody because of that.
    restricted: bool,
    pub(super) affinity: Option<NonZeroU32>,
    pub(super) internal_local: bool,
    pub(super) external_local: bool,
    /// 0: none.
    pub(super) health_check_port: u16,
    pub(super) ports: Box<[Port]>,
}

/// One port of a Service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    port: u16,
    /// 0: none.
    node_port: u16,
}

impl Service {
    /// Bytes that it takes, without what the allocator adds.
    pub(super) fn bytes(&self) -> usize {
        let names = self.ports.iter().map(|port| port.name.len());
        size_of::<Self>()
            + size_of_val(&*self.external_ips)
            + size_of_val(&*self.balancer_ips)
            + size_of_val(&*self.source_ranges)
            + size_of_val(&*self.ports)
            + names.sum::<usize>()
    }

    pub(super) fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Whether `loadBalancerSourceRanges` says anything.
    pub(super) fn has_source_ranges(&self) -> bool {
        self.restricted || !self.source_ranges.is_empty()
    }

    /// Sources that may enter at the load-balancer IPs; `None`: everybody.
    ///
    /// A range that contains the node's own address lets the load-balancer IPs themselves in: a
    /// connection from the node to such an address loops back with that address as its source.
    pub(super) fn allowed_sources(
        &self,
        family: Family,
        node: Option<IpAddr>,
    ) -> Option<Vec<IpNetwork>> {
        let of_family = |range: &&IpNetwork| Family::of(range.ip()) == family;
        let mut ranges: Vec<_> = self
            .source_ranges
            .iter()
            .filter(of_family)
            .copied()
            .collect();
        if ranges.iter().any(|range| range.prefix() == 0) || ranges.is_empty() && !self.restricted {
            return None;
        }
        if node.is_some_and(|node| ranges.iter().any(|range| range.contains(node))) {
            let own = self
                .balancer_ips
                .iter()
                .filter(|ip| Family::of(**ip) == family);
            ranges.extend(own.map(|ip| IpNetwork::from(*ip)));
            ranges = disjoint(ranges);
        }
        Some(ranges)
    }

    /// Every address in `family` that port number `index` answers at, and where it comes from.
    pub(super) fn addresses(
        &self,
        family: Family,
        index: usize,
    ) -> impl Iterator<Item = (FrontendKind, FrontendAddress)> {
        let of_family = move |ip: &&IpAddr| Family::of(**ip) == family;
        let port = self
            .cluster_ip(family)
            .and_then(|ip| Some((ip, self.ports.get(index)?)));
        port.into_iter().flat_map(
            move |(
                cluster_ip,
                &Port {
                    protocol,
                    port,
                    node_port,
                    ..
                },
            )| {
                let vip = move |ip| FrontendAddress::Vip { ip, protocol, port };
                let external = self.external_ips.iter().filter(of_family);
                let balancer = self.balancer_ips.iter().filter(of_family);
                let node = FrontendAddress::NodePort {
                    family,
                    protocol,
                    port: node_port,
                };
                std::iter::once((FrontendKind::ClusterIp, vip(cluster_ip)))
                    .chain(balancer.map(move |ip| (FrontendKind::LoadBalancer, vip(*ip))))
                    .chain(external.map(move |ip| (FrontendKind::ExternalIp, vip(*ip))))
                    .chain((node_port != 0).then_some((FrontendKind::NodePort, node)))
            },
        )
    }
}
