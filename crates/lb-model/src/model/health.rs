//! What a load balancer may ask this node: has it endpoints of a Service?

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use crate::frontend::{Family, ServiceName};
use crate::model::Model;

/// One Service's health check on this node (`spec.healthCheckNodePort`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ServiceName,
    /// The port that answers.
    pub port: NonZeroU16,
    /// Ready endpoints on this node, each address counted once. Terminating ones do not count:
    /// they still get traffic, but a balancer must stop sending more.
    pub local_endpoints: usize,
}

impl Model {
    /// The health check of `service` that this node must answer in `family`, if any: of those of
    /// type LoadBalancer with `externalTrafficPolicy: Local`.
    pub fn health_check(&self, service: &ServiceName, family: Family) -> Option<HealthCheck> {
        let port = self.health_check_port(service, family)?;
        let known = self.trackers.known(service)?;
        let spec = known.service.as_deref()?;
        let mut ready = BTreeSet::new();
        for slice in known.slices(family) {
            if spec
                .ports
                .iter()
                .any(|port| slice.has_port(&port.name, port.protocol))
            {
                ready.extend(slice.local_ready());
            }
        }
        Some(HealthCheck {
            service: service.clone(),
            port,
            local_endpoints: ready.len(),
        })
    }

    /// Whether one of the two traffic policies of `service` is Local.
    pub fn has_local_policy(&self, service: &ServiceName) -> bool {
        let known = self.trackers.known(service);
        let spec = known.and_then(|known| known.service.as_deref());
        spec.is_some_and(|spec| spec.internal_local || spec.external_local)
    }

    /// The port of the health check of `service` that this node must answer in `family`, if any.
    pub fn health_check_port(&self, service: &ServiceName, family: Family) -> Option<NonZeroU16> {
        let service = self.trackers.known(service)?.service.as_deref()?;
        service.cluster_ip(family)?;
        NonZeroU16::new(service.health_check_port)
    }

    /// Whether a balancer may count on this node: it is there, is not being deleted, and the
    /// autoscaler is not about to remove it (KEP-3836).
    pub fn node_is_eligible(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.staying)
    }
}
