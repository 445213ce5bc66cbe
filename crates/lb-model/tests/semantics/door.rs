//! What cannot be used is named, and the rest still counts.

use super::*;
use lb_model::said::Ingress;
use proptest::prelude::*;

const ADDRESS: &str = "an IPv4 or IPv6 unicast address, neither unspecified nor loopback";

#[test]
fn an_unusable_address_is_left_out() {
    let mut web = service("web");
    web.external_ips = ["203.0.113.1", "203.0.113.256", "127.0.0.1", "fd00::1"]
        .map(str::to_owned)
        .into();
    let mut model = Model::new(config());
    let object = "Service default/web";
    assert_eq!(
        model.apply(Event::Service(web)),
        [
            complaint(object, "spec.externalIPs[1]", "203.0.113.256", ADDRESS),
            complaint(object, "spec.externalIPs[2]", "127.0.0.1", ADDRESS),
            complaint(
                object,
                "spec.externalIPs[3]",
                "fd00::1",
                "an IP family that the Service has a ClusterIP of"
            ),
        ]
    );
    assert_eq!(frontends(&model, "web").len(), 2);
}

#[test]
fn addresses_that_no_packet_can_be_sent_to_are_unusable() {
    let unusable = [
        "",
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "010.0.0.1",
        "10.0.0.1/32",
        "::",
        "::1",
        "ff02::1",
        "fe80::1",
        "::ffff:10.0.0.1",
        "fd00::1%eth0",
    ];
    for address in unusable {
        let mut web = service("web");
        web.cluster_ips.push("fd00:96::1".to_owned());
        web.external_ips = vec![address.to_owned()];
        let complaints = Model::new(config()).apply(Event::Service(web));
        assert_eq!(complaints.len(), 1, "{address}");
    }
}

#[test]
fn every_field_complains_under_its_own_name() {
    let mut web = balanced("web");
    web.cluster_ips.push("10.96.0.9".to_owned());
    web.kind = "Sideways".to_owned();
    web.created = "yesterday".to_owned();
    web.ingress.push(ingress("nowhere", "VIP"));
    web.ingress.push(ingress("198.51.100.9", "Half"));
    web.source_ranges = vec!["10.0.0.0".to_owned()];
    web.client_ip_affinity = true;
    web.affinity_seconds = Some(0);
    web.internal_traffic_policy = "Here".to_owned();
    web.external_traffic_policy = "There".to_owned();
    web.external_ips = vec!["203.0.113.1".to_owned()];
    web.ports.push(service_port("http", "ICMP", 1));
    web.ports.push(service_port("zero", "TCP", 0));
    web.ports.push(service_port("again", "TCP", 80));
    web.ports.push(service_port(&"x".repeat(64), "TCP", 81));
    web.ports.push(ServicePort {
        node_port: 70_000,
        ..service_port("high", "TCP", 82)
    });
    let mut model = Model::new(config());
    let complaints = model.apply(Event::Service(web));
    let mut fields: Vec<&str> = complaints
        .iter()
        .map(|complaint| complaint.field.as_str())
        .collect();
    fields.sort_unstable();
    let expected = [
        "metadata.creationTimestamp",
        "spec.clusterIPs[1]",
        "spec.externalTrafficPolicy",
        "spec.internalTrafficPolicy",
        "spec.loadBalancerSourceRanges[0]",
        "spec.ports[1].protocol",
        "spec.ports[2].port",
        "spec.ports[3].port",
        "spec.ports[4].name",
        "spec.ports[5].nodePort",
        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        "spec.type",
        "status.loadBalancer.ingress[1].ip",
        "status.loadBalancer.ingress[2].ipMode",
    ];
    assert_eq!(fields, expected);
    assert_eq!(
        of_kind(&model, "web", FrontendKind::ClusterIp)
            .affinity
            .unwrap()
            .get(),
        10_800
    );
}

