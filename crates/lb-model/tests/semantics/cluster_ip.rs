//! ClusterIPs: kinds that are ignored, dual stack, internal policy, affinity, masquerade.

use super::*;
use lb_model::{DetectLocal, Masquerade, Route};

#[test]
fn a_cluster_ip_goes_to_every_ready_endpoint() {
    let eps = vec![
        endpoint("10.244.1.2", "there"),
        endpoint("10.244.0.2", "here"),
        unready("10.244.0.3", "here"),
    ];
    let model = model(vec![service("web")], vec![slice("a", "web", eps)]);
    assert_eq!(
        frontends(&model, "web"),
        [Frontend {
            address: vip("10.96.0.1", Protocol::Tcp, 80),
            kind: FrontendKind::ClusterIp,
            affinity: None,
            allowed_sources: None,
            treatment: Treatment::Forward {
                endpoints: vec![
                    chosen("10.244.0.2", 8080, true),
                    chosen("10.244.1.2", 8080, false)
                ],
                masquerade: Masquerade::OffCluster,
            },
        }]
    );
}

#[test]
fn headless_external_name_and_other_proxies_services_are_ignored() {
    let mut none = service("none");
    none.cluster_ips = vec!["None".to_owned()];
    let mut pending = service("pending");
    pending.cluster_ips = vec![String::new()];
    let external = Service {
        kind: "ExternalName".to_owned(),
        ..service("external")
    };
    let other = Service {
        other_proxy: true,
        ..service("other")
    };
    let headless = Service {
        headless_label: true,
        ..service("headless")
    };
    let mut model = model(vec![none, pending, external, other, headless], vec![]);
    assert_eq!(model.services().count(), 0);
    assert_eq!(model.take_changes().services.len(), 0);
}

#[test]
fn a_service_that_becomes_headless_is_gone() {
    let mut model = model(vec![service("web")], vec![]);
    model.take_changes();
    model.apply(Event::Service(Service {
        headless_label: true,
        ..service("web")
    }));
    assert_eq!(frontends(&model, "web"), []);
    assert!(model.take_changes().services.contains(&name("web")));
}

#[test]
fn every_protocol_has_its_own_endpoints() {
    let mut dns = service("dns");
    dns.ports = vec![
        service_port("dns", "UDP", 53),
        service_port("dns-tcp", "TCP", 53),
        service_port("s", "SCTP", 53),
    ];
    let mut eps = slice("a", "dns", vec![endpoint("10.244.0.2", "here")]);
    eps.ports = vec![
        slice_port("dns", "UDP", 5353),
        slice_port("dns-tcp", "TCP", 5354),
        slice_port("s", "SCTP", 5355),
    ];
    let model = model(vec![dns], vec![eps]);
    let of = |protocol| forwarded(&model.frontend(&vip("10.96.0.1", protocol, 53)).unwrap());
    assert_eq!(of(Protocol::Udp), ["10.244.0.2:5353"]);
    assert_eq!(of(Protocol::Tcp), ["10.244.0.2:5354"]);
    assert_eq!(of(Protocol::Sctp), ["10.244.0.2:5355"]);
}

