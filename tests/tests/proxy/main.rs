//! The real `causeway-proxy` on a node of its own: real API server, real kernel, real packets.

#![expect(
    clippy::unwrap_used,
    reason = "what these helpers cannot do fails the test"
)]

mod api_server;
mod check_ports;
mod host;
mod lifecycle;
mod node;
mod objects;
mod pages;
mod privileges;
mod reload;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use causeway_tests::proxy_bed::objects::{cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, PORTS, wait_for};
use netns_lab::apiserver::Resource;

/// For what takes milliseconds: the machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stores Service number `index`, called `name`, with `endpoints` endpoints that answer with
/// `port`; gives where it is reached.
fn put(bed: &Bed, name: &str, index: usize, endpoints: usize, port: u16) -> SocketAddr {
    let ip = cluster_ip(index);
    let ips = (0..endpoints).map(|number| endpoint_ip(index, number, 10));
    bed.store
        .seed(Resource::Service, [service(name, ip)])
        .unwrap();
    bed.store
        .seed(Resource::EndpointSlice, [slice(name, ips, port)])
        .unwrap();
    (IpAddr::from(ip), 80).into()
}

#[test]
fn a_service_is_reachable_and_follows_its_endpoints() {
    let bed = Bed::new().unwrap();
    let web = put(&bed, "web", 0, 3, PORTS[0]);
    let proxy = bed.proxy(&[]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();

    put(&bed, "web", 0, 3, PORTS[1]);
    wait_for(&bed.netns, web, PORTS[1], PATIENCE).unwrap();
    let late = put(&bed, "late", 1, 1, PORTS[0]);
    wait_for(&bed.netns, late, PORTS[0], PATIENCE).unwrap();
    assert!(proxy.terminate().unwrap().success());
}
