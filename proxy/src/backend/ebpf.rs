//! The eBPF data plane: what a socket of this node aims at is translated once, as it connects.
//! Packets that come to a frontend all the same, from outside or from virtual machines, are
//! translated at the interface that they come in by. What neither can do is left to the nftables
//! data plane, which is there only while there is such a Service.
//!
//! The programs and their maps outlive the daemon by their pins: a restart finds what is there,
//! and the new programs take over before the old ones go.

mod attachment;
mod clients;
mod clsact;
mod connected;
mod counts;
mod dump;
mod entries;
mod error;
mod features;
mod frames;
mod handover;
mod held;
mod interfaces;
mod load;
mod local_ports;
mod monitor;
mod names;
mod namespaces;
mod options;
mod packets;
mod pass;
mod peers;
mod pinned;
mod pins;
mod prefilter;
mod presence;
mod pressure;
mod probe;
mod remainder;
mod rules;
mod services;
mod settled;
mod sizes;
mod sockets;
mod sources;
mod straight;
mod sweep;
mod table;
mod tracked;
mod traffic;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use lb_model::{Family, LocalDetector, Model, Protocol, ServiceName, ServicePort};
use lb_plan::bpf::{Applied, Node, Operation, Step, Unserved, is_taken, needs_hooks, wanted};

use super::conntrack::{Serving, UNDER_WAY};
use super::plane::{DataPlane, PlaneSettings};
use super::{BackendError, PassReport};
use attachment::Attachments;
use entries::ip;
use packets::Packets;
use pass::{Pass, Sorted};
use remainder::Remainder;
use services::Services;
use sockets::Sockets;

pub use clients::{Client, Clients, RememberedClient};
pub use counts::{Counted, Counts};
pub use dump::Dump;
pub use error::Error;
pub use features::{Lacking, lacking};
pub use handover::Handover;
pub use held::{HeldSocket, HeldSockets};
pub use monitor::{Happening, Monitor};
pub use names::ServicePortName;
pub use options::{
    DEFAULT_BACKENDS, DEFAULT_FRONTENDS, DEFAULT_SNAT_PORTS, DEFAULT_TRACKS, Frames, Options,
    PacketsHook,
};
pub use pins::{DEFAULT_PINS, map_pin};
pub use pressure::MapFill;
pub use sockets::OBJECT;
pub use tracked::{State, Tracked, TrackedConnection};
pub use traffic::{TrafficDump, TrafficRow};

/// Sockets and packets by eBPF, the rest by nftables.
#[derive(Debug)]
pub struct EbpfBackend {
    remainder: Remainder,
    sockets: Sockets,
    packets: Packets,
    services: Services,
    applied: Applied,
    unserved: Unserved,
    node: Node,
    settings: BTreeMap<Family, PlaneSettings>,
    /// A whole pass is due: the first one, or something changed that all entries depend on.
    full: bool,
    attached: bool,
    /// The programs could not be put where they belong.
    homeless: bool,
    /// When the UDP flows are to be looked at once more: a packet that was under way while an endpoint
    /// left may have begun one after the first look.
    flows_due: Option<Instant>,
    /// [`Options::end_tcp`].
    end_tcp: bool,
    /// [`Options::external_cluster_ips`].
    external_cluster_ips: bool,
    /// [`Options::direct`].
    direct: bool,
}

impl EbpfBackend {
    /// Loads the programs and finds what an earlier daemon left; attaches nothing yet.
    ///
    /// # Errors
    /// The kernel can't do it, or may not be asked to.
    pub fn open(options: &Options, settings: Vec<PlaneSettings>) -> Result<Self, BackendError> {
        Self::open_object(OBJECT, options, settings)
    }

