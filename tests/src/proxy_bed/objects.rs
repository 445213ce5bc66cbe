//! Objects as a real API server stores them, with the metadata that nobody reads.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use super::node::{NODE_IP, NODE_NAME};

/// The Node that the proxy acts for.
pub fn node() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": NODE_NAME, "labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {"podCIDR": "10.240.0.0/24", "podCIDRs": ["10.240.0.0/24"]},
        "status": {"addresses": [
            {"type": "Hostname", "address": NODE_NAME},
            {"type": "InternalIP", "address": NODE_IP.to_string()},
        ]},
    })
}

/// The ClusterIP of Service number `index`.
pub fn cluster_ip(index: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + 0x100 + u32::try_from(index).unwrap_or(u32::MAX))
}

/// The address of endpoint number `number` of Service number `index`, of those with `per_service`.
pub fn endpoint_ip(index: usize, number: usize, per_service: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0af0_0100 + u32::try_from(index * per_service + number).unwrap_or(u32::MAX))
}

/// A Service of type ClusterIP with port 80, named `http`.
pub fn service(name: &str, cluster_ip: impl Into<IpAddr>) -> Value {
    let ip = cluster_ip.into();
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": "default",
            "labels": {"app": name},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": applied(name)},
            "managedFields": managed("f:spec"),
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip.to_string(), "clusterIPs": [ip.to_string()],
            "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app": name},
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
        },
        "status": {"loadBalancer": {}},
    })
}

/// The one EndpointSlice of Service `service`: ready endpoints on another node.
pub fn slice<I: Into<IpAddr>>(
    service: &str,
    endpoints: impl IntoIterator<Item = I>,
    port: u16,
) -> Value {
    let ips: Vec<IpAddr> = endpoints.into_iter().map(Into::into).collect();
    let family = if ips.first().is_none_or(IpAddr::is_ipv4) {
        "IPv4"
    } else {
        "IPv6"
    };
    let endpoints: Vec<Value> = ips
        .iter()
        .enumerate()
        .map(|(number, ip)| {
            json!({
                "addresses": [ip.to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": format!("node-{}", number + 2),
                "targetRef": {
                    "kind": "Pod", "namespace": "default", "name": format!("{service}-{number}"),
                    "uid": "7a1a4b52-4ac0-4bd5-9a3c-3e0f6f1d7a52",
                },
                "zone": "a",
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-x7k2p"), "namespace": "default",
            "generateName": format!("{service}-"),
            "labels": {
                "app": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service,
            },
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": service, "controller": true,
                "blockOwnerDeletion": true, "uid": "0f3c1c0e-52cc-4a44-a8a4-1b9a2f0c1d2e",
            }],
            "managedFields": managed("f:endpoints"),
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": [{"name": "http", "protocol": "TCP", "port": port}],
    })
}

fn applied(name: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"annotations": {}, "name": name, "namespace": "default"},
        "spec": {"ports": [{"name": "http", "port": 80}], "selector": {"app": name}},
    })
    .to_string()
}

fn managed(part: &str) -> Value {
    json!([{
        "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "v1",
        "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {
                "f:labels": {".": {}, "f:app": {}}, "f:ownerReferences": {".": {}},
                "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
            },
            part: {}, "f:addressType": {}, "f:ports": {},
        },
    }])
}
