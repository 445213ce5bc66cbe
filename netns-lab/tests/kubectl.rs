//! The real kubectl, whichever version is on PATH, against the API server on loopback.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netns_lab::apiserver::{ApiServer, Deletion, Resource, Store, kubeconfig};
use serde_json::{Value, json};
use tempfile::TempDir;

const MANIFEST: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  name: shop
---
apiVersion: v1
kind: Service
metadata:
  name: redis-service
  namespace: shop
spec:
  selector: {app: redis}
  ports:
  - {name: redis, port: 6379}
  - {name: metrics, port: 9121, targetPort: metrics}
---
apiVersion: v1
kind: Pod
metadata:
  name: redis-0
  namespace: shop
  labels: {app: redis}
spec:
  nodeName: worker-1
  containers:
  - {name: redis, image: redis}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: by-hand
  namespace: shop
  labels: {kubernetes.io/service-name: redis-service}
addressType: IPv4
ports:
- {name: redis, port: 6379, protocol: TCP}
endpoints:
- addresses: [10.1.0.4]
";

struct Cluster {
    store: Store,
    home: TempDir,
    _server: ApiServer,
}

impl Cluster {
    fn start() -> Self {
        let store = Store::default();
        let server = ApiServer::start(store.clone()).unwrap();
        let address = server
            .serve(TcpListener::bind("127.0.0.1:0").unwrap())
            .unwrap();
        let home = TempDir::new().unwrap();
        let config = kubeconfig(&format!("http://{address}"));
        std::fs::write(home.path().join("config"), config).unwrap();
        Self {
            store,
            home,
            _server: server,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"));
        command
    }

    /// What kubectl printed, errors included, and whether it succeeded.
    fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl must be installed (Debian: apt install kubernetes-client)");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(printed).unwrap())
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        let (success, printed) = self.run(arguments, input);
        assert!(success, "kubectl {arguments:?} failed: {printed}");
        printed
    }

    fn service(&self) -> Value {
        self.store
            .get(Resource::Service, "shop", "redis-service")
            .unwrap()
            .value()
    }
}

fn assert_shown(printed: &str, parts: &[&str]) {
    for part in parts {
        assert!(printed.contains(part), "{part:?} is missing in:\n{printed}");
    }
}

