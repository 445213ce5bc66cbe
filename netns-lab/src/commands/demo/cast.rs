//! Who plays: three Redis pods, a Service in front of them, a frontend pod.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use netns_lab::apiserver::Resource;
use netns_lab::state::State;
use netns_lab::{Lab, Settings};
use serde_json::{Value, json};

use super::kernel::Plane;
use super::screen::Screen;

/// The frontend's program.
const SCRIPT: &str = include_str!("../../../demo/frontend.py");
/// The port by which the frontend is reached from outside, at every node.
pub(super) const NODE_PORT: u16 = 30080;
/// How long a pod may take to be ready.
const READY: Duration = Duration::from_secs(10);

/// Debian's Python where there is one: a version manager's start-up script takes far longer.
pub(super) fn python() -> &'static str {
    let debian = "/usr/bin/python3";
    if Path::new(debian).exists() {
        debian
    } else {
        "python3"
    }
}

/// A Redis pod.
#[derive(Debug, Clone)]
pub(super) struct Redis {
    pub(super) name: String,
    pub(super) ip: String,
    pub(super) node: String,
}

/// The pods, where they are, and the Service's address.
#[derive(Debug)]
pub(super) struct Cast {
    pub(super) redis: Vec<Redis>,
    pub(super) cluster_ip: String,
    pub(super) frontend_ip: String,
    pub(super) frontend_node: String,
    pub(super) plane: Plane,
    script: String,
}

impl Cast {
    /// Creates everybody and waits until they are ready.
    pub(super) fn enter(lab: &Lab, settings: &Settings) -> anyhow::Result<Self> {
        let script = lab.folder().root().join("frontend.py");
        std::fs::write(&script, SCRIPT)?;
        let script = script.display().to_string();
        let service = lab.apply(&redis_service())?;
        let cluster_ip = service["spec"]["clusterIP"]
            .as_str()
            .context("no ClusterIP")?
            .to_owned();
        lab.apply(&frontend_service())?;
        // In this order they spread over both workers.
        lab.apply(&redis_pod("redis-1"))?;
        lab.apply(&redis_pod("redis-2"))?;
        lab.apply(&redis_pod("redis-3"))?;
        lab.apply(&frontend_pod(&script))?;
        let redis = ["redis-1", "redis-2", "redis-3"].map(|name| Redis::ready(lab, name));
        let (frontend_ip, frontend_node) = place(&lab.wait_ready("frontend", READY)?)?;
        Ok(Self {
            redis: redis.into_iter().collect::<anyhow::Result<_>>()?,
            cluster_ip,
            frontend_ip,
            frontend_node,
            plane: Plane::of(settings),
            script,
        })
    }