#[test]
fn slices_complain_under_their_own_names() {
    let mut bad = slice(
        "a",
        "web",
        vec![
            endpoint("10.244.0.2", "here"),
            endpoint("fd00::2", "here"),
            endpoint("x", "here"),
        ],
    );
    bad.endpoints.push(SliceEndpoint::default());
    bad.endpoints[0].zone_hints = (0..9).map(|zone| format!("zone-{zone}")).collect();
    bad.ports.push(slice_port("low", "TCP", -1));
    bad.ports.push(slice_port("odd", "tcp", 80));
    bad.trigger_time = Some("1".repeat(41));
    let mut model = model(vec![service("web")], vec![]);
    let complaints = model.apply(Event::Slice(bad));
    assert!(
        complaints
            .iter()
            .all(|complaint| complaint.object == "EndpointSlice default/a")
    );
    let fields: Vec<&str> = complaints
        .iter()
        .map(|complaint| complaint.field.as_str())
        .collect();
    let expected = [
        "endpoints[0].hints.forZones",
        "endpoints[1].addresses[0]",
        "endpoints[2].addresses[0]",
        "endpoints[3].addresses",
        "ports[1].port",
        "ports[2].protocol",
        "metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]",
    ];
    assert_eq!(fields, expected);
    assert_eq!(cluster_ip_forwards(&model), ["10.244.0.2:8080"]);
}

#[test]
fn an_object_without_usable_name_is_left_out_whole() {
    let mut model = Model::new(config());
    for bad in ["", "a/b", "A", "a b", &"a".repeat(254)] {
        let event = Event::Service(Service {
            name: bad.to_owned(),
            ..service("web")
        });
        assert_eq!(model.apply(event).len(), 1, "{bad}");
        let event = Event::Slice(EndpointSlice {
            service: bad.to_owned(),
            ..slice("a", "web", vec![])
        });
        assert_eq!(
            model.apply(event).len(),
            usize::from(!bad.is_empty()),
            "{bad}"
        );
    }
    assert_eq!(model.services().count(), 0);
}

#[test]
fn input_is_bounded() {
    let mut web = service("web");
    web.external_ips = (0..2000)
        .map(|i| format!("203.0.{}.{}", i / 250, i % 250 + 1))
        .collect();
    let eps = (0..1500)
        .map(|i| endpoint(&format!("10.244.{}.{}", i / 250, i % 250 + 1), "here"))
        .collect();
    let mut model = Model::new(config());
    let complaints = model.apply(Event::Service(web));
    assert_eq!(
        complaints,
        [complaint(
            "Service default/web",
            "spec.externalIPs",
            "2000 entries",
            "at most 1000"
        )]
    );
    assert_eq!(model.apply(Event::Slice(slice("a", "web", eps))).len(), 1);
    assert_eq!(frontends(&model, "web").len(), 1001);
    assert_eq!(cluster_ip_forwards(&model).len(), 1000);
}

#[test]
fn many_complaints_are_counted_and_long_values_cut() {
    let mut web = service("web");
    web.external_ips = vec!["ä".repeat(5000); 100];
    let complaints = Model::new(config()).apply(Event::Service(web));
    assert_eq!(complaints.len(), 33);
    assert_eq!(complaints[32].value, "68 more");
    assert_eq!(complaints[0].value.chars().count(), 101);
}

/// Anything: from the plausible to the absurd.
fn text() -> impl Strategy<Value = String> {
    let plausible = [
        "",
        "default",
        "web",
        "svc-1",
        "10.96.0.1",
        "10.244.0.2",
        "fd00::1",
        "10.0.0.0/8",
        "::/0",
        "TCP",
        "UDP",
        "None",
        "Local",
        "Cluster",
        "VIP",
        "Proxy",
        "ClusterIP",
        "LoadBalancer",
        "IPv4",
        "IPv6",
        "here",
        "http",
        "2026-01-01T00:00:00Z",
        "::ffff:10.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "fe80::1",
        "10.0.0.0/99",
    ];
    prop_oneof![
        6 => proptest::sample::select(plausible.to_vec()).prop_map(str::to_owned),
        1 => any::<String>(),
        1 => "[0-9a-f:./]{0,24}",
    ]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec(text(), 0..4)
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![Just(0), Just(80), Just(8080), 1..70_000, any::<i32>()]
}

prop_compose! {
    fn any_service()(
        names in (text(), text(), text(), text()),
        addresses in (texts(), texts(), texts()),
        ingress in proptest::collection::vec((text(), text()), 0..4),
        policies in (text(), text()),
        flags in (proptest::bool::weighted(0.1), proptest::bool::weighted(0.1), any::<bool>()),
        affinity_seconds in proptest::option::of(number()),
        health_check_node_port in number(),
        ports in proptest::collection::vec((text(), text(), number(), number()), 0..4),
    ) -> Service {
        Service {
            namespace: names.0,
            name: names.1,
            kind: names.2,
            created: names.3,
            cluster_ips: addresses.0,
            external_ips: addresses.1,
            source_ranges: addresses.2,
            ingress: ingress.into_iter().map(|(ip, ip_mode)| Ingress { ip, ip_mode }).collect(),
            internal_traffic_policy: policies.0,
            external_traffic_policy: policies.1,
            other_proxy: flags.0,
            headless_label: flags.1,
            client_ip_affinity: flags.2,
            affinity_seconds,
            health_check_node_port,
            ports: ports
                .into_iter()
                .map(|(name, protocol, port, node_port)| ServicePort { name, protocol, port, node_port })
                .collect(),
        }
    }
}

