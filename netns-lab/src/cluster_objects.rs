//! The objects every cluster begins with: its nodes, the API's own Service, the DNS's.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::apiserver::{Part, Refusal, Resource, Store};
use crate::topology::{API_PORT, DNS_SERVICE, Node, Role, Topology};

/// The ClusterIP of the API server: the first of the range.
pub(crate) const API_SERVICE: &str = "10.96.0.1";

/// Creates them; the API's own Service, which real API servers make themselves, only on demand.
pub(crate) fn create(
    store: &Store,
    topology: &Topology,
    with_api_service: bool,
) -> Result<(), Refusal> {
    for node in &topology.nodes {
        store.create(Resource::Node, node_object(node))?;
        store.modify(Resource::Node, "", &node.name, Part::Status, |object| {
            object["status"] = node_status(node);
            Ok(())
        })?;
    }
    let api = json!([{"name": "https", "port": 443, "targetPort": API_PORT, "protocol": "TCP"}]);
    let dns = json!([
        {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
    ]);
    let control = topology
        .nodes
        .iter()
        .find(|node| node.role == Role::ControlPlane);
    let services = [
        ("kube-system", "kube-dns", DNS_SERVICE.to_string(), dns),
        ("default", "kubernetes", API_SERVICE.to_owned(), api),
    ];
    let wanted = if with_api_service { 2 } else { 1 };
    for (namespace, name, cluster_ip, ports) in services.into_iter().take(wanted) {
        let service = service(namespace, name, &cluster_ip, &ports);
        store.create(Resource::Service, service)?;
        if let Some(node) = control {
            store.create(
                Resource::EndpointSlice,
                slice(namespace, name, &ports, node),
            )?;
        }
    }
    Ok(())
}

fn node_object(node: &Node) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": format!("zone-{}", node.name),
    });
    if node.role == Role::ControlPlane {
        labels["node-role.kubernetes.io/control-plane"] = "".into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {
            "podCIDR": node.pods_v4,
            "podCIDRs": [node.pods_v4.to_string(), node.pods_v6.to_string()],
        },
    })
}

fn node_status(node: &Node) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    json!({
        "addresses": [
            {"type": "InternalIP", "address": node.addresses.v4},
            {"type": "InternalIP", "address": node.addresses.v6},
            {"type": "Hostname", "address": node.name},
        ],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "the lab's daemon runs", "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
        "nodeInfo": {"kubeletVersion": concat!("netns-lab-", env!("CARGO_PKG_VERSION"))},
    })
}

fn service(namespace: &str, name: &str, cluster_ip: &str, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"clusterIP": cluster_ip, "ports": ports},
    })
}

/// The endpoint of a Service without a selector, served by the daemon on the control node.
fn slice(namespace: &str, name: &str, ports: &Value, node: &Node) -> Value {
    let ports = ports.as_array().into_iter().flatten().map(|port| {
        json!({
            "name": port["name"], "port": port["targetPort"], "protocol": port["protocol"],
        })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [node.addresses.v4],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node.name,
        }],
        "ports": ports.collect::<Vec<_>>(),
    })
}
