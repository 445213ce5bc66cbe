//! What changes while the daemon runs: the configuration, the Node, objects that turn bad.

use std::time::{Duration, Instant};

use causeway_proxy::config::Mode;
use k8s_openapi::jiff::Timestamp;
use lb_model::Complaint;
use lb_model::said::{Event, Node, Service, ServicePort};

use causeway_proxy::watch::Heard;

use crate::scene::{Scene, node, service, settings, slice};

fn changes(scene: &Scene) -> Vec<String> {
    std::mem::take(&mut scene.plane.0.borrow_mut().changes)
}

#[test]
fn another_data_plane_is_in_place_before_the_one_before_goes() {
    let mut scene = Scene::started("mode: nftables");
    assert_eq!(
        changes(&scene),
        ["open nftables", "pass", "clear all but nftables"]
    );
    let later = Instant::now() + Duration::from_secs(2);
    scene.syncer.configure(settings("mode: iptables"), later);
    scene.syncer.act(later);
    assert_eq!(
        changes(&scene),
        ["open iptables", "pass", "clear all but iptables"]
    );
    assert_eq!(scene.status.mode(), Mode::Iptables);
    let latest = later + Duration::from_secs(2);
    scene.syncer.configure(settings("mode: iptables"), latest);
    scene.syncer.act(latest);
    assert_eq!(
        changes(&scene),
        ["pass"],
        "the same mode again is no change"
    );
}

#[test]
fn flows_that_came_over_are_looked_at_with_the_next_pass_or_look() {
    let mut scene = Scene::started("mode: nftables");
    changes(&scene);
    scene.plane.0.borrow_mut().handed_over = true;
    let later = Instant::now() + Duration::from_secs(2);
    scene.hear(slice("web", 8081));
    scene.syncer.act(later);
    assert_eq!(changes(&scene), ["all flows", "pass"]);
    scene.plane.0.borrow_mut().handed_over = true;
    let look = later + Duration::from_secs(31);
    scene.syncer.act(look);
    assert_eq!(changes(&scene), ["all flows", "pass"]);
    scene.syncer.act(look + Duration::from_secs(31));
    assert_eq!(changes(&scene), [""; 0], "once");
}

#[test]
fn while_a_service_fails_the_data_plane_before_stays_for_a_period() {
    let mut scene = Scene::started("mode: nftables");
    let web = lb_model::ServiceName::new("default", "web");
    scene.plane.0.borrow_mut().failing.insert(web);
    changes(&scene);
    let later = Instant::now() + Duration::from_secs(2);
    scene.syncer.configure(settings("mode: iptables"), later);
    scene.hear(slice("web", 8081));
    scene.syncer.act(later);
    assert_eq!(changes(&scene), ["open iptables", "pass"]);
    scene.syncer.act(later + Duration::from_secs(31));
    let changes = changes(&scene);
    assert!(
        changes.contains(&"clear all but iptables".to_owned()),
        "{changes:?}"
    );
}

#[test]
fn periods_masquerade_bit_and_node_ports_change_live() {
    let mut scene = Scene::started("");
    let now = Instant::now() + Duration::from_secs(1);
    let new =
        "nftables: {masqueradeBit: 9, syncPeriod: 2h, minSyncPeriod: 1h}\nbindAddress: 10.9.9.9";
    scene.syncer.configure(settings(new), now);
    let due = scene.syncer.next_due();
    assert!(
        due > now + Duration::from_secs(3500),
        "an hour between passes from now on"
    );
    scene.syncer.act(due);
    let told = scene.plane.0.borrow();
    let last = told.settings.last().unwrap();
    assert_eq!(last.masquerade_bit, 9);
    assert!(
        last.node_port_addresses
            .contains(&"10.9.9.9".parse().unwrap())
    );
}

