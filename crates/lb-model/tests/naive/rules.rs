//! The rules once more, from the facts about kube-proxy alone: slow, without state, straight from
//! what the API said. It expects well-formed input.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnetwork::IpNetwork;
use lb_model::said::{EndpointSlice, Node, Service, ServicePort, SliceEndpoint};
use lb_model::{
    DetectLocal, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Masquerade,
    ModelConfig, Packet, Protocol, Route, Treatment,
};

/// All objects that exist.
pub(crate) struct World<'a> {
    pub(crate) config: &'a ModelConfig,
    pub(crate) node: Option<&'a Node>,
    pub(crate) services: Vec<&'a Service>,
    pub(crate) slices: Vec<&'a EndpointSlice>,
}

/// Every frontend on the node, with its Service's name.
pub(crate) type Table = BTreeMap<FrontendAddress, (String, Frontend)>;

fn protocol(said: &str) -> Protocol {
    match said {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

fn ip(said: &str) -> IpAddr {
    said.parse().unwrap()
}

fn served(service: &Service) -> bool {
    !service.other_proxy
        && !service.headless_label
        && service.kind != "ExternalName"
        && service.cluster_ips.iter().all(|ip| ip != "None")
}

fn cluster_ip(service: &Service, family: Family) -> Option<IpAddr> {
    service
        .cluster_ips
        .iter()
        .map(|said| ip(said))
        .find(|ip| Family::of(*ip) == family)
}

fn vips(service: &Service) -> Vec<IpAddr> {
    let vip = |mode: &str| mode != "Proxy";
    service
        .ingress
        .iter()
        .filter(|ingress| vip(&ingress.ip_mode))
        .map(|i| ip(&i.ip))
        .collect()
}

/// One thing that several Services may claim: the least wins.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Claim<'a> {
    rank: u8,
    young: bool,
    created: &'a str,
    name: String,
    port: usize,
}

struct Claimed<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    kind: FrontendKind,
}