#[test]
fn each_family_has_its_own_cluster_ip_and_endpoints() {
    let mut web = service("web");
    web.cluster_ips.push("fd00:96::1".to_owned());
    let slices = vec![
        slice("a", "web", vec![endpoint("10.244.0.2", "here")]),
        slice("b", "web", vec![endpoint("fd00:244::2", "here")]),
    ];
    let model = model(vec![web], slices);
    let v6 = model.frontends(&name("web"), Family::V6);
    assert_eq!(v6.len(), 1);
    assert_eq!(v6[0].address, vip("fd00:96::1", Protocol::Tcp, 80));
    assert_eq!(forwarded(&v6[0]), ["[fd00:244::2]:8080"]);
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn affinity_lasts_three_hours_unless_said() {
    let sticky = Service {
        client_ip_affinity: true,
        ..service("web")
    };
    let brief = Service {
        affinity_seconds: Some(60),
        ..sticky.clone()
    };
    let unused = Service {
        affinity_seconds: Some(60),
        ..service("web")
    };
    let seconds = |service| {
        frontends(&model(vec![service], vec![]), "web")[0]
            .affinity
            .map(std::num::NonZero::get)
    };
    assert_eq!(seconds(sticky), Some(10_800));
    assert_eq!(seconds(brief), Some(60));
    assert_eq!(seconds(unused), None);
}

#[test]
fn without_endpoints_a_cluster_ip_rejects() {
    let model = model(
        vec![service("web")],
        vec![slice("a", "web", vec![unready("10.244.0.2", "here")])],
    );
    assert_eq!(frontends(&model, "web")[0].treatment, Treatment::Reject);
    assert_eq!(
        model.route_packet(&packet("10.244.0.9", "10.96.0.1", 80)),
        Route::Reject
    );
}

#[test]
fn internal_policy_local_uses_only_this_node_or_drops() {
    let web = Service {
        internal_traffic_policy: "Local".to_owned(),
        ..service("web")
    };
    let both = vec![
        endpoint("10.244.0.2", "here"),
        endpoint("10.244.1.2", "there"),
    ];
    let with = model(vec![web.clone()], vec![slice("a", "web", both)]);
    assert_eq!(cluster_ip_forwards(&with), ["10.244.0.2:8080"]);
    let without = model(
        vec![web.clone()],
        vec![slice("a", "web", vec![endpoint("10.244.1.2", "there")])],
    );
    assert_eq!(frontends(&without, "web")[0].treatment, Treatment::Drop);
    let nobody = model(vec![web], vec![]);
    assert_eq!(frontends(&nobody, "web")[0].treatment, Treatment::Reject);
}

#[test]
fn an_undefined_port_of_a_live_cluster_ip_is_rejected() {
    let model = model(
        vec![service("web")],
        vec![slice("a", "web", vec![endpoint("10.244.0.2", "here")])],
    );
    assert!(model.is_live_cluster_ip(ip("10.96.0.1")));
    assert_eq!(
        model.route_packet(&packet("10.244.0.9", "10.96.0.1", 81)),
        Route::Reject
    );
    assert_eq!(
        model.route_packet(&packet("10.244.0.9", "10.96.0.2", 81)),
        Route::NotOurs
    );
}

fn masqueraded(config: ModelConfig, from: &Packet) -> bool {
    let mut model = Model::new(config);
    model.apply(Event::Service(service("web")));
    model.apply(Event::Slice(slice(
        "a",
        "web",
        vec![endpoint("10.244.0.2", "here")],
    )));
    model.apply(Event::Node(Node {
        pod_cidrs: vec!["10.244.0.0/24".to_owned()],
        ..node()
    }));
    match model.route_packet(from) {
        Route::Endpoints { masquerade, .. } => masquerade,
        other => panic!("{other:?}"),
    }
}

#[test]
fn off_cluster_sources_are_masqueraded_where_the_detector_can_tell() {
    let with = |detect_local| ModelConfig {
        detect_local,
        ..config()
    };
    let cluster = || DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]);
    let pod = Packet {
        interface: Some("veth7".to_owned()),
        ..packet("10.244.0.9", "10.96.0.1", 80)
    };
    let other_nodes = packet("10.244.1.9", "10.96.0.1", 80);
    let outside = packet("8.8.8.8", "10.96.0.1", 80);

    assert!(!masqueraded(with(DetectLocal::None), &outside));
    assert!(!masqueraded(with(cluster()), &pod));
    assert!(!masqueraded(with(cluster()), &other_nodes));
    assert!(masqueraded(with(cluster()), &outside));
    assert!(!masqueraded(with(DetectLocal::NodeCidr), &pod));
    assert!(masqueraded(with(DetectLocal::NodeCidr), &other_nodes));
    assert!(!masqueraded(
        with(DetectLocal::Bridge("veth7".to_owned())),
        &pod
    ));
    assert!(masqueraded(
        with(DetectLocal::Bridge("veth".to_owned())),
        &pod
    ));
    assert!(!masqueraded(
        with(DetectLocal::Prefix("veth".to_owned())),
        &pod
    ));
    assert!(masqueraded(
        with(DetectLocal::Prefix("veth".to_owned())),
        &outside
    ));
    assert!(masqueraded(
        ModelConfig {
            masquerade_all: true,
            ..with(cluster())
        },
        &pod
    ));
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded() {
    let model = model(
        vec![service("web")],
        vec![slice("a", "web", vec![endpoint("10.244.0.2", "here")])],
    );
    let route = model.route_packet(&packet("10.244.0.2", "10.96.0.1", 80));
    let itself = chosen("10.244.0.2", 8080, true);
    assert!(route.masqueraded_to(&itself, ip("10.244.0.2")));
    assert!(!route.masqueraded_to(&itself, ip("10.244.0.3")));
    assert!(!route.masqueraded_to(
        &Endpoint {
            local: false,
            ..itself
        },
        ip("10.244.0.2")
    ));
}
