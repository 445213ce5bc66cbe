//! The IPVS data plane as these tests start it, and what the kernel has of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proxy::backend::ipvs::{DEVICE, Options};
use causeway_proxy::backend::{DataPlane, IpvsBackend, PlaneSettings};
use causeway_proxy::node_ports;
use causeway_tests::packet_bed::Bed;
use lb_model::Family;
use nodekit::ipvs::{Command, IpvsSocket, ServiceKey};
use nodekit::route::{Handle, Scope, index_of};

use crate::world::{Proxy, World};

impl World {
    pub(crate) fn settings(&self, bed: &Bed) -> Vec<PlaneSettings> {
        let own = bed.node.netns.run(node_ports::own_addresses).unwrap();
        let settings = Family::ALL.map(|family| PlaneSettings {
            family,
            masquerade_bit: 14,
            detector: self.model.local_detector(family),
            node_port_addresses: BTreeSet::from([bed.node.ip(family)]),
            service_cidrs: BTreeSet::new(),
            own_addresses: own.clone(),
            localhost_node_ports: false,
            tcp_be_liberal: false,
        });
        settings.to_vec()
    }
}

impl<'a> Proxy<'a, IpvsBackend> {
    pub(crate) fn start(bed: &'a Bed, world: &World) -> Self {
        Self::with(bed, world, &Options::default())
    }

    pub(crate) fn with(bed: &'a Bed, world: &World, options: &Options) -> Self {
        let open = || IpvsBackend::open(options, world.settings(bed)).unwrap();
        Self::over(bed, bed.node.netns.run(open).unwrap())
    }

    /// Whether somebody changed what is ours.
    pub(crate) fn drifted(&mut self, bed: &Bed) -> bool {
        bed.node
            .netns
            .run(|| self.backend.check())
            .unwrap()
            .unwrap()
    }
}

/// A line for each virtual service, each destination and each address of the device, sorted.
pub(crate) fn listing(bed: &Bed) -> Vec<String> {
    let list = || {
        let mut socket = IpvsSocket::open().unwrap();
        let mut lines = Vec::new();
        for service in socket.services().unwrap() {
            let persistence = service.persistence.map_or(0, u32::from);
            let about = format!("{} {} {persistence}", service.key, service.scheduler);
            for state in socket.destinations(&service.key).unwrap() {
                let to = state.destination;
                lines.push(format!(
                    "{} -> {}:{} {}",
                    service.key, to.ip, to.port, to.weight
                ));
            }
            lines.push(about);
        }
        let device = index_of(DEVICE).unwrap();
        let addresses = device.map(|device| Handle::open().unwrap().addresses(Some(device)));
        let addresses = addresses.into_iter().flat_map(Result::unwrap);
        for address in addresses.filter(|one| one.scope != Scope::Link) {
            lines.push(address.address.to_string());
        }
        lines.sort();
        lines
    };
    bed.node.netns.run(list).unwrap()
}

/// Somebody else's doing.
pub(crate) fn apply(bed: &Bed, commands: &[Command]) {
    let refused = bed
        .node
        .netns
        .run(|| IpvsSocket::open().unwrap().apply(commands).unwrap());
    assert_eq!(refused.unwrap(), []);
}

pub(crate) const fn tcp(ip: IpAddr, port: u16) -> ServiceKey {
    ServiceKey {
        ip,
        protocol: 6,
        port,
    }
}

/// Removes all of it, as `--cleanup` does.
pub(crate) fn cleanup(bed: &Bed, options: &Options) {
    bed.node
        .netns
        .run(|| IpvsBackend::cleanup(options))
        .unwrap()
        .unwrap();
}
