//! A scenario without a kernel: the oracle and the walkers do what the file says.

mod iptables;
mod ipvs;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use causeway_proxy::config::Mode;
use lb_model::{Family, Packet, Route, ServiceName};
use lb_plan::nftables::{Affinity, Applied, Pass, Settings, Verdict, VirtualKernel, skeleton};

use iptables::Iptables;
use ipvs::Ipvs;

use crate::file::{self, Case, Expected, Source, Who};
use crate::world::World;

/// What becomes of a packet, in the same words for whoever decides.
#[derive(Debug, PartialEq, Eq)]
enum Decided {
    Refused,
    Silence,
    Untouched,
    /// By endpoint, whether the source becomes the node's.
    Reaches(BTreeMap<(IpAddr, u16), bool>),
}

/// The oracle, and a walker for every data plane that has one, do what scenario `name` says.
pub(crate) fn agree(name: &str) {
    let scenario = file::read(name);
    let mut world = World::new(&scenario.configuration);
    let mut nodes: Vec<Nftables> = Vec::new();
    let mut iptables = Iptables::default();
    let mut ipvs = Ipvs::default();
    for (number, step) in scenario.steps.iter().enumerate() {
        world.step(step);
        let changed = world.model.take_changes().services;
        follow(&mut nodes, &world, &changed);
        iptables.follow(&world, &changed);
        ipvs.follow(&world, &changed);
        // Whoever decides about first packets knows of no flows.
        for case in step.cases.iter().filter(|case| case.flow.is_none()) {
            let context = format!("{name}, step {number}, {case:?}");
            for packet in packets(case, &world) {
                let family = Family::of(packet.destination);
                let oracle = by_oracle(&world.model.route_packet(&packet), &packet);
                check(&oracle, case.expected(None), &packet, &context);
                let node = nodes.iter().find(|node| node.settings.family == family);
                let (walked, stays) = node.unwrap().walk(&packet);
                let expected = case.expected(Some("nftables"));
                check(&walked, expected, &packet, &context);
                remembered(stays, expected, &format!("{context}, {packet:?}"));
                let (walked, stays) = iptables.walk(&packet);
                let expected = case.expected(Some("iptables"));
                let told = format!("iptables, {context}");
                check(&walked, expected, &packet, &told);
                remembered(stays, expected, &format!("{told}, {packet:?}"));
                let (walked, stays) = ipvs.walk(&packet);
                let expected = case.expected(Some("ipvs"));
                let told = format!("ipvs, {context}");
                check(&walked, expected, &packet, &told);
                remembered(stays, expected, &format!("{told}, {packet:?}"));
            }
        }
    }
    world.clear();
    let changed = world.model.take_changes().services;
    follow(&mut nodes, &world, &changed);
    iptables.follow(&world, &changed);
    ipvs.follow(&world, &changed);
    assert!(iptables.is_empty());
    assert!(ipvs.is_empty());
    assert!(nodes.iter().all(Nftables::is_empty));
}

/// Whether the sender is remembered as it should be.
#[track_caller]
fn remembered(stays: bool, expected: &Expected, context: &str) {
    if let Expected::Answered(answered) = expected {
        let wanted = answered.stays || answered.forgotten_after.is_some();
        assert_eq!(stays, wanted, "remembered, {context}");
    }
}

fn follow(nodes: &mut Vec<Nftables>, world: &World, changed: &BTreeSet<ServiceName>) {
    for settings in world.plane_settings(&node_port_addresses(world)) {
        let settings = Settings::from(settings);
        let known = nodes.iter_mut().find(|node| node.settings == settings);
        if let Some(node) = known {
            node.go(world, changed);
        } else {
            nodes.retain(|node| node.settings.family != settings.family);
            let mut node = Nftables::new(settings);
            node.go(world, &world.model.services().cloned().collect());
            nodes.push(node);
        }
    }
}

/// The addresses of the packet bed's node towards client and stranger.
fn own_addresses() -> [IpAddr; 4] {
    let own = [
        "192.0.2.1",
        "2001:db8:2::1",
        "198.51.100.1",
        "2001:db8:51::1",
    ];
    own.map(|ip| ip.parse().unwrap())
}

/// What the node of the packet bed would answer.
fn node_port_addresses(world: &World) -> BTreeSet<IpAddr> {
    let own = own_addresses();
    let wanted = world.settings.node_ports(Mode::Nftables);
    let primary = [own[0], own[1]];
    let served = own.into_iter().filter(|ip| {
        wanted.primary && primary.contains(ip)
            || wanted.within.iter().any(|network| network.contains(*ip))
    });
    served.collect()
}

fn packets(case: &Case, world: &World) -> Vec<Packet> {
    let served = node_port_addresses(world);
    let mut packets = Vec::new();
    for from in &case.from {
        for to in &case.to {
            for protocol in case.protocols.iter().filter_map(|one| one.protocol()) {
                packets.push(Packet {
                    source: source(*from, *to),
                    interface: interface(*from),
                    destination: to.ip(),
                    protocol,
                    port: to.port(),
                    source_is_node: *from == Who::Node,
                    destination_is_node_port_address: served.contains(&to.ip()),
                });
            }
        }
    }
    packets
}

