//! A syncer whose data planes only remember.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway_proxy::backend::OpenError;
use causeway_proxy::backend::{
    BackendError, DataPlane, FamilyReport, FlowReport, Opened, PassReport, PlaneSettings,
};
use causeway_proxy::config::{Mode, Settings};
use causeway_proxy::health::{CheckPorts, Health, Status};
use causeway_proxy::metrics::Metrics;
use causeway_proxy::sync::{Kernel, Syncer, Told as Outputs};
use causeway_proxy::watch::Heard;
use lb_model::said::{EndpointSlice, Event, Node, Service, ServicePort, SliceEndpoint, SlicePort};
use lb_model::{Family, Model, ServiceName};
use serde_json::Value;
use tokio::sync::watch;

/// What the data plane was told, and what it is to do next.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) passes: Vec<BTreeSet<ServiceName>>,
    pub(crate) settings: Vec<PlaneSettings>,
    pub(crate) failing: BTreeSet<ServiceName>,
    pub(crate) drifted: bool,
    /// How long a pass takes.
    pub(crate) takes: Duration,
    /// When it wants to look at flows again, said once.
    pub(crate) look_again: Option<Instant>,
    /// Connections came over, said once.
    pub(crate) handed_over: bool,
    /// What happened to data planes, in order.
    pub(crate) changes: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Plane(pub(crate) Rc<RefCell<Told>>);

impl DataPlane for Plane {
    fn sync(&mut self, _model: &Model, services: &BTreeSet<ServiceName>) -> PassReport {
        let mut told = self.0.borrow_mut();
        std::thread::sleep(told.takes);
        told.passes.push(services.clone());
        told.changes.push("pass".to_owned());
        let failed = services
            .intersection(&told.failing)
            .map(|name| (name.clone(), refused()));
        let report = FamilyReport {
            failed: failed.collect(),
            operations: 1,
            ..FamilyReport::default()
        };
        let flows = told.look_again.take().map(|at| {
            let report = FlowReport {
                look_again: Some(at),
                ..FlowReport::default()
            };
            (Family::V4, report)
        });
        PassReport {
            families: BTreeMap::from([(Family::V4, report)]),
            flows: flows.into_iter().collect(),
            look_again: None,
        }
    }
    fn set_settings(&mut self, settings: PlaneSettings) {
        self.0.borrow_mut().settings.push(settings);
    }
    fn check(&mut self) -> Result<bool, BackendError> {
        Ok(std::mem::take(&mut self.0.borrow_mut().drifted))
    }
    fn recheck_flows(&mut self) {
        self.0.borrow_mut().changes.push("all flows".to_owned());
    }
}

impl Kernel for Plane {
    fn open(&mut self, modes: &[Mode], _settings: &Settings) -> Result<Opened, OpenError> {
        let change = format!("open {}", modes[0]);
        self.0.borrow_mut().changes.push(change);
        Ok(Opened {
            mode: modes[0],
            plane: Box::new(self.clone()),
            families: vec![Family::V4],
        })
    }
    fn clear_others(&mut self, kept: Mode) {
        let change = format!("clear all but {kept}");
        self.0.borrow_mut().changes.push(change);
    }
    fn handed_over(&mut self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().handed_over)
    }
}

fn refused() -> BackendError {
    BackendError::Lacks(None)
}

pub(crate) struct Scene {
    pub(crate) syncer: Syncer,
    pub(crate) plane: Plane,
    pub(crate) metrics: Metrics,
    pub(crate) health: Arc<Health>,
    pub(crate) status: Arc<Status>,
    pub(crate) check_ports: watch::Sender<CheckPorts>,
}

pub(crate) fn settings(yaml: &str) -> Settings {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    let (said, warnings) = causeway_proxy::config::read(&format!("{head}{yaml}")).unwrap();
    assert_eq!(warnings, [""; 0]);
    Settings::understand(&said, None, "node-1").unwrap()
}

impl Scene {
    pub(crate) fn new(yaml: &str) -> Self {
        let settings = settings(yaml);
        let mut plane = Plane::default();
        let told = Outputs {
            metrics: Metrics::new(),
            health: Arc::new(Health::new(Duration::from_secs(60))),
            status: Arc::new(Status::new(
                "node-1",
                Mode::Nftables,
                Value::Null,
                BTreeMap::new(),
            )),
            check_ports: watch::Sender::default(),
        };
        let opened = plane.open(&settings.modes, &settings).unwrap();
        let syncer = Syncer::new(&settings, opened, Box::new(plane.clone()), told.clone());
        Self {
            syncer,
            plane,
            metrics: told.metrics,
            health: told.health,
            status: told.status,
            check_ports: told.check_ports,
        }
    }

    pub(crate) fn hear(&mut self, event: Event) {
        self.syncer.hear(Heard {
            at: Instant::now(),
            event: Some(event),
            complaints: Vec::new(),
        });
    }

    /// Node and lists are in, the first pass is done.
    pub(crate) fn started(yaml: &str) -> Self {
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

    pub(crate) fn statusz(&self) -> String {
        self.status.statusz(&self.health.last_updated())
    }

    pub(crate) fn passes(&self) -> usize {
        self.plane.0.borrow().passes.len()
    }

    pub(crate) fn last_pass(&self) -> Vec<String> {
        let told = self.plane.0.borrow();
        told.passes
            .last()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

pub(crate) fn service(name: &str, ip: &str) -> Event {
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

pub(crate) fn slice(service: &str, port: i32) -> Event {
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

pub(crate) fn node(pod_cidr: &str) -> Node {
    Node {
        name: "node-1".to_owned(),
        pod_cidrs: vec![pod_cidr.to_owned()],
        addresses: vec!["10.0.0.1".to_owned()],
        ..Node::default()
    }
}