    /// As [`EbpfBackend::open`], with the programs of another object.
    ///
    /// # Errors
    /// As there.
    pub fn open_object(
        object: &[u8],
        options: &Options,
        settings: Vec<PlaneSettings>,
    ) -> Result<Self, BackendError> {
        let began = Instant::now();
        local_ports::compare(&options.snat_ports);
        let (sockets, packets, services) = Sockets::open(object, options).map_err(refused)?;
        sockets.counts().set_loading(began.elapsed());
        let left = settings.iter().cloned().map(Into::into).collect();
        let mut applied = sockets.adopt().map_err(refused)?;
        applied.spread_by(options.maglev);
        Ok(Self {
            remainder: Remainder::open(left)?,
            applied,
            unserved: Unserved::adopt(packets.unserved().map_err(refused)?),
            sockets,
            packets,
            services,
            node: Node::default(),
            settings: settings.into_iter().map(|one| (one.family, one)).collect(),
            full: true,
            attached: false,
            homeless: false,
            flows_due: None,
            end_tcp: options.end_tcp,
            external_cluster_ips: options.external_cluster_ips,
            direct: options.direct && options.maglev.is_some(),
        })
    }

    /// Removes programs and maps. The tables of the remainder are the nftables data plane's.
    ///
    /// # Errors
    /// Something is left.
    pub fn cleanup(options: &Options) -> Result<(), BackendError> {
        let filters = Attachments::remove(&options.pins);
        pins::remove(&options.pins).and(filters).map_err(refused)
    }

    /// Looks where the node is now, on which all entries depend.
    fn look(&mut self) -> Result<(), Error> {
        let detectors = self.settings.values();
        let detectors = detectors.map(|one| (one.family, one.detector.clone()));
        self.packets.look(detectors.collect())?;
        let cidrs = self.settings.values();
        let cidrs = cidrs.flat_map(|one| one.service_cidrs.iter().copied());
        self.unserved.set_cidrs(cidrs.collect());
        self.consider();
        Ok(())
    }

    /// What all entries depend on; if it is something else than before, all are looked at.
    fn consider(&mut self) {
        let settings = self.settings.values();
        let own = settings.flat_map(|one| one.node_port_addresses.iter().copied());
        let here = self.settings.values();
        let here = here.filter(|one| one.localhost_node_ports);
        let loopback = here.map(|one| match one.family {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        });
        let detects = self.settings.values();
        let detects = detects.filter(|one| one.detector != LocalDetector::None);
        let node = Node {
            own: own.collect(),
            loopback: loopback.collect(),
            here: self.packets.here(),
            detects: detects.map(|one| one.family).collect(),
            packets: !self.homeless,
            connected_udp: self.sockets.rules.takes_udp_connect(),
            external_cluster_ips: self.external_cluster_ips,
            direct: self.direct,
        };
        self.full |= node != self.node;
        self.node = node;
    }

    /// Has in the maps what is for them, before anybody is told to look there.
    fn fill(&mut self, model: &Model, services: &BTreeSet<ServiceName>, pass: &mut Pass) -> Sorted {
        pass.full |= self.full;
        let sorted = self.sorted(model, services);
        let named = self.services.name();
        pass.count(named);
        self.write(model, &sorted.taken, pass);
        sorted
    }

    /// Puts the programs where they belong; whether that is another place than before for those on
    /// packets, so that other Services are nftables'.
    fn attach(&mut self, pass: &mut Pass) -> bool {
        let attached = self.try_attach();
        let homeless = attached.is_err();
        pass.note(attached);
        let changed = homeless != self.homeless;
        self.homeless = homeless;
        changed
    }

    fn try_attach(&mut self) -> Result<(), Error> {
        let began = Instant::now();
        self.packets.attach()?;
        if !self.attached {
            self.sockets.attach()?;
            self.sockets.counts().set_attaching(began.elapsed());
            self.attached = true;
        }
        Ok(())
    }

    /// nftables takes what is left to it, and leaves what the maps have; then they leave the rest.
    fn hand_over(&mut self, model: &Model, sorted: &Sorted, pass: &mut Pass) -> PassReport {
        for service in pass.failed.keys() {
            self.remainder.set(service, true);
        }
        let all = sorted.taken.union(&sorted.left).cloned().collect();
        let report = self.remainder.sync(model, &all);
        self.write(model, &sorted.left, pass);
        let failed: Vec<ServiceName> = pass.failed.keys().cloned().collect();
        for service in &failed {
            self.evacuate(service, pass);
        }
        report
    }