/// The address of a sender in the packet bed.
fn source(who: Who, to: SocketAddr) -> IpAddr {
    let (v4, v6) = match who {
        Who::Pod(n) => return pod(n, Family::of(to.ip())),
        Who::Node if to.ip().is_loopback() => return to.ip(),
        Who::Node => ("203.0.112.1", "2001:db8:112::1"),
        Who::Client => ("192.0.2.2", "2001:db8:2::2"),
        Who::Stranger => ("198.51.100.2", "2001:db8:51::2"),
    };
    let text = if to.is_ipv4() { v4 } else { v6 };
    text.parse().unwrap()
}

fn interface(who: Who) -> Option<String> {
    match who {
        Who::Node => None,
        Who::Pod(n) => Some(format!("veth{n}")),
        Who::Client => Some("eth0".to_owned()),
        Who::Stranger => Some("eth1".to_owned()),
    }
}

fn pod(n: usize, family: Family) -> IpAddr {
    let n = u8::try_from(n).unwrap();
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, n, 2).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x244, n.into(), 0, 0, 0, 0, 2).into(),
    }
}

#[track_caller]
fn check(decided: &Decided, expected: &Expected, packet: &Packet, context: &str) {
    let context = format!("{context}, {packet:?}");
    let answered = match expected {
        Expected::Refused => return assert_eq!(*decided, Decided::Refused, "{context}"),
        Expected::Silence => return assert_eq!(*decided, Decided::Silence, "{context}"),
        Expected::Untouched => return assert_eq!(*decided, Decided::Untouched, "{context}"),
        // Sizes are no matter of who decides.
        Expected::TooLarge => {
            return assert!(matches!(decided, Decided::Reaches(_)), "{context}");
        }
        Expected::Answered(answered) => answered,
    };
    let Decided::Reaches(found) = decided else {
        panic!("{decided:?}, {context}");
    };
    let family = Family::of(packet.destination);
    let wanted: BTreeMap<(IpAddr, u16), bool> = answered
        .reaches
        .iter()
        .map(|endpoint| {
            let at = (pod(endpoint.pod, family), endpoint.port);
            let itself = at.0 == packet.source;
            let masqueraded = match answered.source {
                Some(source) => source == Source::Node || itself,
                None => found.get(&at).copied().unwrap_or_default(),
            };
            (at, masqueraded)
        })
        .collect();
    assert_eq!(*found, wanted, "{context}");
}

fn by_oracle(route: &Route, packet: &Packet) -> Decided {
    match route {
        Route::Reject => Decided::Refused,
        Route::Drop => Decided::Silence,
        Route::NotOurs => Decided::Untouched,
        Route::Endpoints { candidates, .. } => {
            let candidates = candidates.iter().map(|endpoint| {
                let masqueraded = route.masqueraded_to(endpoint, packet.source);
                ((endpoint.ip, endpoint.port), masqueraded)
            });
            Decided::Reaches(candidates.collect())
        }
    }
}

/// The nftables data plane of one family, in memory.
struct Nftables {
    settings: Settings,
    applied: Applied,
    kernel: VirtualKernel,
}

impl Nftables {
    fn new(settings: Settings) -> Self {
        let mut kernel = VirtualKernel::new(settings.family);
        kernel.apply(&skeleton(&settings)).unwrap();
        let mut addresses = settings.node_port_address_changes(&BTreeSet::new());
        addresses.extend(settings.service_cidr_changes(&BTreeSet::new()));
        kernel.apply(&addresses).unwrap();
        Self {
            settings,
            applied: Applied::default(),
            kernel,
        }
    }

    fn go(&mut self, world: &World, services: &BTreeSet<ServiceName>) {
        let family = self.settings.family;
        let wanted = services
            .iter()
            .map(|name| (name, world.model.frontends(name, family)));
        let wanted: Vec<_> = wanted.collect();
        let mut pass = Pass::new(&mut self.applied, &self.settings);
        for (service, frontends) in &wanted {
            pass.claim(service, frontends);
        }
        for (service, frontends) in &wanted {
            for step in pass.plan(service, frontends) {
                self.kernel.apply(&step.operations).unwrap();
                pass.commit(step);
            }
        }
        if let Some(step) = pass.sweep() {
            self.kernel.apply(&step.operations).unwrap();
            pass.commit(step);
        }
    }

    /// What becomes of `packet`, and whether its sender is remembered.
    fn walk(&self, packet: &Packet) -> (Decided, bool) {
        decided(self.kernel.walk(packet, &Affinity::default()))
    }

    /// Whether no Service has left anything.
    fn is_empty(&self) -> bool {
        let found = self.kernel.found();
        let addresses = self.settings.node_port_addresses.len();
        found.elements.len() == addresses && found.chains.is_empty()
    }
}

/// What a verdict comes to, and whether the sender is remembered.
fn decided(verdict: Verdict) -> (Decided, bool) {
    match verdict {
        Verdict::Reject => (Decided::Refused, false),
        Verdict::Drop => (Decided::Silence, false),
        Verdict::Untouched => (Decided::Untouched, false),
        Verdict::Balanced { .. } => panic!("nobody chose an endpoint"),
        Verdict::Translated {
            targets,
            masquerade,
            hairpin,
            remembered,
        } => {
            let to = targets.into_iter().map(|target| {
                let masqueraded = masquerade || hairpin.contains(&target);
                ((target.ip, target.port), masqueraded)
            });
            (Decided::Reaches(to.collect()), remembered.is_some())
        }
    }
}
