//! When passes happen, with a data plane that only remembers and the clock in the test's hands.

#![expect(
    clippy::unwrap_used,
    reason = "what these helpers cannot do fails the test"
)]

mod changes;
mod scene;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use causeway_proxy::config::Mode;
use lb_model::said::Event;
use lb_model::{LocalDetector, ServiceName};

use scene::{Scene, node, service, slice};

#[test]
fn nothing_happens_before_lists_and_node_are_in() {
    let mut scene = Scene::new("");
    let later = Instant::now() + Duration::from_secs(10);
    scene.hear(Event::ServiceListBegins);
    scene.hear(service("web", "10.96.0.1"));
    scene.hear(Event::ServiceListEnds);
    scene.hear(Event::SliceListBegins);
    scene.hear(slice("web", 8080));
    scene.syncer.act(later);
    assert_eq!(scene.passes(), 0, "the slices are not all in");
    scene.hear(Event::SliceListEnds);
    scene.syncer.act(Instant::now());
    assert_eq!(scene.passes(), 0, "the Node may still come");
    assert!(scene.syncer.next_due() < Instant::now() + Duration::from_secs(3));
    scene.hear(Event::Node(node("10.244.1.0/24")));
    assert!(scene.syncer.next_due() <= Instant::now());
    scene.syncer.act(Instant::now());
    assert_eq!(scene.last_pass(), ["default/web"]);
}

#[test]
fn without_a_node_the_wait_ends() {
    let mut scene = Scene::new("");
    for event in [
        Event::ServiceListBegins,
        Event::ServiceListEnds,
        Event::SliceListBegins,
        Event::SliceListEnds,
    ] {
        scene.hear(event);
    }
    scene.syncer.act(Instant::now() + Duration::from_secs(3));
    assert_eq!(scene.passes(), 1);
}

#[test]
fn the_first_change_goes_at_once_and_further_ones_are_gathered() {
    let mut scene = Scene::started("nftables: {minSyncPeriod: 2s}");
    let idle = Instant::now() + Duration::from_secs(5);
    scene.hear(slice("web", 8081));
    assert!(scene.syncer.next_due() <= Instant::now() + Duration::from_secs(2));
    scene.syncer.act(idle);
    assert_eq!(scene.last_pass(), ["default/web"]);
    scene.hear(slice("web", 8082));
    scene.hear(service("other", "10.96.0.3"));
    scene.syncer.act(Instant::now() + Duration::from_secs(1));
    assert_eq!(scene.passes(), 2, "within the minimum period");
    scene.syncer.act(Instant::now() + Duration::from_secs(2));
    assert_eq!(scene.passes(), 3);
    assert_eq!(scene.last_pass(), ["default/other", "default/web"]);
}

#[test]
fn by_default_a_service_and_its_endpoints_do_not_wait_for_each_other() {
    let mut scene = Scene::started("");
    // A pass that takes no time, by the test's clock.
    scene.hear(service("new", "10.96.0.3"));
    scene.syncer.act(Instant::now() + Duration::from_secs(1));
    scene.hear(slice("new", 8080));
    assert!(scene.syncer.next_due() <= Instant::now());
    scene.syncer.act(Instant::now());
    assert_eq!(
        (scene.passes(), scene.last_pass()),
        (3, vec!["default/new".to_owned()])
    );
}

#[test]
fn after_a_pass_that_took_long_changes_are_gathered_for_ten_milliseconds() {
    let [takes, longest] = [3, 10].map(Duration::from_millis);
    let mut scene = Scene::started("");
    scene.plane.0.borrow_mut().takes = takes;
    scene.hear(slice("web", 8081));
    std::thread::sleep(longest);
    let began = Instant::now();
    scene.syncer.act(began);
    assert_eq!(scene.passes(), 2);
    scene.hear(slice("web", 8082));
    let due = scene.syncer.next_due();
    assert!(due >= began + takes + longest);
    assert!(due <= Instant::now() + longest);
}

#[test]
fn what_failed_is_tried_again_by_itself_and_ever_more_rarely() {
    let mut scene = Scene::started("");
    let web = ServiceName::new("default", "web");
    scene.plane.0.borrow_mut().failing.insert(web.clone());
    scene.hear(slice("web", 8081));
    scene.hear(service("other", "10.96.0.3"));
    let mut waits = Vec::new();
    scene.syncer.act(Instant::now() + Duration::from_secs(1));
    assert_eq!(scene.last_pass(), ["default/other", "default/web"]);
    for _ in 0..6 {
        let due = scene.syncer.next_due();
        waits.push(due.saturating_duration_since(Instant::now()));
        scene.syncer.act(due);
        assert_eq!(scene.last_pass(), ["default/web"], "only what failed");
    }
    assert!(waits[0] <= Duration::from_millis(50), "{waits:?}");
    assert!(waits[5] >= Duration::from_millis(1000), "{waits:?}");
    let page = scene.metrics.encode(Mode::Nftables).unwrap();
    assert!(page.contains("causeway_sync_retries_total 6"), "{page}");
    assert!(
        page.contains("sync_proxy_rules_endpoint_changes_pending 1"),
        "{page}"
    );
    scene.plane.0.borrow_mut().failing.clear();
    let due = scene.syncer.next_due();
    scene.syncer.act(due);
    assert!(
        scene.syncer.next_due() > Instant::now() + Duration::from_secs(20),
        "nothing is left"
    );
    assert!(scene.health.healthz().1);
}

#[test]
fn the_nodes_pod_networks_and_addresses_reach_the_data_plane() {
    let mut scene = Scene::started("detectLocalMode: NodeCIDR");
    let told = |scene: &Scene| scene.plane.0.borrow().settings.clone();
    let cidr = |text: &str| LocalDetector::Cidr(text.parse().unwrap());
    assert_eq!(told(&scene).len(), 1);
    assert_eq!(told(&scene)[0].detector, cidr("10.244.1.0/24"));
    assert_eq!(
        told(&scene)[0].node_port_addresses,
        BTreeSet::from(["10.0.0.1".parse().unwrap()])
    );
    scene.hear(Event::Node(node("10.244.2.0/24")));
    scene.syncer.act(Instant::now() + Duration::from_secs(1));
    assert_eq!(told(&scene)[1].detector, cidr("10.244.2.0/24"));
    scene.hear(Event::Node(node("10.244.2.0/24")));
    scene.syncer.act(Instant::now() + Duration::from_secs(1));
    assert_eq!(told(&scene).len(), 2, "the same again is no news");
}

#[test]
fn drift_is_put_right_within_one_period() {
    let mut scene = Scene::started("nftables: {syncPeriod: 5s}");
    let period = Duration::from_secs(5);
    scene.syncer.act(Instant::now() + period);
    assert_eq!(scene.passes(), 1, "nothing drifted");
    scene.plane.0.borrow_mut().drifted = true;
    scene
        .syncer
        .act(Instant::now() + 2 * period + Duration::from_secs(1));
    assert_eq!(scene.passes(), 2);
    assert!(
        scene
            .metrics
            .encode(Mode::Nftables)
            .unwrap()
            .contains("causeway_drift_repaired_total 1")
    );
}