    /// The words that run the frontend's program in one of its other roles.
    pub(super) fn words<'a>(&'a self, role: &[&'a str]) -> Vec<&'a str> {
        [&[python(), self.script.as_str()], role].concat()
    }

    /// One more Redis pod.
    pub(super) fn add_redis(&mut self, lab: &Lab, name: &str) -> anyhow::Result<Redis> {
        lab.apply(&redis_pod(name))?;
        let added = Redis::ready(lab, name)?;
        self.redis.push(added.clone());
        Ok(added)
    }

    /// The Redis pod of an address.
    pub(super) fn by_ip(&self, ip: &str) -> Option<&Redis> {
        self.redis.iter().find(|redis| redis.ip == ip)
    }

    /// Draws where everybody is.
    pub(super) fn picture(
        &self,
        lab: &Lab,
        plugin: &str,
        screen: &mut Screen,
    ) -> anyhow::Result<()> {
        let state = lab.state()?;
        screen.text("A box is a network namespace: a network of its own, with its own addresses.");
        screen.text(
            "Those on the wire are the nodes. A pod is a further namespace, on its node's bridge.",
        );
        println!();
        screen.drawing(&self.boxes(&state));
        println!();
        screen.step(
            "pods",
            &format!("wired up, with an address each, by the CNI plugin {plugin}"),
        );
        let proxies = state.proxies.len();
        screen.step(
            "proxies",
            &format!(
                "{proxies} causeway-proxy processes, one on each node, in mode {}",
                state.mode
            ),
        );
        screen.step(
            "Service",
            &format!("redis-service is {}:6379", self.cluster_ip),
        );
        let spread = self
            .redis
            .iter()
            .any(|redis| redis.node != self.redis[0].node);
        screen.claim(spread, "the Redis pods are on more than one node");
        Ok(())
    }

    fn boxes(&self, state: &State) -> Vec<String> {
        let mut columns: Vec<Vec<String>> = Vec::new();
        let client = state.topology.client.v4;
        columns.push(vec![
            "client".into(),
            client.to_string(),
            "(outside)".into(),
        ]);
        for node in &state.topology.nodes {
            let mut column = vec![node.name.clone(), node.addresses.v4.to_string()];
            if columns.len() == 1 {
                column.push("API server, DNS".to_owned());
            }
            let here = self.redis.iter().filter(|redis| redis.node == node.name);
            column.extend(here.flat_map(|redis| pod_lines(&redis.name, &redis.ip)));
            if self.frontend_node == node.name {
                column.extend(pod_lines("frontend", &self.frontend_ip));
            }
            columns.push(column);
        }
        let height = columns.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |column: &Vec<String>, row: usize| {
            let text = column.get(row).map_or("", String::as_str);
            format!("│ {text:<18}│ ")
        };
        let line = |left: &str, right: &str| {
            columns
                .iter()
                .map(|_| format!("{left}{}{right} ", "─".repeat(19)))
                .collect::<String>()
        };
        let wire: String = columns.iter().map(|_| "══════════╤═══════════").collect();
        let mut lines = vec![wire, line("┌", "┐")];
        lines.extend((0..height).map(|row| {
            columns
                .iter()
                .map(|column| cell(column, row))
                .collect::<String>()
        }));
        lines.push(line("└", "┘"));
        lines
    }
}

fn pod_lines(name: &str, ip: &str) -> [String; 2] {
    [format!("├ pod {name}"), format!("│   {ip}")]
}

impl Redis {
    fn ready(lab: &Lab, name: &str) -> anyhow::Result<Self> {
        let (ip, node) = place(&lab.wait_ready(name, READY)?)?;
        Ok(Self {
            name: name.to_owned(),
            ip,
            node,
        })
    }

    /// Name, address and node, as a table's first column.
    pub(super) fn label(&self) -> String {
        format!("{} {} on {}", self.name, self.ip, self.node)
    }
}

/// The ready endpoints of a Service, by address.
pub(super) fn endpoints(lab: &Lab, service: &str) -> anyhow::Result<Vec<String>> {
    let slices = lab.client().list(Resource::EndpointSlice)?;
    let own = slices.iter().filter(|slice| {
        slice["metadata"]["labels"]["kubernetes.io/service-name"] == service
            && slice["addressType"] == "IPv4"
    });
    let all = own.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let ready = all.filter(|endpoint| endpoint["conditions"]["ready"] != false);
    Ok(ready
        .filter_map(|ep| Some(ep["addresses"][0].as_str()?.to_owned()))
        .collect())
}

fn place(pod: &Value) -> anyhow::Result<(String, String)> {
    let ip = pod["status"]["podIP"]
        .as_str()
        .context("a ready pod without address")?;
    let node = pod["spec"]["nodeName"]
        .as_str()
        .context("a ready pod without node")?;
    Ok((ip.to_owned(), node.to_owned()))
}

fn redis_pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "redis"}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "redis",
                "image": "redis",
                "command": [
                    "redis-server", "--port", "6379", "--bind", "*", "-::*",
                    "--protected-mode", "no", "--save", "", "--appendonly", "no",
                ],
                "ports": [{"name": "redis", "containerPort": 6379}],
                "readinessProbe": {"tcpSocket": {"port": "redis"}},
            }],
        },
    })
}

fn redis_service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "redis-service"},
        "spec": {"selector": {"app": "redis"}, "ports": [{"port": 6379, "targetPort": "redis"}]},
    })
}

fn frontend_pod(script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "frontend", "labels": {"app": "frontend"}},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "frontend",
                "image": "python",
                "command": [python(), script, "serve"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"tcpSocket": {"port": "http"}},
            }],
        },
    })
}

fn frontend_service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "frontend"},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "frontend"},
            "ports": [{"port": 80, "targetPort": "http", "nodePort": NODE_PORT}],
        },
    })
}
