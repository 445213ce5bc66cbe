//! What depends on the endpoints of this node: health-check node ports, and the metric of Services
//! whose policy Local finds none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_model::{Family, FrontendKind, Model, ServiceName, Treatment};
use tokio::sync::watch;

use crate::health::CheckPorts;
use crate::metrics::{Metrics, by_policy};

/// Kept up to date by looking at the Services of each pass only.
#[derive(Debug)]
pub(super) struct Local {
    check_ports: watch::Sender<CheckPorts>,
    /// Ports without a local endpoint where their policy wants one: internal, external.
    without: BTreeMap<(ServiceName, Family), (usize, usize)>,
}

impl Local {
    pub(super) fn new(check_ports: watch::Sender<CheckPorts>) -> Self {
        Self {
            check_ports,
            without: BTreeMap::new(),
        }
    }

    /// Where health checks are listened for.
    pub(super) fn listen(&self, addresses: BTreeSet<IpAddr>) {
        self.check_ports.send_if_modified(|wanted| {
            let changed = wanted.addresses != addresses;
            wanted.addresses = addresses;
            changed
        });
    }

    /// `services` changed; `families` are served.
    pub(super) fn update(
        &mut self,
        model: &Model,
        services: &BTreeSet<ServiceName>,
        families: &[Family],
        metrics: &Metrics,
    ) {
        let mut counted = false;
        self.check_ports.send_if_modified(|wanted| {
            let mut changed = false;
            for service in services {
                for family in families {
                    let key = (service.clone(), *family);
                    counted |= self.without.remove(&key).is_some();
                    let check = model.health_check(service, *family);
                    let known = wanted.checks.get(&key);
                    if known == check.as_ref() {
                        continue;
                    }
                    changed = true;
                    match check {
                        Some(check) => wanted.checks.insert(key, check),
                        None => wanted.checks.remove(&key),
                    };
                }
            }
            changed
        });
        for service in services.iter().filter(|name| model.has_local_policy(name)) {
            for family in families {
                let without = ports_without_local_endpoints(model, service, *family);
                if without != (0, 0) {
                    self.without.insert((service.clone(), *family), without);
                    counted = true;
                }
            }
        }
        if counted {
            self.count(families, metrics);
        }
    }

    fn count(&self, families: &[Family], metrics: &Metrics) {
        for family in families {
            let of_family = self.without.iter().filter(|((_, f), _)| f == family);
            let (internal, external) = of_family.fold((0, 0), |sum, (_, (internal, external))| {
                (sum.0 + internal, sum.1 + external)
            });
            for (policy, count) in [("internal", internal), ("external", external)] {
                let gauge = metrics
                    .no_local_endpoints
                    .get_or_create(&by_policy(*family, policy));
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }
}

/// How many ports have usable endpoints, but none here, where policy Local asks for one: of the
/// internal policy, of the external one.
fn ports_without_local_endpoints(
    model: &Model,
    service: &ServiceName,
    family: Family,
) -> (usize, usize) {
    let mut without = (0, 0);
    for port in model.ports(service, family) {
        let has = |found: fn(&FrontendKind, &Treatment) -> bool| {
            port.frontends
                .iter()
                .any(|frontend| found(&frontend.kind, &frontend.treatment))
        };
        let internal = has(|kind, treatment| {
            matches!(
                (kind, treatment),
                (FrontendKind::ClusterIp, Treatment::Drop)
            )
        });
        let external = has(
            |_, treatment| matches!(treatment, Treatment::LocalOnly { local, .. } if local.is_empty()),
        );
        without.0 += usize::from(internal);
        without.1 += usize::from(external);
    }
    without
}