    /// Takes out of the maps what is there of a Service of which not all could be written, since there
    /// is no room, say: nftables has it now, until it is tried again.
    fn evacuate(&mut self, service: &ServiceName, pass: &mut Pass) {
        let step = self.applied.plan(service, Vec::new());
        pass.operations += step.operations.len();
        if let Err(error) = self.apply(step) {
            pass.note(Err(error));
            pass.stuck = true;
        }
        self.unserved.leave(service);
    }

    /// Of all families.
    fn ports(&self, model: &Model, service: &ServiceName) -> Vec<ServicePort> {
        let families = self.settings.keys();
        let ports = families.flat_map(|family| model.ports(service, *family));
        ports.collect()
    }

    /// Brings the maps to what is wanted of these Services.
    fn write(&mut self, model: &Model, services: &BTreeSet<ServiceName>, pass: &mut Pass) {
        for service in services {
            let ports = self.ports(model, service);
            let udp = |port: &ServicePort| port.protocol == Protocol::Udp;
            pass.udp |= ports.is_empty() || ports.iter().any(udp);
            let frontends = ports.iter().flat_map(|port| &port.frontends);
            self.unserved.set(service, frontends);
            let (node, numbers) = (&self.node, &self.services);
            let wishes = ports.iter().flat_map(|port| {
                let number = numbers.number(service, port);
                let frontends = port.frontends.iter();
                frontends.flat_map(move |one| wanted(one, node, number))
            });
            let step = self.applied.plan(service, wishes.collect());
            pass.operations += step.operations.len();
            if let Err(error) = self.apply(step) {
                pass.failed.insert(service.clone(), refused(error));
            }
        }
    }

    /// Takes away what no Service has, once all have what they should.
    fn clear(&mut self, pass: &mut Pass) -> Result<(), Error> {
        let changes = self.unserved.changes();
        self.packets.set_unserved(&changes)?;
        self.unserved.commit();
        pass.operations += changes.len();
        if self.full && !pass.stuck {
            let step = self.applied.sweep();
            pass.operations += step.operations.len();
            // What could not be swept is swept with the next pass.
            self.apply(step)?;
            self.full = false;
            self.services.sweep()?;
        }
        if !pass.stuck {
            pass.operations += self.services.forget()?;
        }
        if self.packets.bits.is_due() {
            let (frontends, networks) = (self.applied.keys(), self.unserved.networks());
            self.packets.bits.settle(frontends, networks)?;
        }
        Ok(())
    }

