//! The model: its one writing door, what changed since last asked, and the decisions.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::frontend::{Family, Frontend, LocalDetector, ServiceName};
use crate::said::Event;

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
    /// Trigger times (RFC 3339) of the EndpointSlices behind the changes, for the latency metric.
    pub trigger_times: Vec<String>,
    /// Service and EndpointSlice events counted in, for the metrics.
    pub service_events: u64,
    /// EndpointSlice events counted in.
    pub slice_events: u64,
    /// The local detector may differ now (the own Node's podCIDRs changed).
    pub detector: bool,
}

/// All Services, their endpoints and the own Node.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
}

impl Model {
    /// An empty model.
    pub fn new(config: ModelConfig) -> Self {
        Self { config }
    }

    /// Takes one event in. What cannot be used is left out and complained about, field by field.
    pub fn apply(&mut self, _event: Event) -> Vec<Complaint> {
        Vec::new()
    }

    /// Whether the first full lists of Services and EndpointSlices are in.
    pub fn ready(&self) -> bool {
        false
    }

    /// Hands over what changed and forgets it.
    pub fn take_changes(&mut self) -> Changes {
        Changes::default()
    }

    /// Every Service that has or had a frontend since the start, by name.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        std::iter::empty()
    }

    /// What the frontends of `service` in `family` do now, sorted by address; empty when it is
    /// gone. A frontend that another Service claimed first is left out.
    pub fn frontends(&self, _service: &ServiceName, _family: Family) -> Vec<Frontend> {
        Vec::new()
    }

    /// The local detector for `family`, resolved.
    pub fn local_detector(&self, _family: Family) -> LocalDetector {
        let _ = &self.config;
        LocalDetector::None
    }
}
