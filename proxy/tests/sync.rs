//! When passes happen, with a data plane that only remembers and the clock in the test's hands.

#![expect(
    clippy::unwrap_used,
    reason = "what these helpers cannot do fails the test"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proxy::backend::{
    BackendError, DataPlane, FamilyReport, Opened, PassReport, PlaneSettings,
};
use causeway_proxy::config::Settings;
use causeway_proxy::config::said::KubeProxyConfiguration;
use causeway_proxy::health::Health;
use causeway_proxy::metrics::Metrics;
use causeway_proxy::sync::Syncer;
use causeway_proxy::watch::Heard;
use lb_model::said::{EndpointSlice, Event, Node, Service, ServicePort, SliceEndpoint, SlicePort};
use lb_model::{Family, LocalDetector, Model, ServiceName};

/// What the data plane was told, and what it is to do next.
#[derive(Debug, Default)]
struct Told {
    passes: Vec<BTreeSet<ServiceName>>,
    settings: Vec<PlaneSettings>,
    failing: BTreeSet<ServiceName>,
    drifted: bool,
}

#[derive(Clone, Debug, Default)]
struct Plane(Rc<RefCell<Told>>);

impl DataPlane for Plane {
    fn sync(&mut self, _model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        let mut told = self.0.borrow_mut();
        told.passes.push(services.clone());
        let failed = services
            .intersection(&told.failing)
            .map(|name| (name.clone(), refused()));
        let report = FamilyReport {
            failed: failed.collect(),
            operations: 1,
            ..FamilyReport::default()
        };
        PassReport {
            families: BTreeMap::from([(Family::V4, report)]),
            flows: BTreeMap::new(),
        }
    }
    fn set_settings(&mut self, settings: PlaneSettings) {
        self.0.borrow_mut().settings.push(settings);
    }
    fn check(&mut self) -> Result<bool, BackendError> {
        Ok(std::mem::take(&mut self.0.borrow_mut().drifted))
    }
}

fn refused() -> BackendError {
    BackendError::Lacks(None)
}

struct Scene {
    syncer: Syncer,
    plane: Plane,
    metrics: Metrics,
    health: Arc<Health>,
}

impl Scene {
    fn new(yaml: &str) -> Self {
        let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
        let (said, warnings) = causeway_proxy::config::read(&format!("{head}{yaml}")).unwrap();
        assert_eq!(warnings, [""; 0]);
        Self::with(&said)
    }

    fn with(said: &KubeProxyConfiguration) -> Self {
        let settings = Settings::understand(said, None, "node-1").unwrap();
        let (plane, metrics) = (Plane::default(), Metrics::new());
        let health = Arc::new(Health::new(settings.timing.sync_period * 2));
        let syncer = Syncer::new(
            &settings,
            Opened {
                plane: Box::new(plane.clone()),
                families: vec![Family::V4],
            },
            metrics.clone(),
            Arc::clone(&health),
        );
        Self {
            syncer,
            plane,
            metrics,
            health,
        }
    }

    fn hear(&mut self, event: Event) {
        self.syncer.hear(Heard {
            at: Instant::now(),
            event: Some(event),
            complaints: Vec::new(),
        });
    }

    /// Node and lists are in, the first pass is done.
    fn started(yaml: &str) -> Self {
        let mut scene = Self::new(yaml);
        scene.hear(Event::Node(node("10.244.1.0/24")));
        scene.hear(Event::ServiceListBegins);
        scene.hear(service("web", "10.96.0.1"));
        scene.hear(service("other", "10.96.0.2"));
        scene.hear(Event::ServiceListEnds);
        scene.hear(Event::SliceListBegins);
        scene.hear(slice("web", 8080));
        scene.hear(Event::SliceListEnds);
        scene.syncer.act(Instant::now());
        assert_eq!(scene.passes(), 1);
        scene
    }

    fn passes(&self) -> usize {
        self.plane.0.borrow().passes.len()
    }

    fn last_pass(&self) -> Vec<String> {
        let told = self.plane.0.borrow();
        told.passes
            .last()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

fn service(name: &str, ip: &str) -> Event {
    Event::Service(Service {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        cluster_ips: vec![ip.to_owned()],
        ports: vec![ServicePort {
            port: 80,
            ..ServicePort::default()
        }],
        ..Service::default()
    })
}

fn slice(service: &str, port: i32) -> Event {
    Event::Slice(EndpointSlice {
        namespace: "default".to_owned(),
        name: format!("{service}-1"),
        service: service.to_owned(),
        address_type: "IPv4".to_owned(),
        endpoints: vec![SliceEndpoint {
            addresses: vec!["10.244.1.7".to_owned()],
            ..SliceEndpoint::default()
        }],
        ports: vec![SlicePort {
            port: Some(port),
            ..SlicePort::default()
        }],
        ..EndpointSlice::default()
    })
}

fn node(pod_cidr: &str) -> Node {
    Node {
        name: "node-1".to_owned(),
        pod_cidrs: vec![pod_cidr.to_owned()],
        addresses: vec!["10.0.0.1".to_owned()],
        ..Node::default()
    }
}

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
fn by_default_a_change_waits_ten_milliseconds_at_most() {
    let mut scene = Scene::started("");
    scene.hear(slice("web", 8081));
    assert!(scene.syncer.next_due() <= Instant::now() + Duration::from_millis(10));
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
    let page = scene.metrics.encode().unwrap();
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
            .encode()
            .unwrap()
            .contains("causeway_tables_replaced_total 1")
    );
}
