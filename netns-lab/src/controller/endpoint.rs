//! What one pod adds to a Service.

use super::kinds::{Conditions, Endpoint, Hint, Hints, Pod, Service, SlicePort, TargetRef};

/// A pod as an endpoint: in which slices, and saying what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// `IPv4` or `IPv6`.
    pub(super) family: String,
    pub(super) ports: Vec<SlicePort>,
    pub(super) endpoint: Endpoint,
}

/// The endpoints a selected pod makes: one for each family of the Service in which it has an
/// address; none once it has run to its end.
pub(super) fn place(service: &Service, pod: &Pod, zone: Option<&str>) -> Vec<Placed> {
    if matches!(&*pod.status.phase, "Succeeded" | "Failed") {
        return Vec::new();
    }
    let ports = ports(service, pod);
    let families = service.spec.ip_families.iter();
    families
        .filter_map(|family| {
            let address = address(pod, family == "IPv6")?;
            Some(Placed {
                family: family.clone(),
                ports: ports.clone(),
                endpoint: endpoint(service, pod, zone, address),
            })
        })
        .collect()
}

fn address(pod: &Pod, ipv6: bool) -> Option<String> {
    let listed = pod.status.pod_ips.iter().map(|address| &address.ip);
    listed
        .chain(&pod.status.pod_ip)
        .find(|address| !address.is_empty() && address.contains(':') == ipv6)
        .cloned()
}