#[test]
fn apply_creates_then_changes_then_leaves_alone() {
    let cluster = Cluster::start();
    let printed = cluster.kubectl(&["apply", "-f", "-"], MANIFEST);
    assert_shown(
        &printed,
        &[
            "namespace/shop created",
            "service/redis-service created",
            "pod/redis-0 created",
            "endpointslice.discovery.k8s.io/by-hand created",
        ],
    );
    assert_eq!(printed.lines().count(), 4, "warnings in:\n{printed}");
    let made = cluster.service();
    assert_eq!(made["spec"]["ports"][1]["targetPort"], "metrics");

    let again = cluster.kubectl(&["apply", "-f", "-"], MANIFEST);
    assert_eq!(again.matches("unchanged").count(), 4, "{again}");
    let version = |service: &Value| service["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&cluster.service()), version(&made));

    let changed = MANIFEST
        .replace(
            "{name: redis, port: 6379}\n  - {name: metrics",
            "{name: metrics",
        )
        .replace("addresses: [10.1.0.4]", "addresses: [10.1.0.5]");
    let printed = cluster.kubectl(&["apply", "-f", "-"], &changed);
    assert_eq!(printed.matches("configured").count(), 2, "{printed}");
    let service = cluster.service();
    assert_eq!(
        service["spec"]["ports"].as_array().unwrap().len(),
        1,
        "{service}"
    );
    assert_eq!(service["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    let slice = cluster
        .store
        .get(Resource::EndpointSlice, "shop", "by-hand")
        .unwrap()
        .value();
    assert_eq!(slice["endpoints"], json!([{"addresses": ["10.1.0.5"]}]));
}

#[test]
fn get_prints_tables_and_selects() {
    let cluster = Cluster::start();
    cluster.kubectl(&["apply", "-f", "-"], MANIFEST);
    let services = cluster.kubectl(&["get", "svc", "-n", "shop", "-o", "wide"], "");
    assert_shown(
        &services,
        &[
            "CLUSTER-IP",
            "redis-service",
            "10.96.1.0",
            "6379/TCP,9121/TCP",
            "app=redis",
        ],
    );
    let pods = cluster.kubectl(&["get", "pods", "-A", "-l", "app=redis", "-o", "wide"], "");
    assert_shown(
        &pods,
        &["NAMESPACE", "shop", "redis-0", "0/1", "Pending", "worker-1"],
    );
    let none = cluster.kubectl(&["get", "pods", "-A", "-l", "app notin (redis)"], "");
    assert_shown(&none, &["No resources found"]);
    let slices = cluster.kubectl(&["get", "endpointslices", "-n", "shop"], "");
    assert_shown(
        &slices,
        &["ADDRESSTYPE", "by-hand", "IPv4", "6379", "10.1.0.4"],
    );
    let path = "jsonpath={.items[*].metadata.name}";
    let names = cluster.kubectl(&["get", "ns", "-o", path], "");
    assert_eq!(
        names,
        "default kube-node-lease kube-public kube-system shop"
    );
    let (success, printed) = cluster.run(&["get", "pod", "absent"], "");
    assert!(!success);
    assert_shown(&printed, &["NotFound", "pods \"absent\" not found"]);
    assert_shown(&cluster.kubectl(&["version"], ""), &["netns-lab"]);
}

#[test]
fn describe_label_patch_and_expose() {
    let cluster = Cluster::start();
    cluster.kubectl(&["apply", "-f", "-"], MANIFEST);
    let described = cluster.kubectl(&["describe", "service", "redis-service", "-n", "shop"], "");
    assert_shown(&described, &["app=redis", "10.96.1.0", "6379/TCP"]);
    let described = cluster.kubectl(&["describe", "pod", "redis-0", "-n", "shop"], "");
    assert_shown(&described, &["worker-1", "Pending"]);
    cluster.kubectl(&["label", "pod", "redis-0", "-n", "shop", "tier=back"], "");
    let pod = cluster.store.get(Resource::Pod, "shop", "redis-0").unwrap();
    assert_eq!(pod.label("tier"), Some("back"));
    for (kind, patch) in [
        (
            "strategic",
            r#"{"spec":{"ports":[{"port":9121,"nodePort":30500}],"type":"NodePort"}}"#,
        ),
        ("merge", r#"{"spec":{"sessionAffinity":"ClientIP"}}"#),
        ("json", r#"[{"op":"remove","path":"/spec/selector"}]"#),
    ] {
        let arguments = [
            "patch",
            "svc",
            "redis-service",
            "-n",
            "shop",
            "--type",
            kind,
            "-p",
            patch,
        ];
        cluster.kubectl(&arguments, "");
    }
    let spec = cluster.service()["spec"].clone();
    assert_eq!(
        spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
        10_800
    );
    assert_eq!(spec.get("selector"), None);
    assert!(spec["ports"].to_string().contains("30500"), "{spec}");
    let expose = [
        "expose",
        "pod",
        "redis-0",
        "-n",
        "shop",
        "--port",
        "80",
        "--name",
        "web",
        "--type=NodePort",
    ];
    cluster.kubectl(&expose, "");
    let web = cluster
        .store
        .get(Resource::Service, "shop", "web")
        .unwrap()
        .value();
    assert_eq!(
        web["spec"]["selector"],
        json!({"app": "redis", "tier": "back"})
    );
}

#[test]
fn delete_waits_until_the_kubelet_is_done() {
    let cluster = Cluster::start();
    cluster.kubectl(&["apply", "-f", "-"], MANIFEST);
    let printed = cluster.kubectl(&["delete", "svc", "redis-service", "-n", "shop"], "");
    assert_shown(&printed, &["redis-service", "deleted"]);
    assert!(
        cluster
            .store
            .get(Resource::Service, "shop", "redis-service")
            .is_none()
    );

    let mut child = cluster
        .command(&["delete", "pod", "redis-0", "-n", "shop"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    loop {
        let pod = cluster
            .store
            .get(Resource::Pod, "shop", "redis-0")
            .unwrap()
            .value();
        if pod["metadata"].get("deletionTimestamp").is_some() {
            break;
        }
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "kubectl never deleted the pod"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "kubectl did not wait");
    cluster
        .store
        .delete(Resource::Pod, "shop", "redis-0", &Deletion::now())
        .unwrap();
    assert!(child.wait().unwrap().success());

    cluster.kubectl(&["delete", "namespace", "shop"], "");
    assert!(
        cluster
            .store
            .list(Resource::EndpointSlice, Some("shop"))
            .objects
            .is_empty()
    );
}

#[test]
fn get_follows_changes() {
    let cluster = Cluster::start();
    cluster.kubectl(&["apply", "-f", "-"], MANIFEST);
    let arguments = ["get", "pods", "-n", "shop", "--watch", "--no-headers"];
    let mut child = cluster
        .command(&arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    let next = || {
        receiver
            .recv_timeout(Duration::from_secs(60))
            .expect("a line from kubectl")
    };
    assert_shown(&next(), &["redis-0", "Pending"]);
    let running = json!({"metadata": {"name": "redis-0", "namespace": "shop"},
                         "status": {"phase": "Running"}});
    let part = netns_lab::apiserver::Part::Status;
    cluster.store.update(Resource::Pod, part, running).unwrap();
    assert_shown(&next(), &["redis-0", "Running"]);
    child.kill().unwrap();
    child.wait().unwrap();
}