impl World<'_> {
    pub(crate) fn table(&self) -> Table {
        let mut claims: BTreeMap<FrontendAddress, Vec<(Claim<'_>, Claimed<'_>)>> = BTreeMap::new();
        for service in self
            .services
            .iter()
            .copied()
            .filter(|service| served(service))
        {
            for family in Family::ALL {
                for (number, port) in service.ports.iter().enumerate() {
                    for (rank, kind, address) in addresses(service, family, port) {
                        let claim = Claim {
                            rank,
                            young: service.created.is_empty(),
                            created: &service.created,
                            name: format!("{}/{}", service.namespace, service.name),
                            port: number,
                        };
                        let claimed = Claimed {
                            service,
                            port,
                            kind,
                        };
                        claims.entry(address).or_default().push((claim, claimed));
                    }
                }
            }
        }
        let decide = |(address, mut claims): (FrontendAddress, Vec<(Claim<'_>, Claimed<'_>)>)| {
            claims.sort_by(|a, b| a.0.cmp(&b.0));
            let (claim, claimed) = claims.swap_remove(0);
            (address, (claim.name, self.frontend(address, &claimed)))
        };
        claims.into_iter().map(decide).collect()
    }

    fn frontend(&self, address: FrontendAddress, claimed: &Claimed<'_>) -> Frontend {
        let Claimed {
            service,
            port,
            kind,
        } = claimed;
        let affinity = service
            .client_ip_affinity
            .then(|| match service.affinity_seconds {
                Some(seconds) => NonZeroU32::new(u32::try_from(seconds).unwrap()).unwrap(),
                None => NonZeroU32::new(10_800).unwrap(),
            });
        let family = address.family();
        Frontend {
            address,
            kind: *kind,
            affinity,
            allowed_sources: match kind {
                FrontendKind::LoadBalancer => self.allowed_sources(service, family),
                _ => None,
            },
            treatment: self.treatment(service, port, *kind, family),
        }
    }

    fn allowed_sources(&self, service: &Service, family: Family) -> Option<Vec<IpNetwork>> {
        let said = service
            .source_ranges
            .iter()
            .map(|range| range.trim().parse().unwrap());
        let mut ranges: Vec<IpNetwork> = said
            .filter(|range: &IpNetwork| Family::of(range.ip()) == family)
            .collect();
        if ranges.is_empty() || ranges.iter().any(|range| range.prefix() == 0) {
            return None;
        }
        let addresses = self.node.map_or(&[] as &[String], |node| &node.addresses);
        let node = addresses
            .iter()
            .map(|said| ip(said))
            .find(|ip| Family::of(*ip) == family);
        if node.is_some_and(|node| ranges.iter().any(|range| range.contains(node))) {
            let own = vips(service)
                .into_iter()
                .filter(|ip| Family::of(*ip) == family);
            ranges.extend(own.map(IpNetwork::from));
        }
        let mut least: Vec<IpNetwork> = Vec::new();
        for range in ranges {
            let range = IpNetwork::new(range.network(), range.prefix()).unwrap();
            let inside =
                |a: &IpNetwork, b: &IpNetwork| b.contains(a.ip()) && a.prefix() >= b.prefix();
            if !least.iter().any(|wide| inside(&range, wide)) {
                least.retain(|narrow| !inside(narrow, &range));
                least.push(range);
            }
        }
        least.sort();
        Some(least)
    }

    fn treatment(
        &self,
        service: &Service,
        port: &ServicePort,
        kind: FrontendKind,
        family: Family,
    ) -> Treatment {
        let all = self.endpoints(service, port, family);
        let has_any = all.values().any(|e| e.ready || e.draining);
        let (cluster, local) = (self.cluster(&all), listed(&all, |e| e.local));
        if !has_any {
            return Treatment::Reject;
        }
        if kind == FrontendKind::ClusterIp {
            let masquerade = match self.config.masquerade_all {
                true => Masquerade::Always,
                false => Masquerade::OffCluster,
            };
            return match service.internal_traffic_policy.as_str() {
                "Local" if local.is_empty() => Treatment::Drop,
                "Local" => Treatment::Forward {
                    endpoints: local,
                    masquerade,
                },
                _ => Treatment::Forward {
                    endpoints: cluster,
                    masquerade,
                },
            };
        }
        // Upstream helper "ExternalPolicyLocal" needs a Service that is accessible from outside.
        let accessible = ["NodePort", "LoadBalancer"].contains(&service.kind.as_str())
            || service
                .external_ips
                .iter()
                .any(|said| cluster_ip(service, Family::of(ip(said))).is_some());
        if service.external_traffic_policy == "Local" && accessible {
            return Treatment::LocalOnly { cluster, local };
        }
        Treatment::Forward {
            endpoints: cluster,
            masquerade: Masquerade::Always,
        }
    }

    fn endpoints(&self, service: &Service, port: &ServicePort, family: Family) -> Merged {
        let mut merged = Merged::new();
        let address_type = if family == Family::V4 { "IPv4" } else { "IPv6" };
        for slice in &self.slices {
            let ours = slice.namespace == service.namespace && slice.service == service.name;
            if !ours || slice.headless_label || slice.address_type != address_type {
                continue;
            }
            let here = |p: &&lb_model::said::SlicePort| {
                p.name == port.name && protocol(&p.protocol) == protocol(&port.protocol)
            };
            for number in slice.ports.iter().filter(here).filter_map(|port| port.port) {
                for said in &slice.endpoints {
                    let key = (ip(&said.addresses[0]), u16::try_from(number).unwrap());
                    self.merge(merged.entry(key).or_default(), said);
                }
            }
        }
        merged
    }

    fn merge(&self, into: &mut Facts, said: &SliceEndpoint) {
        let ready = said.ready != Some(false);
        let draining = said.serving != Some(false) && said.terminating == Some(true);
        if !ready && !draining {
            return;
        }
        let node = &self.config.node_name;
        let zone = self.node.map(|node| &node.zone);
        into.ready |= ready;
        into.draining |= draining;
        into.local |= said.node_name == *node;
        into.elsewhere |= !said.node_name.is_empty() && said.node_name != *node;
        into.node_hint |= !said.node_hints.is_empty();
        into.this_node |= said.node_hints.contains(node);
        into.zone_hint |= !said.zone_hints.is_empty();
        into.this_zone |= zone.is_some_and(|zone| said.zone_hints.contains(zone));
    }

    fn cluster(&self, all: &Merged) -> Vec<Endpoint> {
        let ready: Vec<&Facts> = all.values().filter(|e| e.ready).collect();
        let nodes = ready.iter().all(|e| e.node_hint) && ready.iter().any(|e| e.this_node);
        let zones = ready.iter().all(|e| e.zone_hint) && ready.iter().any(|e| e.this_zone);
        // The fallback to terminating endpoints knows no hints.
        match (ready.is_empty(), nodes, zones) {
            (true, ..) | (_, false, false) => listed(all, |_| true),
            (_, true, _) => listed(all, |e| !e.ready || e.this_node),
            (_, _, true) => listed(all, |e| !e.ready || e.this_zone),
        }
    }

    /// What the packet must meet, by the table.
    pub(crate) fn route(&self, table: &Table, packet: &Packet) -> Route {
        let family = Family::of(packet.destination);
        if Family::of(packet.source) != family {
            return Route::NotOurs;
        }
        let (ip, protocol, port) = (packet.destination, packet.protocol, packet.port);
        let mut hit = table.get(&FrontendAddress::Vip { ip, protocol, port });
        if hit.is_none() && packet.destination_is_node_port_address {
            hit = table.get(&FrontendAddress::NodePort {
                family,
                protocol,
                port,
            });
        }
        if let Some((_, frontend)) = hit {
            return self.meet(frontend, family, packet);
        }
        let live = self.services.iter().filter(|service| served(service));
        let mut cluster_ips = live.filter_map(|service| cluster_ip(service, family));
        if cluster_ips.any(|cluster_ip| cluster_ip == ip) {
            Route::Reject
        } else {
            Route::NotOurs
        }
    }

    fn meet(&self, frontend: &Frontend, family: Family, packet: &Packet) -> Route {
        if let Some(allowed) = &frontend.allowed_sources
            && !allowed.iter().any(|range| range.contains(packet.source))
        {
            return Route::Drop;
        }
        let pod = self.is_pod(family, packet);
        let to = |endpoints: &Vec<Endpoint>, masquerade| Route::Endpoints {
            candidates: endpoints.clone(),
            masquerade,
        };
        match &frontend.treatment {
            Treatment::Reject => Route::Reject,
            Treatment::Drop => Route::Drop,
            Treatment::Forward {
                endpoints,
                masquerade,
            } => {
                let off_cluster = *masquerade == Masquerade::OffCluster && pod == Some(false);
                to(endpoints, off_cluster || *masquerade == Masquerade::Always)
            }
            Treatment::LocalOnly { cluster, .. } if pod == Some(true) => to(cluster, false),
            Treatment::LocalOnly { cluster, .. } if packet.source_is_node => to(cluster, true),
            Treatment::LocalOnly { local, .. } if local.is_empty() => Route::Drop,
            Treatment::LocalOnly { local, .. } => to(local, false),
        }
    }

    /// `None`: cannot tell.
    fn is_pod(&self, family: Family, packet: &Packet) -> Option<bool> {
        let inside = |cidrs: Vec<IpNetwork>| {
            let mut own = cidrs
                .into_iter()
                .filter(|cidr| Family::of(cidr.ip()) == family);
            own.next().map(|cidr| cidr.contains(packet.source))
        };
        match &self.config.detect_local {
            DetectLocal::None => None,
            DetectLocal::ClusterCidr(cidrs) => inside(cidrs.clone()),
            DetectLocal::NodeCidr => inside(
                self.node?
                    .pod_cidrs
                    .iter()
                    .map(|cidr| cidr.parse().unwrap())
                    .collect(),
            ),
            DetectLocal::Bridge(name) => Some(packet.interface.as_ref() == Some(name)),
            DetectLocal::Prefix(prefix) => Some(
                packet
                    .interface
                    .as_ref()
                    .is_some_and(|name| name.starts_with(prefix)),
            ),
        }
    }
}

