//! An EndpointSlice as it is kept: parsed, and of endpoints that cannot be chosen the address only.

use std::net::IpAddr;
use std::sync::Arc;

use crate::frontend::{Family, Protocol};
use crate::model::door::Door;
use crate::said;

/// Endpoints of one slice (discovery/v1 `EndpointSlice.endpoints`).
const MAX_ENDPOINTS: usize = 1_000;
/// Ports of one slice (the API's own validation).
const MAX_PORTS: usize = 20_000;
/// Zones or nodes that one endpoint is hinted for (the API's own validation).
const MAX_HINTS: usize = 8;

/// What is known about one endpoint, as bits: what several slices say about it is or-ed together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Traits(u8);

impl Traits {
    /// On this node.
    pub(super) const LOCAL: Self = Self(1);
    /// Gets traffic.
    pub(super) const READY: Self = Self(1 << 1);
    /// Serving and terminating: gets traffic where nobody is ready.
    pub(super) const DRAINING: Self = Self(1 << 2);
    /// Hinted for some node.
    pub(super) const NODE_HINT: Self = Self(1 << 3);
    /// Hinted for this node.
    pub(super) const THIS_NODE: Self = Self(1 << 4);
    /// Hinted for some zone.
    pub(super) const ZONE_HINT: Self = Self(1 << 5);
    /// Hinted for this node's zone.
    pub(super) const THIS_ZONE: Self = Self(1 << 6);
    /// On another node, which it names.
    pub(super) const ELSEWHERE: Self = Self(1 << 7);

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    const fn when(self, condition: bool, other: Self) -> Self {
        if condition { self.with(other) } else { self }
    }
}

/// One EndpointSlice of one family with at least one endpoint, usable or not, and port.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    /// `namespace/name`.
    pub(super) name: Arc<str>,
    pub(super) family: Family,
    ports: Box<[Port]>,
    endpoints: Box<[Endpoint]>,
    /// Endpoints that are neither ready nor draining.
    idle: Box<[IpAddr]>,
    /// The distinct sets of zones that endpoints are hinted for: they are few and often alike.
    zones: Box<[Zones]>,
}

type Zones = Box<[Box<str>]>;

#[derive(Debug, PartialEq, Eq)]
struct Port {
    name: Box<str>,
    protocol: Protocol,
    number: u16,
}

#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    ip: IpAddr,
    traits: Traits,
    /// 1 + the index into [`Slice::zones`]; 0: not hinted.
    zones: u16,
}

impl Slice {
    /// Bytes that it takes, without what the allocator adds.
    pub(super) fn bytes(&self) -> usize {
        let names = self.ports.iter().map(|port| port.name.len());
        let zones = self.zones.iter().flatten();
        size_of::<Self>()
            + self.name.len()
            + size_of_val(&*self.ports)
            + names.sum::<usize>()
            + size_of_val(&*self.endpoints)
            + size_of_val(&*self.idle)
            + size_of_val(&*self.zones)
            + zones
                .map(|zone| size_of_val(zone) + zone.len())
                .sum::<usize>()
    }

    /// What `said` means; `None` when nothing in it is usable.
    pub(super) fn read(
        name: Arc<str>,
        said: &said::EndpointSlice,
        node: &str,
        door: &mut Door<'_>,
    ) -> Option<Self> {
        let family = match said.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            "FQDN" => return None,
            other => {
                door.complain("addressType", other, "IPv4, IPv6 or FQDN");
                return None;
            }
        };
        let mut zones = Vec::new();
        let list = door.bounded("endpoints", &said.endpoints, MAX_ENDPOINTS, "at most 1000");
        let mut endpoints = Vec::with_capacity(list.len());
        let mut idle = Vec::new();
        for (i, said) in list.iter().enumerate() {
            match endpoint(i, said, family, node, &mut zones, door) {
                Some(Listed::Usable(endpoint)) => endpoints.push(endpoint),
                Some(Listed::Idle(ip)) => idle.push(ip),
                None => {}
            }
        }
        let ports = ports(said, door);
        let nobody = endpoints.is_empty() && idle.is_empty();
        let usable = !nobody && !ports.is_empty();
        usable.then(|| Self {
            name,
            family,
            ports,
            endpoints: endpoints.into(),
            idle: idle.into(),
            zones: zones.into(),
        })
    }

    /// Whether decisions about it depend on this node's zone.
    pub(super) fn has_zone_hints(&self) -> bool {
        !self.zones.is_empty()
    }

    /// The endpoints of the port of that name and protocol, for a node in `zone`.
    pub(super) fn endpoints<'a>(
        &'a self,
        name: &'a str,
        protocol: Protocol,
        zone: &'a str,
    ) -> impl Iterator<Item = (IpAddr, u16, Traits)> + 'a {
        let meant = move |port: &&Port| port.protocol == protocol && *port.name == *name;
        self.ports.iter().filter(meant).flat_map(move |port| {
            let number = port.number;
            self.endpoints
                .iter()
                .map(move |e| (e.ip, number, e.traits.with(self.hints(e, zone))))
        })
    }

    /// Addresses of the endpoints of the port of that name and protocol that cannot be chosen.
    pub(super) fn idle<'a>(
        &'a self,
        name: &'a str,
        protocol: Protocol,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let listed = self.has_port(name, protocol);
        self.idle.iter().copied().filter(move |_| listed)
    }

    /// Addresses of the ready endpoints on this node.
    pub(super) fn local_ready(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let meant = Traits::LOCAL.with(Traits::READY);
        self.endpoints
            .iter()
            .filter(move |e| e.traits.has(meant))
            .map(|e| e.ip)
    }

    /// Whether it has a port of that name and protocol.
    pub(super) fn has_port(&self, name: &str, protocol: Protocol) -> bool {
        self.ports
            .iter()
            .any(|port| port.protocol == protocol && *port.name == *name)
    }

    fn hints(&self, endpoint: &Endpoint, zone: &str) -> Traits {
        let zones = usize::from(endpoint.zones)
            .checked_sub(1)
            .and_then(|i| self.zones.get(i));
        let Some(zones) = zones else {
            return Traits::default();
        };
        Traits::ZONE_HINT.when(
            zones.iter().any(|hinted| **hinted == *zone),
            Traits::THIS_ZONE,
        )
    }
}

