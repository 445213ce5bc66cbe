//! Tables, as `kubectl get` asks for them (`meta.k8s.io/v1` Table).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::text;
use super::{Object, Resource};

/// A column's heading, and whether only `-o wide` shows it.
type Column = (&'static str, bool);

fn headings(resource: Resource) -> &'static [Column] {
    const AGE: Column = ("Age", false);
    match resource {
        Resource::Pod => &[
            ("Name", false),
            ("Ready", false),
            ("Status", false),
            ("Restarts", false),
            AGE,
            ("IP", true),
            ("Node", true),
        ],
        Resource::Service => &[
            ("Name", false),
            ("Type", false),
            ("Cluster-IP", false),
            ("External-IP", false),
            ("Port(s)", false),
            AGE,
            ("Selector", true),
        ],
        Resource::Node => &[
            ("Name", false),
            ("Status", false),
            ("Roles", false),
            AGE,
            ("Version", false),
            ("Internal-IP", true),
        ],
        Resource::EndpointSlice => &[
            ("Name", false),
            ("AddressType", false),
            ("Ports", false),
            ("Endpoints", false),
            AGE,
        ],
        Resource::Namespace => &[("Name", false), ("Status", false), AGE],
        Resource::Event => &[
            ("Last Seen", false),
            ("Type", false),
            ("Reason", false),
            ("Object", false),
            ("Message", false),
        ],
        Resource::Endpoints | Resource::ConfigMap | Resource::ServiceCidr => {
            &[("Name", false), AGE]
        }
    }
}

/// The table of these objects.
pub(crate) fn table(resource: Resource, version: u64, objects: &[Object]) -> Value {
    let columns: Vec<Value> = headings(resource)
        .iter()
        .map(|(name, wide)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({"name": name, "type": "string", "format": format, "description": name,
                   "priority": i32::from(*wide)})
        })
        .collect();
    let now = Timestamp::now();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let value = object.value();
            json!({
                "cells": cells(resource, &value, now),
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                           "metadata": value["metadata"]},
            })
        })
        .collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
           "metadata": {"resourceVersion": version.to_string()},
           "columnDefinitions": columns, "rows": rows})
}

fn cells(resource: Resource, value: &Value, now: Timestamp) -> Vec<String> {
    let name = text(value, "/metadata/name").to_owned();
    let age = age(text(value, "/metadata/creationTimestamp"), now);
    let at = |pointer: &str| or_none(text(value, pointer).to_owned());
    match resource {
        Resource::Pod => {
            let (ready, restarts) = pod_counts(value);
            let (ip, node) = (at("/status/podIP"), at("/spec/nodeName"));
            vec![name, ready, pod_status(value), restarts, age, ip, node]
        }
        Resource::Service => vec![
            name,
            at("/spec/type"),
            at("/spec/clusterIP"),
            external_ips(value),
            service_ports(value),
            age,
            selector(value),
        ],
        Resource::Node => {
            let version = at("/status/nodeInfo/kubeletVersion");
            let addresses = each(value, "/status/addresses");
            let internal = addresses.filter(|address| text(address, "/type") == "InternalIP");
            let internal = join(internal.map(|address| text(address, "/address").to_owned()));
            vec![
                name,
                node_status(value),
                roles(value),
                age,
                version,
                internal,
            ]
        }
        Resource::EndpointSlice => {
            let ports = each(value, "/ports").filter_map(|port| port.get("port"));
            let endpoints = each(value, "/endpoints").flat_map(|item| each(item, "/addresses"));
            let endpoints = shorten(endpoints.filter_map(Value::as_str));
            vec![
                name,
                at("/addressType"),
                join(ports.map(Value::to_string)),
                endpoints,
                age,
            ]
        }
        Resource::Namespace => vec![name, at("/status/phase"), age],
        Resource::Event => {
            let object = format!(
                "{}/{}",
                text(value, "/involvedObject/kind").to_lowercase(),
                text(value, "/involvedObject/name")
            );
            vec![age, at("/type"), at("/reason"), object, at("/message")]
        }
        Resource::Endpoints | Resource::ConfigMap | Resource::ServiceCidr => vec![name, age],
    }
}

fn each<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn join(items: impl Iterator<Item = String>) -> String {
    or_none(items.collect::<Vec<_>>().join(","))
}

fn or_none(text: String) -> String {
    if text.is_empty() {
        "<none>".to_owned()
    } else {
        text
    }
}

/// The first three, and how many more.
fn shorten<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let items: Vec<&str> = items.collect();
    match items.len() {
        0 => "<unset>".to_owned(),
        1..=3 => items.join(","),
        count => format!("{} + {} more...", items[..3].join(","), count - 3),
    }
}

fn condition<'a>(value: &'a Value, kind: &str) -> &'a str {
    each(value, "/status/conditions")
        .find(|condition| text(condition, "/type") == kind)
        .map(|condition| text(condition, "/status"))
        .unwrap_or_default()
}

