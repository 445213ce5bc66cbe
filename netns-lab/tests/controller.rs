//! The EndpointSlice controller on a store.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use netns_lab::apiserver::{Deletion, Object, Part, Resource, Store};
use netns_lab::controller::EndpointSliceController;
use serde_json::{Value, json};

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const SHOP: &str = "shop";

struct Cluster {
    store: Store,
    _controller: EndpointSliceController,
}

impl Cluster {
    fn start() -> Self {
        let store = Store::default();
        store
            .create(Resource::Namespace, json!({"metadata": {"name": SHOP}}))
            .unwrap();
        for (node, zone) in [("worker-1", "z1"), ("worker-2", "z2")] {
            let labels = json!({"topology.kubernetes.io/zone": zone});
            let node = json!({"metadata": {"name": node, "labels": labels}});
            store.create(Resource::Node, node).unwrap();
        }
        let controller = EndpointSliceController::start(store.clone()).unwrap();
        Self {
            store,
            _controller: controller,
        }
    }

    fn service(&self, name: &str, spec: &Value) {
        let mut service = json!({"metadata": {"name": name, "namespace": SHOP},
            "spec": {"selector": {"app": name}, "ports": [{"port": 6379, "targetPort": "redis"}]}});
        for (field, value) in spec.as_object().unwrap() {
            service["spec"][field] = value.clone();
        }
        self.store.create(Resource::Service, service).unwrap();
    }