/// What a slice says of an endpoint.
enum Listed {
    Usable(Endpoint),
    Idle(IpAddr),
}

fn endpoint(
    i: usize,
    said: &said::SliceEndpoint,
    family: Family,
    node: &str,
    zones: &mut Vec<Zones>,
    door: &mut Door<'_>,
) -> Option<Listed> {
    let Some(text) = said.addresses.first() else {
        door.complain(
            format_args!("endpoints[{i}].addresses"),
            "",
            "at least one address",
        );
        return None;
    };
    let field = format_args!("endpoints[{i}].addresses[0]");
    let ip = door.address(field, text)?;
    if Family::of(ip) != family {
        door.complain(field, text, "an address of the slice's addressType");
        return None;
    }
    let ready = said.ready.unwrap_or(true);
    let draining = said.serving.unwrap_or(true) && said.terminating.unwrap_or(false);
    if !ready && !draining {
        return Some(Listed::Idle(ip));
    }
    let field = format_args!("endpoints[{i}].hints.forNodes");
    bounded_hints(field, &said.node_hints, door);
    let hinted_here = said.node_hints.iter().any(|hint| is_own(hint, node));
    let traits = Traits::default()
        .when(ready, Traits::READY)
        .when(draining, Traits::DRAINING)
        .when(is_own(&said.node_name, node), Traits::LOCAL)
        .when(is_others(&said.node_name, node), Traits::ELSEWHERE)
        .when(!said.node_hints.is_empty(), Traits::NODE_HINT)
        .when(hinted_here, Traits::THIS_NODE);
    Some(Listed::Usable(Endpoint {
        ip,
        traits,
        zones: zone_set(i, said, zones, door),
    }))
}

fn is_own(name: &str, node: &str) -> bool {
    !node.is_empty() && name == node
}

fn is_others(name: &str, node: &str) -> bool {
    !node.is_empty() && !name.is_empty() && name != node
}

fn bounded_hints<'l>(
    field: std::fmt::Arguments<'_>,
    hints: &'l [String],
    door: &mut Door<'_>,
) -> &'l [String] {
    if hints.len() > MAX_HINTS {
        door.complain(field, format_args!("{} entries", hints.len()), "at most 8");
    }
    &hints[..hints.len().min(MAX_HINTS)]
}

/// Stores the zones that an endpoint is hinted for once, and gives their number.
fn zone_set(
    i: usize,
    said: &said::SliceEndpoint,
    zones: &mut Vec<Zones>,
    door: &mut Door<'_>,
) -> u16 {
    let field = format_args!("endpoints[{i}].hints.forZones");
    let mut set: Vec<Box<str>> = Vec::new();
    for hint in bounded_hints(field, &said.zone_hints, door) {
        set.extend(door.label(field, hint));
    }
    if set.is_empty() {
        return 0;
    }
    set.sort_unstable();
    set.dedup();
    let index = zones
        .iter()
        .position(|known| **known == *set)
        .unwrap_or_else(|| {
            zones.push(set.into());
            zones.len() - 1
        });
    // At most one set per endpoint, so at most MAX_ENDPOINTS.
    u16::try_from(index + 1).unwrap_or(0)
}

fn ports(said: &said::EndpointSlice, door: &mut Door<'_>) -> Box<[Port]> {
    let list = door.bounded("ports", &said.ports, MAX_PORTS, "at most 20000");
    let mut ports = Vec::with_capacity(list.len());
    for (i, said) in list.iter().enumerate() {
        // No number means every port, which nobody can forward to; kube-proxy leaves it out, too.
        let Some(number) = said.port.filter(|number| *number != 0) else {
            continue;
        };
        let name = door.label(format_args!("ports[{i}].name"), &said.name);
        let protocol = door.protocol(format_args!("ports[{i}].protocol"), &said.protocol);
        let number = door.port(format_args!("ports[{i}].port"), number);
        if let (Some(name), Some(protocol), Some(number)) = (name, protocol, number) {
            ports.push(Port {
                name,
                protocol,
                number,
            });
        }
    }
    ports.into()
}