fn pod_counts(pod: &Value) -> (String, String) {
    let of = each(pod, "/spec/containers").count();
    let statuses = || each(pod, "/status/containerStatuses");
    let ready = if statuses().next().is_some() {
        statuses().filter(|status| status["ready"] == true).count()
    } else if condition(pod, "Ready") == "True" {
        of
    } else {
        0
    };
    let restarts: u64 = statuses()
        .filter_map(|status| status["restartCount"].as_u64())
        .sum();
    (format!("{ready}/{of}"), restarts.to_string())
}

fn pod_status(pod: &Value) -> String {
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        return "Terminating".to_owned();
    }
    let reason = text(pod, "/status/reason");
    if reason.is_empty() {
        text(pod, "/status/phase")
    } else {
        reason
    }
    .to_owned()
}

fn node_status(node: &Value) -> String {
    let ready = match condition(node, "Ready") {
        "True" => "Ready",
        "False" => "NotReady",
        _ => "Unknown",
    };
    let cordoned = node.pointer("/spec/unschedulable") == Some(&json!(true));
    format!(
        "{ready}{}",
        if cordoned { ",SchedulingDisabled" } else { "" }
    )
}

fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
    join(roles.map(str::to_owned))
}

fn external_ips(service: &Value) -> String {
    if text(service, "/spec/type") == "ExternalName" {
        return text(service, "/spec/externalName").to_owned();
    }
    let ingress = each(service, "/status/loadBalancer/ingress").map(|ingress| {
        let ip = text(ingress, "/ip");
        if ip.is_empty() {
            text(ingress, "/hostname")
        } else {
            ip
        }
    });
    let external = each(service, "/spec/externalIPs").filter_map(Value::as_str);
    let all = join(ingress.chain(external).map(str::to_owned));
    if all == "<none>" && text(service, "/spec/type") == "LoadBalancer" {
        return "<pending>".to_owned();
    }
    all
}

fn service_ports(service: &Value) -> String {
    join(each(service, "/spec/ports").map(|port| {
        let protocol = text(port, "/protocol");
        match port
            .get("nodePort")
            .and_then(Value::as_u64)
            .filter(|number| *number > 0)
        {
            Some(node_port) => format!("{}:{node_port}/{protocol}", port["port"]),
            None => format!("{}/{protocol}", port["port"]),
        }
    }))
}

fn selector(service: &Value) -> String {
    let labels = service.pointer("/spec/selector").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    join(labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())))
}

/// How long ago, in at most two units.
fn age(created: &str, now: Timestamp) -> String {
    let Ok(created) = created.parse::<Timestamp>() else {
        return "<unknown>".to_owned();
    };
    let seconds = now.duration_since(created).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{minutes}m{}s", seconds % 60),
        600..10_800 => format!("{minutes}m"),
        10_800..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(resource: Resource, value: &Value) -> Vec<String> {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let cells = cells(resource, value, now);
        assert_eq!(cells.len(), headings(resource).len());
        cells
    }

    #[test]
    fn a_services_row_reads_as_kubectl_prints_it() {
        let service = json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-02T03:01:00Z"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.1.1", "selector": {"app": "web"},
                     "ports": [{"port": 80, "nodePort": 30086, "protocol": "TCP"},
                               {"port": 53, "protocol": "UDP"}]},
        });
        let ports = "80:30086/TCP,53/UDP";
        let expected = [
            "web",
            "LoadBalancer",
            "10.96.1.1",
            "<pending>",
            ports,
            "3m5s",
            "app=web",
        ];
        assert_eq!(row(Resource::Service, &service), expected);
    }

    #[test]
    fn rows_of_pods_nodes_and_slices() {
        let pod = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-02T03:04:00Z"},
            "spec": {"containers": [{"name": "x"}], "nodeName": "worker-1"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        });
        let expected = ["a", "1/1", "Running", "0", "5s", "<none>", "worker-1"];
        assert_eq!(row(Resource::Pod, &pod), expected);
        let node = json!({"metadata": {"name": "n",
                                       "labels": {"node-role.kubernetes.io/control-plane": ""}}});
        assert_eq!(
            row(Resource::Node, &node)[..3],
            ["n", "Unknown", "control-plane"]
        );
        let endpoints: Vec<Value> = (0..5)
            .map(|host| json!({"addresses": [format!("10.1.0.{host}")]}))
            .collect();
        let slice =
            json!({"addressType": "IPv4", "ports": [{"port": 6379}], "endpoints": endpoints});
        let shown = "10.1.0.0,10.1.0.1,10.1.0.2 + 2 more...";
        assert_eq!(
            row(Resource::EndpointSlice, &slice)[1..4],
            ["IPv4", "6379", shown]
        );
    }
}
