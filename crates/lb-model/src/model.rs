//! The model: its one writing door, what changed since last asked, and the decisions.

mod claims;
mod decide;
mod disputes;
mod door;
mod explain;
mod flows;
mod health;
mod node;
mod service;
mod service_cidrs;
mod slice;
mod tracker;

pub use health::HealthCheck;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::frontend::{Family, LocalDetector, ServiceName};
use crate::said::{self, Event};
use claims::Claims;
use door::{Door, is_name};
use node::Node;
use service::Service;
use service_cidrs::ServiceCidrs;
use slice::Slice;
use tracker::{Exchanged, Trackers};

/// Trigger times kept until somebody takes the changes; the metric can do without the rest.
const MAX_TRIGGER_TIMES: usize = 10_000;
/// The longest trigger time, in bytes; RFC 3339 with nanoseconds and an offset has 35.
const MAX_TRIGGER_TIME: usize = 40;

/// `detectLocalMode` and what it needs, as configured.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DetectLocal {
    /// Nothing configured: no-op.
    #[default]
    None,
    /// `ClusterCIDR`: one per family at most.
    ClusterCidr(Vec<IpNetwork>),
    /// `NodeCIDR`: the own Node's `spec.podCIDRs`.
    NodeCidr,
    /// `BridgeInterface`.
    Bridge(String),
    /// `InterfaceNamePrefix`.
    Prefix(String),
}

/// What the model must know besides the API's objects.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ModelConfig {
    /// Name of the own Node: endpoints on it are local.
    pub node_name: String,
    /// How a source is recognised as a pod's.
    pub detect_local: DetectLocal,
    /// Masquerade all traffic to ClusterIPs (`masqueradeAll`).
    pub masquerade_all: bool,
}

/// A field that could not be used. The rest of its object still counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Kind and name of the object, as `Service default/redis`.
    pub object: String,
    /// Path of the field, as `spec.externalIPs[1]`.
    pub field: String,
    /// The value found.
    pub value: String,
    /// What would have been accepted.
    pub accepted: &'static str,
}

/// What changed since the last [`Model::take_changes`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Changes {
    /// Services whose frontends may differ now, the removed ones included.
    pub services: BTreeSet<ServiceName>,
    /// Families and trigger times (RFC 3339) of the EndpointSlices behind the changes, for the
    /// latency metric.
    pub trigger_times: Vec<(Family, String)>,
    /// Service events since then, for the metrics.
    pub service_events: u64,
    /// EndpointSlice events since then.
    pub slice_events: u64,
    /// The local detector may differ now (the own Node's podCIDRs changed).
    pub detector: bool,
}

/// All Services, their endpoints and the own Node.
///
/// Input is bounded as the API's own validation bounds it: 20,000 ports of a Service or slice,
/// 1,000 endpoints of a slice, 1,000 external IPs, load-balancer IPs and source ranges of a
/// Service each, 8 zones or nodes that an endpoint is hinted for. What is beyond is left out and
/// complained about.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    node: Option<Node>,
    trackers: Trackers,
    claims: Claims,
    /// Whose claims may stand otherwise than when that was last asked.
    disputed: BTreeSet<ServiceName>,
    services: Listing,
    slices: Listing,
    service_cidrs: ServiceCidrs,
    trigger_times: Vec<(ServiceName, Family, String)>,
    detector_changed: bool,
}

/// The lists of one kind of object.
#[derive(Debug, Default)]
struct Listing {
    /// Counts the lists: an object that the last one did not name is gone when it ends.
    number: u32,
    listing: bool,
    /// One was in whole.
    ready: bool,
    /// Events since the last look.
    events: u64,
}

impl Listing {
    fn begin(&mut self) {
        self.number = self.number.wrapping_add(1);
        self.listing = true;
    }

    /// The list that ended; `None` when none had begun.
    fn end(&mut self) -> Option<u32> {
        self.ready |= self.listing;
        std::mem::take(&mut self.listing).then_some(self.number)
    }
}

impl Model {
    /// An empty model.
    pub fn new(config: ModelConfig) -> Self {
        Self {
            config,
            node: None,
            trackers: Trackers::default(),
            claims: Claims::new(),
            disputed: BTreeSet::new(),
            services: Listing::default(),
            slices: Listing::default(),
            service_cidrs: ServiceCidrs::default(),
            trigger_times: Vec::new(),
            detector_changed: false,
        }
    }

