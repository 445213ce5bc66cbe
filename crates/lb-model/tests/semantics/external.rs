//! Node ports, external and load-balancer IPs, and the external traffic policy.

use super::*;
use lb_model::{DetectLocal, Masquerade, Route};

fn two() -> Vec<SliceEndpoint> {
    vec![
        endpoint("10.244.0.2", "here"),
        endpoint("10.244.1.2", "there"),
    ]
}

#[test]
fn every_external_frontend_is_masqueraded_under_policy_cluster() {
    let mut web = balanced("web");
    web.external_ips = vec!["203.0.113.1".to_owned()];
    let model = model(vec![web], vec![slice("a", "web", two())]);
    let external = [
        FrontendKind::NodePort,
        FrontendKind::LoadBalancer,
        FrontendKind::ExternalIp,
    ];
    for kind in external {
        let Treatment::Forward {
            endpoints,
            masquerade,
        } = of_kind(&model, "web", kind).treatment
        else {
            panic!("{kind:?} does not forward")
        };
        assert_eq!(
            (endpoints.len(), masquerade),
            (2, Masquerade::Always),
            "{kind:?}"
        );
    }
    assert_eq!(frontends(&model, "web").len(), 4);
}

#[test]
fn no_node_port_no_frontend() {
    let mut web = balanced("web");
    web.ports[0].node_port = 0;
    let model = model(vec![web], vec![]);
    let kinds: Vec<_> = frontends(&model, "web")
        .iter()
        .map(|frontend| frontend.kind)
        .collect();
    assert_eq!(kinds, [FrontendKind::ClusterIp, FrontendKind::LoadBalancer]);
}

#[test]
fn a_node_port_answers_at_node_port_addresses_only() {
    let model = model(vec![balanced("web")], vec![slice("a", "web", two())]);
    let aimed = packet("8.8.8.8", "192.168.0.1", 30_080);
    assert_eq!(model.route_packet(&aimed), Route::NotOurs);
    let route = model.route_packet(&Packet {
        destination_is_node_port_address: true,
        ..aimed
    });
    assert!(
        matches!(
            route,
            Route::Endpoints {
                masquerade: true,
                ..
            }
        ),
        "{route:?}"
    );
}

#[test]
fn ip_mode_proxy_is_not_programmed() {
    let mut web = balanced("web");
    web.ingress = vec![
        ingress("198.51.100.1", "Proxy"),
        ingress("198.51.100.2", "VIP"),
        ingress("", ""),
    ];
    let model = model(vec![web], vec![slice("a", "web", two())]);
    assert!(
        model
            .frontend(&vip("198.51.100.1", Protocol::Tcp, 80))
            .is_none()
    );
    assert!(
        model
            .frontend(&vip("198.51.100.2", Protocol::Tcp, 80))
            .is_some()
    );
}

#[test]
fn a_balancers_address_of_another_family_is_not_ours() {
    let mut web = balanced("web");
    web.ingress = vec![ingress("2001:db8::1", "VIP")];
    let model = model(vec![web], vec![]);
    assert_eq!(model.frontends(&name("web"), Family::V6), []);
}

fn local_only(endpoints: Vec<SliceEndpoint>) -> Model {
    let detect_local = DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]);
    let mut model = Model::new(ModelConfig {
        detect_local,
        ..config()
    });
    let policy = "Local".to_owned();
    model.apply(Event::Service(Service {
        external_traffic_policy: policy,
        ..balanced("web")
    }));
    model.apply(Event::Slice(slice("a", "web", endpoints)));
    model
}

#[test]
fn policy_local_keeps_the_source_and_stays_here() {
    let model = local_only(two());
    let local = vec![chosen("10.244.0.2", 8080, true)];
    let cluster = vec![local[0], chosen("10.244.1.2", 8080, false)];
    let expected = Treatment::LocalOnly {
        cluster: cluster.clone(),
        local: local.clone(),
    };
    assert_eq!(
        of_kind(&model, "web", FrontendKind::LoadBalancer).treatment,
        expected
    );
    assert_eq!(
        of_kind(&model, "web", FrontendKind::NodePort).treatment,
        expected
    );
    assert_eq!(cluster_ip_forwards(&model).len(), 2);

    let outside = packet("8.8.8.8", "198.51.100.1", 80);
    let here = Route::Endpoints {
        candidates: local,
        masquerade: false,
    };
    assert_eq!(model.route_packet(&outside), here);
}

#[test]
fn pods_and_the_node_itself_short_circuit_policy_local() {
    let model = local_only(vec![endpoint("10.244.1.2", "there")]);
    let there = vec![chosen("10.244.1.2", 8080, false)];
    let pod = packet("10.244.0.9", "198.51.100.1", 80);
    let unmasqueraded = Route::Endpoints {
        candidates: there.clone(),
        masquerade: false,
    };
    assert_eq!(model.route_packet(&pod), unmasqueraded);
    let node = Packet {
        source_is_node: true,
        interface: None,
        ..packet("192.168.0.1", "198.51.100.1", 80)
    };
    assert_eq!(
        model.route_packet(&node),
        Route::Endpoints {
            candidates: there,
            masquerade: true
        }
    );
    assert_eq!(
        model.route_packet(&packet("8.8.8.8", "198.51.100.1", 80)),
        Route::Drop
    );
}

#[test]
fn without_any_endpoint_even_policy_local_rejects() {
    let model = local_only(vec![unready("10.244.1.2", "there")]);
    assert_eq!(
        of_kind(&model, "web", FrontendKind::LoadBalancer).treatment,
        Treatment::Reject
    );
    assert_eq!(
        model.route_packet(&packet("8.8.8.8", "198.51.100.1", 80)),
        Route::Reject
    );
}

#[test]
fn both_policies_local() {
    let web = Service {
        internal_traffic_policy: "Local".to_owned(),
        external_traffic_policy: "Local".to_owned(),
        ..balanced("web")
    };
    let model = model(
        vec![web],
        vec![slice("a", "web", vec![endpoint("10.244.1.2", "there")])],
    );
    assert_eq!(
        of_kind(&model, "web", FrontendKind::ClusterIp).treatment,
        Treatment::Drop
    );
    let external = of_kind(&model, "web", FrontendKind::LoadBalancer).treatment;
    let cluster = vec![chosen("10.244.1.2", 8080, false)];
    assert_eq!(
        external,
        Treatment::LocalOnly {
            cluster,
            local: vec![]
        }
    );
}

#[test]
fn policy_local_of_a_service_without_outside_access_says_nothing() {
    let mut web = service("web");
    web.external_traffic_policy = "Local".to_owned();
    web.ingress = vec![ingress("198.51.100.1", "")];
    let plain = model(vec![web.clone()], vec![slice("a", "web", two())]);
    assert!(matches!(
        of_kind(&plain, "web", FrontendKind::LoadBalancer).treatment,
        Treatment::Forward { .. }
    ));
    web.external_ips = vec!["203.0.113.1".to_owned()];
    let external = model(vec![web], vec![slice("a", "web", two())]);
    assert!(matches!(
        of_kind(&external, "web", FrontendKind::ExternalIp).treatment,
        Treatment::LocalOnly { .. }
    ));
}