prop_compose! {
    fn any_endpoint()(
        addresses in texts(),
        conditions in any::<(Option<bool>, Option<bool>, Option<bool>)>(),
        node_name in text(),
        hints in (texts(), texts()),
    ) -> SliceEndpoint {
        let ((ready, serving, terminating), (zone_hints, node_hints)) = (conditions, hints);
        SliceEndpoint { addresses, ready, serving, terminating, node_name, zone_hints, node_hints }
    }
}

prop_compose! {
    fn any_slice()(
        names in (text(), text(), text(), text()),
        headless_label in proptest::bool::weighted(0.1),
        trigger_time in proptest::option::of(text()),
        endpoints in proptest::collection::vec(any_endpoint(), 0..4),
        ports in proptest::collection::vec((text(), text(), proptest::option::of(number())), 0..4),
    ) -> EndpointSlice {
        EndpointSlice {
            namespace: names.0,
            name: names.1,
            service: names.2,
            address_type: names.3,
            headless_label,
            trigger_time,
            endpoints,
            ports: ports
                .into_iter()
                .map(|(name, protocol, port)| SlicePort { name, protocol, port })
                .collect(),
        }
    }
}

prop_compose! {
    fn any_node()(zone in text(), cidrs in texts(), addresses in texts()) -> Node {
        Node { zone, pod_cidrs: cidrs, addresses, ..node() }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any_service().prop_map(Event::Service),
        4 => any_slice().prop_map(Event::Slice),
        1 => any_node().prop_map(Event::Node),
        1 => (text(), text()).prop_map(|(namespace, name)| Event::ServiceGone { namespace, name }),
        1 => (text(), text()).prop_map(|(namespace, name)| Event::SliceGone { namespace, name }),
        1 => proptest::sample::select(vec![
            Event::ServiceListBegins, Event::ServiceListEnds, Event::SliceListBegins, Event::SliceListEnds,
            Event::NodeGone,
        ]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes in, what comes out is sane.
    #[test]
    fn garbage_does_no_harm(events in proptest::collection::vec(any_event(), 0..30)) {
        let mut model = Model::new(config());
        for event in events {
            for complaint in model.apply(event) {
                prop_assert!(!complaint.field.is_empty() && !complaint.accepted.is_empty());
                prop_assert!(complaint.value.chars().count() < 400);
            }
        }
        let services: Vec<_> = model.services().cloned().collect();
        for service in &services {
            for family in Family::ALL {
                sane(&model.frontends(service, family), family)?;
            }
        }
        model.take_changes();
        for event in [Event::ServiceListBegins, Event::ServiceListEnds, Event::SliceListBegins, Event::SliceListEnds] {
            model.apply(event);
        }
        prop_assert!(services.iter().all(|service| model.take_changes().services.is_empty() || model.frontends(service, Family::V4).is_empty()));
        prop_assert_eq!(model.services().count(), 0);
    }
}

fn sane(frontends: &[Frontend], family: Family) -> Result<(), TestCaseError> {
    prop_assert!(frontends.is_sorted_by(|a, b| a.address < b.address));
    for frontend in frontends {
        prop_assert_eq!(frontend.address.family(), family);
        prop_assert_ne!(frontend.address.port(), 0);
        let lists = match &frontend.treatment {
            Treatment::Forward { endpoints, .. } => {
                prop_assert!(!endpoints.is_empty());
                vec![endpoints]
            }
            Treatment::LocalOnly { cluster, local } => {
                prop_assert!(!cluster.is_empty());
                prop_assert!(local.iter().all(|endpoint| endpoint.local));
                vec![cluster, local]
            }
            Treatment::Reject | Treatment::Drop => vec![],
        };
        for endpoints in lists {
            prop_assert!(endpoints.is_sorted_by(|a, b| a < b));
            prop_assert!(
                endpoints
                    .iter()
                    .all(|e| Family::of(e.ip) == family && e.port != 0)
            );
        }
        for range in frontend.allowed_sources.iter().flatten() {
            prop_assert_eq!(Family::of(range.ip()), family);
            prop_assert_eq!(range.ip(), range.network());
        }
    }
    Ok(())
}
