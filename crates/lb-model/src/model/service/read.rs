//! From what the API said about a Service to what is kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;

use crate::model::door::Door;
use crate::model::service::{Port, Service};
use crate::said;

/// `spec.sessionAffinityConfig.clientIP.timeoutSeconds` where it is absent, in seconds (core/v1).
const DEFAULT_AFFINITY: NonZeroU32 = NonZeroU32::MIN.saturating_add(10_799);
/// The longest affinity that the API accepts, in seconds.
const MAX_AFFINITY: u32 = 86_400;
/// Ports of one Service; the API bounds the ports of an EndpointSlice alike.
const MAX_PORTS: usize = 20_000;
/// External IPs, load-balancer IPs and source ranges of one Service, each.
const MAX_ADDRESSES: usize = 1_000;
/// `created` where nobody said it: the youngest.
const UNKNOWN_AGE: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

impl Service {
    /// What `said` means; `None` when this proxy has nothing to do for it.
    pub(in crate::model) fn read(said: &said::Service, door: &mut Door<'_>) -> Option<Self> {
        let headless = said.headless_label || said.cluster_ips.iter().any(|ip| ip == "None");
        let pending = said.cluster_ips.iter().all(String::is_empty);
        if said.other_proxy || headless || pending || said.kind == "ExternalName" {
            return None;
        }
        let (v4, v6) = cluster_ips(said, door);
        let served = |ip: IpAddr| {
            if ip.is_ipv4() {
                v4.is_some()
            } else {
                v6.is_some()
            }
        };
        let kind = kind(said, door);
        let external_ips = external_ips(said, served, door);
        let external = kind != Kind::ClusterIp || !external_ips.is_empty();
        let external_local = external && external_policy_is_local(said, door);
        let (source_ranges, restricted) = source_ranges(said, door);
        let probed = external_local && kind == Kind::LoadBalancer;
        let service = Self {
            created: created(said, door),
            v4,
            v6,
            external_ips,
            balancer_ips: balancer_ips(said, served, door),
            source_ranges,
            restricted,
            affinity: said.client_ip_affinity.then(|| affinity(said, door)),
            internal_local: internal_policy_is_local(said, door),
            external_local,
            health_check_port: if probed {
                health_check_port(said, door)
            } else {
                0
            },
            ports: ports(said, door),
        };
        let usable = (v4.is_some() || v6.is_some()) && !service.ports.is_empty();
        usable.then_some(service)
    }
}

fn kind(said: &said::Service, door: &mut Door<'_>) -> Kind {
    match said.kind.as_str() {
        "" | "ClusterIP" => Kind::ClusterIp,
        "NodePort" => Kind::NodePort,
        "LoadBalancer" => Kind::LoadBalancer,
        other => {
            door.complain(
                "spec.type",
                other,
                "ClusterIP, NodePort, LoadBalancer or ExternalName",
            );
            Kind::ClusterIp
        }
    }
}

