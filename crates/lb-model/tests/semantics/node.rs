//! The own Node: eligibility, health checks, the local detector.

use super::*;
use lb_model::{DetectLocal, LocalDetector};

#[test]
fn a_node_is_eligible_while_it_stays() {
    let mut model = Model::new(config());
    assert!(!model.node_is_eligible());
    let nodes = [
        (node(), true),
        (
            Node {
                deleting: true,
                ..node()
            },
            false,
        ),
        (
            Node {
                to_be_deleted: true,
                ..node()
            },
            false,
        ),
    ];
    for (node, eligible) in nodes {
        model.apply(Event::Node(node));
        assert_eq!(model.node_is_eligible(), eligible);
    }
    model.apply(Event::NodeGone);
    assert!(!model.node_is_eligible());
}

#[test]
fn another_node_is_none_of_ours() {
    let mut model = Model::new(config());
    let complaints = model.apply(Event::Node(Node {
        name: "there".to_owned(),
        ..node()
    }));
    assert_eq!(
        complaints,
        [complaint(
            "Node there",
            "metadata.name",
            "there",
            "the name of this node"
        )]
    );
    assert!(!model.node_is_eligible());
}

#[test]
fn the_detector_follows_the_nodes_pod_cidrs() {
    let mut model = Model::new(ModelConfig {
        detect_local: DetectLocal::NodeCidr,
        ..config()
    });
    let both = || vec!["10.244.0.0/24".to_owned(), "fd00:244::/64".to_owned()];
    assert_eq!(model.local_detector(Family::V4), LocalDetector::None);
    model.apply(Event::Node(Node {
        pod_cidrs: both(),
        ..node()
    }));
    assert!(model.take_changes().detector);
    assert_eq!(
        model.local_detector(Family::V4),
        LocalDetector::Cidr("10.244.0.0/24".parse().unwrap())
    );
    assert_eq!(
        model.local_detector(Family::V6),
        LocalDetector::Cidr("fd00:244::/64".parse().unwrap())
    );
    model.apply(Event::Node(Node {
        pod_cidrs: both(),
        zone: "east".to_owned(),
        ..node()
    }));
    assert!(!model.take_changes().detector);
    model.apply(Event::NodeGone);
    assert!(model.take_changes().detector);
}

#[test]
fn configured_networks_are_one_per_family() {
    let cidrs = vec![
        "fd00:244::/32".parse().unwrap(),
        "10.244.0.0/16".parse().unwrap(),
    ];
    let detect_local = DetectLocal::ClusterCidr(cidrs.clone());
    let model = Model::new(ModelConfig {
        detect_local,
        ..config()
    });
    assert_eq!(
        model.local_detector(Family::V4),
        LocalDetector::Cidr(cidrs[1])
    );
    assert_eq!(
        model.local_detector(Family::V6),
        LocalDetector::Cidr(cidrs[0])
    );
}

fn checked(name: &str) -> Service {
    Service {
        external_traffic_policy: "Local".to_owned(),
        health_check_node_port: 32_000,
        ..balanced(name)
    }
}

#[test]
fn a_health_check_counts_ready_endpoints_on_this_node_once() {
    let mut two_ports = slice("b", "web", vec![endpoint("10.244.0.2", "here")]);
    two_ports.ports.push(slice_port("admin", "TCP", 9999));
    let eps = vec![
        endpoint("10.244.0.2", "here"),
        endpoint("10.244.0.3", "here"),
        endpoint("10.244.1.2", "there"),
        terminating("10.244.0.4", "here"),
    ];
    let model = model(
        vec![checked("web")],
        vec![slice("a", "web", eps), two_ports],
    );
    let check = model.health_check(&name("web"), Family::V4).unwrap();
    assert_eq!(
        (check.service, check.port.get(), check.local_endpoints),
        (name("web"), 32_000, 2)
    );
    assert_eq!(model.health_check(&name("web"), Family::V6), None);
    assert!(model.has_local_policy(&name("web")));
}

#[test]
fn only_balanced_services_of_policy_local_are_checked() {
    let cluster = Service {
        external_traffic_policy: String::new(),
        ..checked("web")
    };
    let node_port = Service {
        kind: "NodePort".to_owned(),
        ..checked("web")
    };
    let none = Service {
        health_check_node_port: 0,
        ..checked("web")
    };
    for service in [cluster, node_port, none] {
        let model = model(vec![service], vec![]);
        assert_eq!(model.health_check(&name("web"), Family::V4), None);
    }
}

#[test]
fn an_endpoint_of_no_port_of_the_service_does_not_count() {
    let mut admin = slice("a", "web", vec![endpoint("10.244.0.2", "here")]);
    admin.ports = vec![slice_port("admin", "TCP", 9999)];
    let model = model(vec![checked("web")], vec![admin]);
    let check = model.health_check(&name("web"), Family::V4).unwrap();
    assert_eq!(check.local_endpoints, 0);
}