    fn apply(&mut self, step: Step) -> Result<(), Error> {
        for operation in &step.operations {
            let bits = &mut self.packets.bits;
            let applied = match operation {
                Operation::SetFrontend(key, _) => bits.frontend(key),
                Operation::DeleteFrontend(_) => {
                    bits.forget();
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(error) = applied.and_then(|()| self.sockets.apply(operation)) {
                self.applied.fail(step);
                return Err(error);
            }
        }
        self.applied.commit(step);
        Ok(())
    }

    /// The Services to be looked at, those first whom nftables shall not have: they leave it when
    /// the maps have them, and the others leave the maps when it has them.
    fn sorted(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> Sorted {
        let mut all = services.clone();
        if self.full {
            all.extend(model.services().cloned());
            self.remainder.clear();
            self.packets.clear_reachable();
        }
        for service in &all {
            let ports = self.ports(model, service);
            let frontends = || ports.iter().flat_map(|port| &port.frontends);
            let left = frontends().any(|one| !is_taken(one, &self.node));
            self.remainder.set(service, left);
            let reachable = frontends().any(|one| needs_hooks(one, &self.node));
            self.packets.set_reachable(service, reachable);
            self.services.set(service, &ports);
        }
        let (left, taken) = all
            .into_iter()
            .partition(|service| self.remainder.has(service));
        Sorted { taken, left }
    }

    /// The addresses at which a node port is served, for the node itself.
    fn served(&self) -> BTreeSet<IpAddr> {
        self.node.own.union(&self.node.loopback).copied().collect()
    }

    /// The sockets that are connected to whom doesn't serve any more; and those of TCP, where that
    /// is asked for, to whom isn't an endpoint any more.
    fn end_sockets(&mut self, model: &Model) -> Result<(), Error> {
        let served = self.served();
        let mut serving = Serving::new(model, &served);
        let connections = &mut self.sockets.connections;
        connections.end(Protocol::Udp, |socket| {
            let to = &socket.frontend;
            let serving = serving.at(Protocol::Udp, ip(to.address), to.port);
            let backend = ip(socket.backend.address);
            serving.is_some_and(|(_, serving)| serving.binary_search(&backend).is_ok())
        })?;
        if !self.end_tcp {
            return Ok(());
        }
        let mut listed = BTreeMap::new();
        connections.end(Protocol::Tcp, |socket| {
            let to = &socket.frontend;
            // Without a frontend nobody knows whether there is an endpoint.
            let Some((frontend, _)) = serving.at(Protocol::Tcp, ip(to.address), to.port) else {
                return true;
            };
            let listed = listed.entry(frontend);
            let listed = listed.or_insert_with(|| model.listed(&frontend).unwrap_or_default());
            listed.contains(&ip(socket.backend.address))
        })
    }

    /// The UDP flows to whom doesn't serve any more.
    fn end_flows(&mut self, model: &Model) -> Result<(), Error> {
        let own = self.node.own.clone();
        let mut serving = Serving::new(model, &own);
        self.packets.tracks.reconcile(&mut serving)
    }

    /// Ends who talks to an endpoint that left, as far as that is ours to do.
    fn end_stale(&mut self, model: &Model, pass: &mut Pass) {
        let now = Instant::now();
        if pass.udp || self.flows_due.is_some_and(|due| due <= now) {
            let ended = self.end_flows(model);
            self.flows_due = match ended {
                Ok(()) => pass.udp.then(|| now + UNDER_WAY),
                Err(_) => Some(now + UNDER_WAY),
            };
            pass.note(ended);
        }
        if pass.udp || self.end_tcp || self.sockets.connections.is_due() {
            let ended = self.end_sockets(model);
            pass.note(ended);
        }
    }

    /// Says when clients of some frontends are not spread as all should be, and when they are again.
    fn tell_spread(&self) {
        let (with, without) = self.applied.spread();
        let before = self.sockets.counts().set_spread((with, without));
        match (before, without) {
            (0, 1..) => tracing::warn!(
                with,
                without,
                "more frontends than --ebpf-maglev-tables, or than there is room for: clients of \
                 those without a table get any endpoint"
            ),
            (1.., 0) => tracing::info!(with, "every frontend has its Maglev table again"),
            _ => {}
        }
    }

    /// Has the node ports' guard know where they are, once all are known.
    fn guard(&mut self) -> Result<(), Error> {
        if self.full {
            return Ok(());
        }
        let served = self.served();
        self.sockets.rules.guard(&served)
    }
}

impl DataPlane for EbpfBackend {
    /// The maps are filled before programs are attached, and nftables is asked to leave when they
    /// are: a Service is always with one of them.
    fn sync(&mut self, model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        let mut pass = Pass::new();
        let looked = self.look();
        pass.note(looked);
        let mut sorted = self.fill(model, services, &mut pass);
        if self.attach(&mut pass) {
            self.consider();
            sorted = self.fill(model, services, &mut pass);
        }
        let mut report = self.hand_over(model, &sorted, &mut pass);
        let cleared = self.clear(&mut pass);
        pass.note(cleared);
        self.end_stale(model, &mut pass);
        self.tell_spread();
        let guarded = self.guard();
        pass.note(guarded);
        pass.tell(&mut report);
        report.look_again = self.flows_due;
        report
    }

    fn set_settings(&mut self, settings: PlaneSettings) {
        self.remainder.set_settings(settings.clone().into());
        self.settings.insert(settings.family, settings);
    }

    fn check(&mut self) -> Result<bool, BackendError> {
        let intact = self.sockets.is_intact();
        if !intact {
            self.attached = false;
        }
        self.look().map_err(refused)?;
        let whole = self.packets.is_whole().map_err(refused)?;
        Ok(self.remainder.check()?
            || !intact
            || !whole
            || self.full
            || self.sockets.connections.is_due())
    }

    fn ebpf_counts(&self) -> Option<Counts> {
        Some(self.sockets.counts().clone())
    }
}

fn refused(error: Error) -> BackendError {
    BackendError::Ebpf(Arc::new(error))
}