    /// Takes one event in. What cannot be used is left out and complained about, field by field;
    /// what several Services claim is told by [`Model::take_disputes`].
    pub fn apply(&mut self, event: Event) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        match event {
            Event::ServiceListBegins => self.services.begin(),
            Event::Service(said) => self.put_service(&said, &mut complaints),
            Event::ServiceGone { namespace, name } => {
                self.set_service(&ServiceName::new(&namespace, &name), None);
            }
            Event::ServiceListEnds => self.end_service_list(),
            Event::SliceListBegins => self.slices.begin(),
            Event::Slice(said) => self.put_slice(&said, &mut complaints),
            Event::SliceGone { namespace, name } => {
                self.slices.events += 1;
                self.trackers
                    .set_slice(&format!("{namespace}/{name}"), None, self.slices.number);
            }
            Event::SliceListEnds => self.end_slice_list(),
            Event::Node(said) => self.put_node(&said, &mut complaints),
            Event::NodeGone => self.set_node(None),
            Event::ServiceCidrListBegins => self.service_cidrs.list_begins(),
            Event::ServiceCidr(said) => self.service_cidrs.put(&said, &mut complaints),
            Event::ServiceCidrGone { name } => self.service_cidrs.remove(&name),
            Event::ServiceCidrListEnds => self.service_cidrs.list_ends(),
        }
        complaints
    }

    fn put_service(&mut self, said: &said::Service, complaints: &mut Vec<Complaint>) {
        let mut door = Door::new("Service", &said.namespace, &said.name, complaints);
        if !door.named() {
            return;
        }
        let service = Service::read(said, &mut door);
        drop(door);
        self.set_service(&ServiceName::new(&said.namespace, &said.name), service);
    }

    fn set_service(&mut self, name: &ServiceName, service: Option<Service>) {
        self.services.events += 1;
        let list = self.services.number;
        let Some(Exchanged { before, now }) = self.trackers.set_service(name, service, list) else {
            return;
        };
        let touched = |other: &ServiceName| self.trackers.touch(other);
        let disputed = |service: &ServiceName| {
            self.disputed.insert(service.clone());
        };
        let (before, now) = (before.as_deref(), now.as_deref());
        self.claims.exchange(name, before, now, touched, disputed);
    }

    fn end_service_list(&mut self) {
        let Some(list) = self.services.end() else {
            return;
        };
        for name in self.trackers.services_not_in(list) {
            self.set_service(&name, None);
        }
    }

    fn put_slice(&mut self, said: &said::EndpointSlice, complaints: &mut Vec<Complaint>) {
        self.slices.events += 1;
        let mut door = Door::new("EndpointSlice", &said.namespace, &said.name, complaints);
        if !door.named() {
            return;
        }
        let name = format!("{}/{}", said.namespace, said.name);
        let list = self.slices.number;
        let ours = !said.headless_label && !said.service.is_empty();
        if ours && !is_name(&said.service) {
            let field = "metadata.labels[kubernetes.io/service-name]";
            door.complain(field, &said.service, "the name of a Service");
        } else if ours {
            let service = ServiceName::new(&said.namespace, &said.service);
            let node = &self.config.node_name;
            let slice = Slice::read(name.as_str().into(), said, node, &mut door);
            let family = slice.as_ref().map(|slice| slice.family);
            let slice = slice.map(|slice| (&service, slice));
            if self.trackers.set_slice(&name, slice, list)
                && let Some(family) = family
            {
                self.note_trigger_time((service, family), said, &mut door);
            }
            return;
        }
        self.trackers.set_slice(&name, None, list);
    }

    fn end_slice_list(&mut self) {
        let Some(list) = self.slices.end() else {
            return;
        };
        for name in self.trackers.slices_not_in(list) {
            self.slices.events += 1;
            self.trackers.set_slice(&name, None, list);
        }
    }

    fn put_node(&mut self, said: &said::Node, complaints: &mut Vec<Complaint>) {
        let mut door = Door::new("Node", "", &said.name, complaints);
        if said.name == self.config.node_name {
            let node = Node::read(said, &mut door);
            self.set_node(Some(node));
        } else {
            door.complain("metadata.name", &said.name, "the name of this node");
        }
    }

    fn set_node(&mut self, node: Option<Node>) {
        let before = Family::ALL.map(|family| self.local_detector(family));
        let facts = |node: Option<&Node>| {
            let addresses = Family::ALL.map(|family| node.and_then(|node| node.address(family)));
            (
                node.map(|node| node.zone.clone()).unwrap_or_default(),
                addresses,
            )
        };
        let (old_zone, old_addresses) = facts(self.node.as_ref());
        let (zone, addresses) = facts(node.as_ref());
        self.node = node;
        self.detector_changed |= before != Family::ALL.map(|family| self.local_detector(family));
        let (moved, readdressed) = (zone != old_zone, addresses != old_addresses);
        if moved || readdressed {
            self.trackers.touch_where(|service, depends| {
                moved && depends.zone_hints || readdressed && service.has_source_ranges()
            });
        }
    }

    /// Whether the first full lists of Services and EndpointSlices are in.
    pub fn ready(&self) -> bool {
        self.services.ready && self.slices.ready
    }

    /// Hands over what changed and forgets it.
    pub fn take_changes(&mut self) -> Changes {
        let services = self.trackers.take_changed();
        let times = std::mem::take(&mut self.trigger_times).into_iter();
        let trigger_times = times.filter(|(service, ..)| services.contains(service));
        Changes {
            trigger_times: trigger_times
                .map(|(_, family, time)| (family, time))
                .collect(),
            services,
            service_events: std::mem::take(&mut self.services.events),
            slice_events: std::mem::take(&mut self.slices.events),
            detector: std::mem::take(&mut self.detector_changed),
        }
    }

    fn note_trigger_time(
        &mut self,
        (service, family): (ServiceName, Family),
        said: &said::EndpointSlice,
        door: &mut Door<'_>,
    ) {
        match &said.trigger_time {
            Some(time) if time.len() > MAX_TRIGGER_TIME => {
                let field =
                    "metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]";
                door.complain(field, time, "a time as RFC 3339 describes it");
            }
            Some(time) if self.trigger_times.len() < MAX_TRIGGER_TIMES => {
                self.trigger_times.push((service, family, time.clone()));
            }
            _ => {}
        }
    }

    /// How many Services are known, with or without EndpointSlices, and how many EndpointSlices.
    pub fn sizes(&self) -> (usize, usize) {
        self.trackers.sizes()
    }

    /// Bytes that Services and EndpointSlices take here, without what the allocator and the maps'
    /// nodes add. Costs nothing to ask.
    pub fn bytes(&self) -> usize {
        self.trackers.bytes()
    }

    /// Every Service that this proxy serves, by name.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.trackers.services().map(|(name, ..)| name)
    }

    /// Whether `ip` is the ClusterIP of a Service: what aims at an undefined port there is rejected.
    pub fn is_live_cluster_ip(&self, ip: IpAddr) -> bool {
        self.claims.has_cluster_ip(ip)
    }

    /// The ranges from which ClusterIPs of `family` are taken, sorted, none inside another: what aims
    /// at an address in them that nobody has is dropped.
    pub fn service_cidrs(&self, family: Family) -> Vec<IpNetwork> {
        self.service_cidrs.of(family)
    }

    /// The local detector for `family`, resolved: the first network of that family counts.
    pub fn local_detector(&self, family: Family) -> LocalDetector {
        let first = |cidrs: &[IpNetwork]| {
            let found = cidrs.iter().find(|cidr| Family::of(cidr.ip()) == family);
            found.map_or(LocalDetector::None, |cidr| LocalDetector::Cidr(*cidr))
        };
        match &self.config.detect_local {
            DetectLocal::None => LocalDetector::None,
            DetectLocal::ClusterCidr(cidrs) => first(cidrs),
            DetectLocal::NodeCidr => first(self.node.as_ref().map_or(&[], |node| &node.pod_cidrs)),
            DetectLocal::Bridge(name) => LocalDetector::Interface(name.clone()),
            DetectLocal::Prefix(prefix) => LocalDetector::InterfacePrefix(prefix.clone()),
        }
    }
}