    fn pod(&self, name: &str, app: &str, node: &str, address: &str) {
        let ports = json!([{"name": "redis", "containerPort": 6380}]);
        let pod = json!({
            "metadata": {"name": name, "namespace": SHOP, "labels": {"app": app}},
            "spec": {"nodeName": node, "containers": [{"name": "redis", "ports": ports}]},
        });
        self.store.create(Resource::Pod, pod).unwrap();
        let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                            "conditions": [{"type": "Ready", "status": "True"}]});
        self.status(name, &status);
    }

    fn status(&self, name: &str, status: &Value) {
        let set = |pod: &mut Value| {
            pod["status"] = status.clone();
            Ok(())
        };
        self.store
            .modify(Resource::Pod, SHOP, name, Part::Status, set)
            .unwrap();
    }

    fn slices(&self, service: &str) -> Vec<Object> {
        let all = self.store.list(Resource::EndpointSlice, Some(SHOP)).objects;
        all.into_iter()
            .filter(|slice| slice.label("kubernetes.io/service-name") == Some(service))
            .collect()
    }

    /// `address ready|unready|terminating` of every endpoint.
    fn endpoints(&self, service: &str) -> Vec<String> {
        let slices = self.slices(service);
        let values: Vec<Value> = slices.iter().map(Object::value).collect();
        let endpoints = values
            .iter()
            .flat_map(|slice| slice["endpoints"].as_array().unwrap());
        let mut shown: Vec<String> = endpoints
            .map(|endpoint| {
                let conditions = &endpoint["conditions"];
                let state = match (&conditions["ready"], &conditions["terminating"]) {
                    (Value::Bool(true), _) => "ready",
                    (_, Value::Bool(true)) => "terminating",
                    _ => "unready",
                };
                format!("{} {state}", endpoint["addresses"][0].as_str().unwrap())
            })
            .collect();
        shown.sort();
        shown
    }

    fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn wait_for(&self, service: &str, expected: &[&str]) {
        let start = Instant::now();
        while self.endpoints(service) != expected || self.slices(service).is_empty() {
            let actual = self.endpoints(service);
            assert!(start.elapsed() < PATIENCE, "{actual:?} is not {expected:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn endpoints_follow_pods_as_they_come_change_and_go() {
    let cluster = Cluster::start();
    cluster.service("redis", &json!({}));
    cluster.wait_for("redis", &[]);
    cluster.pod("a", "redis", "worker-1", "10.1.1.2");
    cluster.pod("b", "redis", "worker-2", "10.1.2.2");
    cluster.pod("other", "web", "worker-2", "10.1.2.3");
    cluster.wait_for("redis", &["10.1.1.2 ready", "10.1.2.2 ready"]);
    cluster
        .store
        .delete(Resource::Pod, SHOP, "a", &Deletion::default())
        .unwrap();
    cluster.wait_for("redis", &["10.1.1.2 terminating", "10.1.2.2 ready"]);
    cluster
        .store
        .delete(Resource::Pod, SHOP, "a", &Deletion::now())
        .unwrap();
    cluster.wait_for("redis", &["10.1.2.2 ready"]);
    cluster.status("b", &json!({"phase": "Running", "podIP": "10.1.2.2"}));
    cluster.wait_for("redis", &["10.1.2.2 unready"]);
    let relabel = |pod: &mut Value| {
        pod["metadata"]["labels"]["app"] = json!("web");
        Ok(())
    };
    cluster
        .store
        .modify(Resource::Pod, SHOP, "b", Part::Main, relabel)
        .unwrap();
    cluster.wait_for("redis", &[]);
    cluster
        .store
        .delete(Resource::Service, SHOP, "redis", &Deletion::default())
        .unwrap();
    cluster.wait_until("its slices go", |cluster| {
        cluster.slices("redis").is_empty()
    });
}

#[test]
fn a_slice_says_where_its_endpoints_are() {
    let cluster = Cluster::start();
    cluster.service("redis", &json!({}));
    cluster.pod("a", "redis", "worker-1", "10.1.1.2");
    cluster.pod("b", "redis", "worker-2", "10.1.2.2");
    cluster.wait_for("redis", &["10.1.1.2 ready", "10.1.2.2 ready"]);
    let slices = cluster.slices("redis");
    assert_eq!(slices.len(), 1, "{slices:?}");
    let slice = slices[0].value();
    assert_eq!(
        slice["ports"],
        json!([{"name": "", "port": 6380, "protocol": "TCP"}])
    );
    let zones: Vec<&Value> = slice["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|endpoint| &endpoint["zone"])
        .collect();
    assert_eq!(zones, ["z1", "z2"]);
    let managed_by = slices[0].label("endpointslice.kubernetes.io/managed-by");
    assert_eq!(managed_by, Some("endpointslice-controller.k8s.io"));
    let trigger = "endpoints.kubernetes.io/last-change-trigger-time";
    assert!(
        slice["metadata"]["annotations"][trigger]
            .as_str()
            .unwrap()
            .ends_with('Z')
    );
}

#[test]
fn a_headless_service_is_marked_and_takes_unready_pods_if_told_to() {
    let cluster = Cluster::start();
    cluster.service(
        "redis",
        &json!({"clusterIP": "None", "publishNotReadyAddresses": true}),
    );
    cluster.pod("a", "redis", "worker-1", "10.1.1.2");
    cluster.status("a", &json!({"phase": "Running", "podIP": "10.1.1.2"}));
    cluster.wait_for("redis", &["10.1.1.2 ready"]);
    assert_eq!(
        cluster.slices("redis")[0].label("service.kubernetes.io/headless"),
        Some("")
    );
}

#[test]
fn each_family_has_its_slice() {
    let cluster = Cluster::start();
    cluster.service("redis", &json!({"ipFamilyPolicy": "PreferDualStack"}));
    cluster.pod("a", "redis", "worker-1", "10.1.1.2");
    let both = json!([{"ip": "10.1.1.2"}, {"ip": "fd00::2"}]);
    cluster.status("a", &json!({"phase": "Running", "podIPs": both}));
    cluster.wait_for("redis", &["10.1.1.2 unready", "fd00::2 unready"]);
    let slices = cluster.slices("redis");
    let mut families: Vec<Value> = slices
        .iter()
        .map(|slice| slice.value()["addressType"].clone())
        .collect();
    families.sort_by_key(Value::to_string);
    assert_eq!(families, ["IPv4", "IPv6"]);
}

#[test]
fn what_others_break_is_mended_and_what_is_theirs_is_left() {
    let cluster = Cluster::start();
    let theirs = json!({"metadata": {"name": "theirs", "namespace": SHOP,
                                     "labels": {"kubernetes.io/service-name": "redis"}},
                        "addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]});
    let theirs = cluster
        .store
        .create(Resource::EndpointSlice, theirs)
        .unwrap();
    cluster.service("redis", &json!({}));
    cluster.pod("a", "redis", "worker-1", "10.1.1.2");
    cluster.wait_for("redis", &["10.1.1.2 ready", "192.0.2.1 unready"]);
    let ours = cluster
        .slices("redis")
        .into_iter()
        .find(|slice| slice.name() != "theirs")
        .unwrap();
    let break_it = |slice: &mut Value| {
        slice["endpoints"] = json!([]);
        Ok(())
    };
    let resource = Resource::EndpointSlice;
    cluster
        .store
        .modify(resource, SHOP, ours.name(), Part::Main, break_it)
        .unwrap();
    cluster.wait_for("redis", &["10.1.1.2 ready", "192.0.2.1 unready"]);
    cluster
        .store
        .delete(resource, SHOP, ours.name(), &Deletion::default())
        .unwrap();
    cluster.wait_for("redis", &["10.1.1.2 ready", "192.0.2.1 unready"]);
    let now = cluster.store.get(resource, SHOP, "theirs").unwrap();
    assert_eq!(now.version(), theirs.version());

    // Once everything is in place, nothing is written any more.
    cluster.wait_until("quiet", |cluster| {
        let version = cluster.store.version();
        std::thread::sleep(Duration::from_millis(200));
        cluster.store.version() == version
    });
}

#[test]
fn a_controller_that_starts_late_adopts_what_is_there() {
    let cluster = Cluster::start();
    cluster.service("redis", &json!({}));
    for number in 0..120 {
        let address = format!("10.1.1.{number}");
        cluster.pod(&format!("p{number}"), "redis", "worker-1", &address);
    }
    cluster.wait_until("120 endpoints", |cluster| {
        cluster.endpoints("redis").len() == 120
    });
    let Cluster {
        store,
        _controller: controller,
    } = cluster;
    drop(controller);
    let version = store.version();
    store
        .delete(Resource::Pod, SHOP, "p7", &Deletion::now())
        .unwrap();
    let controller = EndpointSliceController::start(store.clone()).unwrap();
    let cluster = Cluster {
        store,
        _controller: controller,
    };
    cluster.wait_until("119 endpoints", |cluster| {
        cluster.endpoints("redis").len() == 119
    });
    assert_eq!(cluster.slices("redis").len(), 2);
    assert_eq!(
        cluster.store.version(),
        version + 2,
        "one pod deleted, one slice written"
    );
}