#[test]
fn with_node_cidr_the_first_pass_waits_for_the_pod_cidrs() {
    let mut scene = Scene::new("detectLocalMode: NodeCIDR");
    for event in [
        Event::ServiceListBegins,
        Event::ServiceListEnds,
        Event::SliceListBegins,
        Event::SliceListEnds,
        Event::Node(Node {
            pod_cidrs: Vec::new(),
            ..node("")
        }),
    ] {
        scene.hear(event);
    }
    scene.syncer.act(Instant::now() + Duration::from_secs(60));
    assert_eq!(scene.passes(), 0);
    assert!(scene.statusz().contains("Waiting for: spec.podCIDRs"));
    scene.hear(Event::Node(node("10.244.1.0/24")));
    scene.syncer.act(Instant::now());
    assert_eq!(scene.passes(), 1);
    assert!(!scene.statusz().contains("Waiting"));
}

fn complaint(object: &str) -> Complaint {
    Complaint {
        object: object.to_owned(),
        field: "spec.ports".to_owned(),
        value: "http".to_owned(),
        accepted: "ports",
    }
}

#[test]
fn an_object_that_cannot_be_used_is_named_until_it_is_mended_or_gone() {
    let mut scene = Scene::started("");
    let bad = |name: &str, ip: &str| Heard {
        at: Instant::now(),
        event: Some(service(name, ip)),
        complaints: vec![complaint(&format!("Service default/{name}"))],
    };
    scene.syncer.hear(bad("bad", "10.96.0.9"));
    scene.syncer.hear(bad("worse", "10.96.0.10"));
    scene.syncer.hear(bad("gone", "10.96.0.11"));
    let page = || scene.metrics.encode(Mode::Nftables).unwrap();
    let series = r#"causeway_object_unusable_fields{object="Service default/bad"} 1"#;
    assert!(page().contains(series), "{}", page());
    assert!(
        page().contains("causeway_objects_with_unusable_fields 3"),
        "{}",
        page()
    );
    let line = r#"  Service default/worse: spec.ports: "http"; accepted: ports"#;
    assert!(scene.statusz().contains(line), "{}", scene.statusz());

    scene.hear(service("bad", "10.96.0.9"));
    scene.hear(Event::ServiceGone {
        namespace: "default".to_owned(),
        name: "gone".to_owned(),
    });
    let page = || scene.metrics.encode(Mode::Nftables).unwrap();
    assert!(!page().contains(series), "{}", page());
    assert!(
        page().contains("causeway_objects_with_unusable_fields 1"),
        "{}",
        page()
    );
    scene.hear(Event::ServiceListBegins);
    scene.hear(Event::ServiceListEnds);
    let page = scene.metrics.encode(Mode::Nftables).unwrap();
    assert!(
        page.contains("causeway_objects_with_unusable_fields 0"),
        "{page}"
    );
}

#[test]
fn a_claim_in_vain_is_named_until_the_other_claim_ends() {
    let mut scene = Scene::started("");
    let claims = |name: &str, ip: &str| {
        let Event::Service(mut said) = service(name, ip) else {
            panic!("no Service");
        };
        said.external_ips = vec!["203.0.113.1".to_owned()];
        Event::Service(said)
    };
    scene.hear(claims("first", "10.96.0.8"));
    scene.hear(claims("second", "10.96.0.9"));
    let line = r#"  Service default/second: spec.externalIPs: "203.0.113.1 tcp/80, which Service default/first has""#;
    assert!(scene.statusz().contains(line), "{}", scene.statusz());
    // Said again, in a list or not, it is as vain as before.
    scene.hear(claims("second", "10.96.0.9"));
    assert!(scene.statusz().contains(line), "{}", scene.statusz());
    let page = || scene.metrics.encode(Mode::Nftables).unwrap();
    let series = r#"causeway_object_unusable_fields{object="Service default/second"} 1"#;
    assert!(page().contains(series), "{}", page());
    assert!(
        page().contains("causeway_unusable_fields_total 1\n"),
        "{}",
        page()
    );

    scene.hear(Event::ServiceGone {
        namespace: "default".to_owned(),
        name: "first".to_owned(),
    });
    let status = scene.statusz();
    assert!(!status.contains("203.0.113.1"), "{status}");
    let page = scene.metrics.encode(Mode::Nftables).unwrap();
    assert!(!page.contains(series), "{page}");
    assert!(
        page.contains("causeway_objects_with_unusable_fields 0"),
        "{page}"
    );
}

