//! The Services of a cluster: two that are measured, and as many more as it shall have.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use netns_lab::apiserver::{Resource, Store, StoreOptions};
use serde_json::{Value, json};

use crate::cluster::{FAR, NEAR, NODE_IPS, NODES};
use crate::load::{ECHO, SINK};

/// The measured Services, each with one endpoint: on the client's node, and on the other one.
const MEASURED: [(&str, Ipv4Addr, usize); 2] = [("near", NEAR, 0), ("far", FAR, 1)];
/// Their node ports, for [`ECHO`].
pub(crate) const NODE_PORTS: [u16; 2] = [30080, 30081];
/// Every so many of the others can be reached, to see that all are in the kernel.
const REACHABLE: usize = 997;
/// Endpoints of each other Service.
const ENDPOINTS: usize = 2;

/// A ClusterIP with a port.
pub(crate) fn vip(index: usize, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(cluster_ip(index)), port)
}

/// The ClusterIPs of others that can be reached once all are in the kernel.
pub(crate) fn witnesses(services: usize) -> impl Iterator<Item = SocketAddr> {
    let others = MEASURED.len()..services;
    others
        .filter(|index| index % REACHABLE == 0)
        .map(|index| vip(index, 80))
}

/// An API server's content with so many Services, some of which can be reached from outside or none.
pub(crate) fn store(services: usize, reachable: bool) -> anyhow::Result<Store> {
    let store = Store::new(StoreOptions::default());
    let nodes = NODES.iter().zip(NODE_IPS).map(|(name, ip)| node(name, ip));
    store.seed(Resource::Node, nodes)?;
    for (name, ip, index) in MEASURED {
        store.seed(
            Resource::Service,
            [measured_service(name, index, reachable)],
        )?;
        store.seed(Resource::EndpointSlice, [measured_slice(name, ip, index)])?;
    }
    let others = MEASURED.len()..services;
    let name = |index: usize| format!("service-{index:05}");
    let all = others
        .clone()
        .map(|index| service(&name(index), cluster_ip(index)));
    store.seed(Resource::Service, all)?;
    let slices = others.map(|index| match index % REACHABLE {
        0 => slice(&name(index), [NEAR], ECHO),
        _ => {
            let ips = (0..ENDPOINTS).map(|number| endpoint_ip(index, number, ENDPOINTS));
            slice(&name(index), ips, ECHO)
        }
    });
    store.seed(Resource::EndpointSlice, slices)?;
    Ok(store)
}

fn node(name: &str, ip: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": ip.to_string()}]},
    })
}

/// What is served, by name, protocol and port.
const PORTS: [(&str, &str, u16); 3] = [
    ("echo", "TCP", ECHO),
    ("sink", "TCP", SINK),
    ("datagrams", "UDP", ECHO),
];

fn measured_service(name: &str, index: usize, reachable: bool) -> Value {
    let mut object = service(name, cluster_ip(index));
    let port = |(name, protocol, port): (&str, &str, u16)| {
        let mut port =
            json!({"name": name, "protocol": protocol, "port": port, "targetPort": port});
        if reachable && name == "echo" {
            port["nodePort"] = NODE_PORTS[index].into();
        }
        port
    };
    if reachable {
        object["spec"]["type"] = "NodePort".into();
        object["spec"]["externalTrafficPolicy"] = "Cluster".into();
    }
    object["spec"]["ports"] = PORTS.map(port).into_iter().collect();
    object
}

fn measured_slice(name: &str, ip: Ipv4Addr, index: usize) -> Value {
    let mut object = slice(name, [ip], ECHO);
    let port = |(name, protocol, port): (&str, &str, u16)| json!({"name": name, "protocol": protocol, "port": port});
    object["ports"] = PORTS.map(port).into_iter().collect();
    object["endpoints"][0]["nodeName"] = NODES[index].into();
    object
}
