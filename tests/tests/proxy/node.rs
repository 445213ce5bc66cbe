//! The own Node as it comes and changes.

use causeway_tests::proxy_bed::objects::{self, cluster_ip, endpoint_ip, service, slice};
use causeway_tests::proxy_bed::{Bed, NODE_IP, PORTS, get, wait_for, wait_until};
use netns_lab::apiserver::Resource;
use serde_json::json;

use super::{PATIENCE, put};

#[test]
fn with_node_cidr_nothing_is_programmed_before_the_node_has_its_pod_cidrs() {
    let bed = Bed::new().unwrap();
    let mut node = objects::node();
    node["spec"] = json!({});
    bed.store.seed(Resource::Node, [node]).unwrap();
    let web = put(&bed, "web", 0, 2, PORTS[0]);
    let _proxy = bed.proxy(&["--detect-local-mode=NodeCIDR"]).unwrap();
    let statusz = || {
        let metrics = ([127, 0, 0, 1], 10249).into();
        get(&bed.netns, metrics, "/statusz").map_or_else(|_| String::new(), |page| page.2)
    };
    wait_until("word of what is waited for", PATIENCE, || {
        statusz().contains("Waiting for: spec.podCIDRs")
    })
    .unwrap();
    assert!(!statusz().contains("Last in the kernel"), "{}", statusz());
    bed.store.seed(Resource::Node, [objects::node()]).unwrap();
    wait_for(&bed.netns, web, PORTS[0], PATIENCE).unwrap();
    wait_until("word of the pass", PATIENCE, || {
        statusz().contains("Last in the kernel, IPv4: 20")
    })
    .unwrap();
    assert!(!statusz().contains("Waiting for"), "{}", statusz());
}

#[test]
fn node_ports_follow_the_addresses_of_the_node() {
    let bed = Bed::new().unwrap();
    let mut elsewhere = objects::node();
    elsewhere["status"]["addresses"] = json!([{"type": "InternalIP", "address": "172.30.9.9"}]);
    bed.store.seed(Resource::Node, [elsewhere]).unwrap();
    let mut web = service("web", cluster_ip(0));
    web["spec"]["type"] = json!("NodePort");
    web["spec"]["ports"][0]["nodePort"] = json!(30_080);
    bed.store.seed(Resource::Service, [web]).unwrap();
    let slice = slice("web", [endpoint_ip(0, 0, 10)], PORTS[0]);
    bed.store.seed(Resource::EndpointSlice, [slice]).unwrap();
    let _proxy = bed.proxy(&[]).unwrap();
    let (by_cluster_ip, by_node_port) = (
        (std::net::IpAddr::from(cluster_ip(0)), 80).into(),
        (NODE_IP, 30_080).into(),
    );
    wait_for(&bed.netns, by_cluster_ip, PORTS[0], PATIENCE).unwrap();
    let refused = bed.netns.run(|| std::net::TcpStream::connect(by_node_port));
    assert!(
        refused.unwrap().is_err(),
        "that address is not the Node's yet"
    );
    bed.store.seed(Resource::Node, [objects::node()]).unwrap();
    wait_for(&bed.netns, by_node_port, PORTS[0], PATIENCE).unwrap();
}