fn endpoint(service: &Service, pod: &Pod, zone: Option<&str>, address: String) -> Endpoint {
    let serving = pod
        .status
        .conditions
        .iter()
        .any(|condition| condition.kind == "Ready" && condition.status == "True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let named = pod.spec.subdomain.as_deref() == Some(&*service.metadata.name)
        && pod.metadata.namespace == service.metadata.namespace;
    Endpoint {
        addresses: vec![address],
        conditions: Conditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: pod.spec.hostname.clone().filter(|_| named),
        node_name: pod.spec.node_name.clone(),
        zone: zone.map(str::to_owned),
        target_ref: Some(TargetRef {
            kind: "Pod".to_owned(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
        hints: if ready {
            hints(service, pod, zone)
        } else {
            None
        },
    }
}

/// `trafficDistribution`: an endpoint is for its own zone, or its own node (KEP-4444, KEP-3015).
fn hints(service: &Service, pod: &Pod, zone: Option<&str>) -> Option<Hints> {
    let hint = |name: &str| Hint {
        name: name.to_owned(),
    };
    let zones = zone.map(hint).into_iter().collect();
    let nodes = || {
        pod.spec
            .node_name
            .as_deref()
            .map(hint)
            .into_iter()
            .collect()
    };
    let hints = match service.spec.traffic_distribution.as_deref() {
        Some("PreferClose" | "PreferSameZone") => Hints {
            for_zones: zones,
            for_nodes: Vec::new(),
        },
        Some("PreferSameNode") => Hints {
            for_zones: zones,
            for_nodes: nodes(),
        },
        _ => return None,
    };
    Some(hints).filter(|hints| *hints != Hints::default())
}

/// The Service's ports as this pod has them; a named port the pod lacks is left out.
fn ports(service: &Service, pod: &Pod) -> Vec<SlicePort> {
    let mut ports: Vec<SlicePort> = service
        .spec
        .ports
        .iter()
        .filter_map(|port| {
            let number = match port.target_port.as_str() {
                Some(name) => named_port(pod, name, &port.protocol)?,
                None => port
                    .target_port
                    .as_u64()
                    .and_then(|number| u16::try_from(number).ok())
                    .filter(|number| *number != 0)
                    .unwrap_or(port.port),
            };
            Some(SlicePort {
                name: port.name.clone(),
                port: number,
                protocol: port.protocol.clone(),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<u16> {
    let ports = pod
        .spec
        .containers
        .iter()
        .flat_map(|container| &container.ports);
    let same = |said: &str| said == protocol || (said.is_empty() && protocol == "TCP");
    ports
        .filter(|port| port.name == name && same(&port.protocol))
        .map(|port| port.container_port)
        .next()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value) -> Service {
        let mut service = json!({"metadata": {"name": "web", "namespace": "shop"},
            "spec": {"ipFamilies": ["IPv4"], "selector": {"app": "web"},
                     "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]}});
        for (field, value) in spec.as_object().unwrap() {
            service["spec"][field] = value.clone();
        }
        serde_json::from_value(service).unwrap()
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
            "spec": {"nodeName": "worker-1", "hostname": "a", "subdomain": "web",
                     "containers": [{"ports": [{"name": "http", "containerPort": 8080},
                                               {"name": "http", "containerPort": 9090,
                                                "protocol": "UDP"}]}]},
            "status": {"phase": "Running", "podIP": "10.1.0.4",
                       "podIPs": [{"ip": "10.1.0.4"}, {"ip": "fd00::4"}],
                       "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_ready_pod_is_a_ready_endpoint_of_its_node_and_zone() {
        let placed = place(&service(&json!({})), &pod(), Some("z1"));
        assert_eq!(placed.len(), 1);
        assert_eq!(
            (&*placed[0].family, placed[0].ports[0].port),
            ("IPv4", 8080)
        );
        assert_eq!(
            serde_json::to_value(&placed[0].endpoint).unwrap(),
            json!({"addresses": ["10.1.0.4"], "hostname": "a", "nodeName": "worker-1", "zone": "z1",
                   "conditions": {"ready": true, "serving": true, "terminating": false},
                   "targetRef": {"kind": "Pod", "namespace": "shop", "name": "a", "uid": "u1"}})
        );
    }

    #[test]
    fn families_ports_and_the_end_of_a_pod() {
        let dual = service(&json!({"ipFamilies": ["IPv6", "IPv4"]}));
        let addresses: Vec<String> = place(&dual, &pod(), None)
            .into_iter()
            .flat_map(|placed| placed.endpoint.addresses)
            .collect();
        assert_eq!(addresses, ["fd00::4", "10.1.0.4"]);
        let ports = json!({"ports": [
            {"port": 80, "protocol": "TCP", "targetPort": "absent", "name": "x"},
            {"port": 81, "protocol": "UDP", "targetPort": "http", "name": "y"},
            {"port": 82, "protocol": "TCP", "targetPort": 82, "name": "z"},
        ]});
        let placed = place(&service(&ports), &pod(), None);
        let numbers: Vec<u16> = placed[0].ports.iter().map(|port| port.port).collect();
        assert_eq!(numbers, [9090, 82]);
        let mut ended = pod();
        ended.status.phase = "Succeeded".to_owned();
        assert!(place(&dual, &ended, None).is_empty());
        let mut unborn = pod();
        unborn.status = super::super::kinds::PodStatus::default();
        assert!(place(&dual, &unborn, None).is_empty());
    }

    #[test]
    fn conditions_of_pods_that_come_and_go() {
        let conditions = |service: &Service, pod: &Pod| {
            let conditions = place(service, pod, None)[0].endpoint.conditions;
            (
                conditions.ready.unwrap(),
                conditions.serving.unwrap(),
                conditions.terminating.unwrap(),
            )
        };
        let plain = service(&json!({}));
        let eager = service(&json!({"publishNotReadyAddresses": true}));
        let mut leaving = pod();
        leaving.metadata.deletion_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
        assert_eq!(conditions(&plain, &leaving), (false, true, true));
        assert_eq!(conditions(&eager, &leaving), (true, true, true));
        let mut starting = pod();
        starting.status.conditions.clear();
        assert_eq!(conditions(&plain, &starting), (false, false, false));
        assert_eq!(conditions(&eager, &starting), (true, false, false));
    }

    #[test]
    fn hints_follow_the_traffic_distribution() {
        let hints = |how: &str| {
            let service = service(&json!({"trafficDistribution": how}));
            place(&service, &pod(), Some("z1"))[0]
                .endpoint
                .hints
                .clone()
                .unwrap_or_default()
        };
        let names = |hints: &[Hint]| {
            hints
                .iter()
                .map(|hint| hint.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&hints("PreferClose").for_zones), ["z1"]);
        assert_eq!(names(&hints("PreferSameNode").for_nodes), ["worker-1"]);
        assert_eq!(hints("Other"), Hints::default());
    }
}