fn created(said: &said::Service, door: &mut Door<'_>) -> u64 {
    let text = said.created.as_str();
    let shape = |(i, byte): (usize, u8)| match i {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    if text.is_empty() {
        UNKNOWN_AGE
    } else if text.len() == 20 && text.bytes().enumerate().all(shape) {
        let digits = text.bytes().filter(u8::is_ascii_digit);
        digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    } else {
        door.complain(
            "metadata.creationTimestamp",
            text,
            "a time as 2026-01-31T23:59:59Z",
        );
        UNKNOWN_AGE
    }
}

fn cluster_ips(said: &said::Service, door: &mut Door<'_>) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let accepted = "at most one address per IP family";
    let (mut v4, mut v6) = (None, None);
    for (i, text) in door
        .bounded("spec.clusterIPs", &said.cluster_ips, 2, accepted)
        .iter()
        .enumerate()
    {
        let field = format_args!("spec.clusterIPs[{i}]");
        let second = match door.address(field, text) {
            Some(IpAddr::V4(ip)) => v4
                .replace(ip)
                .is_some_and(|first| v4.replace(first).is_some()),
            Some(IpAddr::V6(ip)) => v6
                .replace(ip)
                .is_some_and(|first| v6.replace(first).is_some()),
            None => false,
        };
        if second {
            door.complain(field, text, accepted);
        }
    }
    (v4, v6)
}

fn external_ips(
    said: &said::Service,
    served: impl Fn(IpAddr) -> bool,
    door: &mut Door<'_>,
) -> Box<[IpAddr]> {
    let list = door.bounded(
        "spec.externalIPs",
        &said.external_ips,
        MAX_ADDRESSES,
        "at most 1000",
    );
    let mut ips = Vec::new();
    for (i, text) in list.iter().enumerate() {
        let field = format_args!("spec.externalIPs[{i}]");
        match door.address(field, text.trim()) {
            Some(ip) if served(ip) => ips.push(ip),
            Some(_) => door.complain(
                field,
                text,
                "an IP family that the Service has a ClusterIP of",
            ),
            None => {}
        }
    }
    sorted(ips)
}

fn balancer_ips(
    said: &said::Service,
    served: impl Fn(IpAddr) -> bool,
    door: &mut Door<'_>,
) -> Box<[IpAddr]> {
    let path = "status.loadBalancer.ingress";
    let list = door.bounded(path, &said.ingress, MAX_ADDRESSES, "at most 1000");
    let mut ips = Vec::new();
    for (i, ingress) in list.iter().enumerate() {
        match ingress.ip_mode.as_str() {
            "Proxy" => continue,
            "" | "VIP" => {}
            other => door.complain(format_args!("{path}[{i}].ipMode"), other, "VIP or Proxy"),
        }
        if ingress.ip.is_empty() {
            continue;
        }
        // A balancer may have addresses of a family that the Service lacks: it translates itself.
        let ip = door.address(format_args!("{path}[{i}].ip"), &ingress.ip);
        ips.extend(ip.filter(|ip| served(*ip)));
    }
    sorted(ips)
}

/// The ranges of both families, and whether an unreadable one is among them.
fn source_ranges(said: &said::Service, door: &mut Door<'_>) -> (Box<[IpNetwork]>, bool) {
    let path = "spec.loadBalancerSourceRanges";
    let list = door.bounded(path, &said.source_ranges, MAX_ADDRESSES, "at most 1000");
    let mut restricted = list.len() < said.source_ranges.len();
    let mut ranges = Vec::new();
    for (i, text) in list
        .iter()
        .enumerate()
        .filter(|(_, text)| !text.trim().is_empty())
    {
        let range = door.network(format_args!("{path}[{i}]"), text.trim());
        restricted |= range.is_none();
        ranges.extend(range);
    }
    (disjoint(ranges).into(), restricted)
}

/// `ranges` sorted, without those that another one contains.
pub(super) fn disjoint(mut ranges: Vec<IpNetwork>) -> Vec<IpNetwork> {
    // Two networks are nested or disjoint, and the wider sorts first.
    ranges.sort_unstable_by_key(|range| (range.ip(), range.prefix()));
    ranges.dedup_by(|next, wider| wider.contains(next.ip()));
    ranges
}

fn sorted(mut ips: Vec<IpAddr>) -> Box<[IpAddr]> {
    ips.sort_unstable();
    ips.dedup();
    ips.into()
}

fn affinity(said: &said::Service, door: &mut Door<'_>) -> NonZeroU32 {
    let Some(seconds) = said.affinity_seconds else {
        return DEFAULT_AFFINITY;
    };
    let usable = u32::try_from(seconds)
        .ok()
        .filter(|seconds| *seconds <= MAX_AFFINITY);
    usable.and_then(NonZeroU32::new).unwrap_or_else(|| {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        door.complain(field, seconds, "1 to 86400");
        DEFAULT_AFFINITY
    })
}

fn internal_policy_is_local(said: &said::Service, door: &mut Door<'_>) -> bool {
    is_local(
        "spec.internalTrafficPolicy",
        &said.internal_traffic_policy,
        door,
    )
}

fn external_policy_is_local(said: &said::Service, door: &mut Door<'_>) -> bool {
    is_local(
        "spec.externalTrafficPolicy",
        &said.external_traffic_policy,
        door,
    )
}

fn is_local(field: &str, policy: &str, door: &mut Door<'_>) -> bool {
    if !["", "Cluster", "Local"].contains(&policy) {
        door.complain(field, policy, "Cluster or Local");
    }
    policy == "Local"
}

fn health_check_port(said: &said::Service, door: &mut Door<'_>) -> u16 {
    match said.health_check_node_port {
        0 => 0,
        port => door
            .port(format_args!("spec.healthCheckNodePort"), port)
            .unwrap_or(0),
    }
}

fn ports(said: &said::Service, door: &mut Door<'_>) -> Box<[Port]> {
    let list = door.bounded("spec.ports", &said.ports, MAX_PORTS, "at most 20000");
    let mut ports: Vec<Port> = Vec::with_capacity(list.len());
    let mut taken = std::collections::HashSet::new();
    for (i, said) in list.iter().enumerate() {
        let name = door.label(format_args!("spec.ports[{i}].name"), &said.name);
        let protocol = door.protocol(format_args!("spec.ports[{i}].protocol"), &said.protocol);
        let port = door.port(format_args!("spec.ports[{i}].port"), said.port);
        let node_port = match said.node_port {
            0 => 0,
            number => door
                .port(format_args!("spec.ports[{i}].nodePort"), number)
                .unwrap_or(0),
        };
        let (Some(name), Some(protocol), Some(port)) = (name, protocol, port) else {
            continue;
        };
        if taken.insert((protocol, port)) {
            ports.push(Port {
                name,
                protocol,
                port,
                node_port,
            });
        } else {
            let accepted = "each protocol and port once";
            door.complain(format_args!("spec.ports[{i}].port"), port, accepted);
        }
    }
    ports.into()
}