#[test]
fn flows_are_looked_at_again_and_nobody_waits_for_that() {
    let mut scene = Scene::started("nftables: {minSyncPeriod: 10s}");
    let now = Instant::now() + Duration::from_secs(11);
    let again = now + Duration::from_secs(12);
    scene.plane.0.borrow_mut().look_again = Some(again);
    scene.hear(slice("web", 8081));
    scene.syncer.act(now);
    assert_eq!((scene.passes(), scene.syncer.next_due()), (2, again));
    scene.syncer.act(again);
    assert_eq!(scene.passes(), 3);
    assert_eq!(
        scene.plane.0.borrow().passes.last(),
        Some(&std::collections::BTreeSet::new())
    );
    // A change right after it goes at once, and nothing is left to be done.
    scene.hear(slice("web", 8082));
    scene.syncer.act(again);
    assert_eq!(scene.passes(), 4);
    assert!(scene.syncer.next_due() > again + Duration::from_secs(5));
}

#[test]
fn policy_local_without_local_endpoints_is_counted_and_the_balancer_told() {
    let mut scene = Scene::started("");
    let balanced = Service {
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        kind: "LoadBalancer".to_owned(),
        cluster_ips: vec!["10.96.0.1".to_owned()],
        external_traffic_policy: "Local".to_owned(),
        internal_traffic_policy: "Local".to_owned(),
        health_check_node_port: 32_000,
        ports: vec![ServicePort {
            port: 80,
            node_port: 30_080,
            ..ServicePort::default()
        }],
        ..Service::default()
    };
    scene.hear(Event::Service(balanced));
    scene.syncer.act(Instant::now() + Duration::from_secs(1));
    let page = scene.metrics.encode(Mode::Nftables).unwrap();
    for policy in ["internal", "external"] {
        let labels = format!(r#"{{ip_family="IPv4",traffic_policy="{policy}"}}"#);
        let series = format!("kubeproxy_sync_proxy_rules_no_local_endpoints_total{labels} 1");
        assert!(page.contains(&series), "{page}");
    }
    let wanted = scene.check_ports.borrow().clone();
    let checks: Vec<_> = wanted
        .checks
        .values()
        .map(|c| (c.port.get(), c.local_endpoints))
        .collect();
    assert_eq!(checks, [(32_000, 0)]);
    assert_eq!(wanted.addresses, ["10.0.0.1".parse().unwrap()].into());

    scene.hear(service("web", "10.96.0.1"));
    scene.syncer.act(Instant::now() + Duration::from_secs(2));
    assert!(scene.check_ports.borrow().checks.is_empty());
    let page = scene.metrics.encode(Mode::Nftables).unwrap();
    let series = r#"no_local_endpoints_total{ip_family="IPv4",traffic_policy="external"} 0"#;
    assert!(page.contains(series), "{page}");
}

#[test]
fn the_way_from_a_change_to_the_kernel_is_measured_in_the_family_of_its_slice() {
    let mut scene = Scene::started("");
    let Event::Slice(mut changed) = slice("web", 8081) else {
        panic!("no slice");
    };
    let soon = std::time::SystemTime::now() + Duration::from_secs(1);
    changed.trigger_time = Some(Timestamp::try_from(soon).unwrap().to_string());
    scene.hear(Event::Slice(changed));
    scene.syncer.act(Instant::now() + Duration::from_secs(1));
    let page = scene.metrics.encode(Mode::Nftables).unwrap();
    for (family, count) in [("IPv4", 1), ("IPv6", 0)] {
        let name = "kubeproxy_network_programming_duration_seconds_count";
        let series = format!("{name}{{ip_family=\"{family}\"}} {count}\n");
        assert!(page.contains(&series), "{page}");
    }
}