#[derive(Default)]
struct Facts {
    ready: bool,
    draining: bool,
    local: bool,
    elsewhere: bool,
    node_hint: bool,
    this_node: bool,
    zone_hint: bool,
    this_zone: bool,
}

type Merged = BTreeMap<(IpAddr, u16), Facts>;

/// The ready ones that are `meant`, or else the terminating ones that are.
fn listed(all: &Merged, meant: impl Fn(&Facts) -> bool) -> Vec<Endpoint> {
    let ready = all.values().filter(|facts| facts.ready);
    let (mut nodes, mut zones) = (true, true);
    for facts in ready {
        (nodes, zones) = (nodes && facts.node_hint, zones && facts.zone_hint);
    }
    let pick = |wanted: fn(&Facts) -> bool| -> Vec<Endpoint> {
        let chosen = all
            .iter()
            .filter(|(_, facts)| wanted(facts) && meant(facts));
        chosen
            .map(|((ip, port), facts)| Endpoint {
                ip: *ip,
                port: *port,
                local: facts.local,
                delegable: facts.elsewhere && !facts.local && !nodes && !zones,
            })
            .collect()
    };
    let ready = pick(|facts| facts.ready);
    if ready.is_empty() {
        pick(|facts| facts.draining)
    } else {
        ready
    }
}

fn addresses(
    service: &Service,
    family: Family,
    port: &ServicePort,
) -> Vec<(u8, FrontendKind, FrontendAddress)> {
    let Some(own) = cluster_ip(service, family) else {
        return Vec::new();
    };
    let protocol = protocol(&port.protocol);
    let number = u16::try_from(port.port).unwrap();
    let vip = |ip| FrontendAddress::Vip {
        ip,
        protocol,
        port: number,
    };
    let mut found = vec![(0, FrontendKind::ClusterIp, vip(own))];
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    for ip in vips(service).into_iter().filter(of_family) {
        found.push((1, FrontendKind::LoadBalancer, vip(ip)));
    }
    for ip in service
        .external_ips
        .iter()
        .map(|said| ip(said))
        .filter(of_family)
    {
        found.push((2, FrontendKind::ExternalIp, vip(ip)));
    }
    if port.node_port != 0 {
        let port = u16::try_from(port.node_port).unwrap();
        found.push((
            3,
            FrontendKind::NodePort,
            FrontendAddress::NodePort {
                family,
                protocol,
                port,
            },
        ));
    }
    found
}
