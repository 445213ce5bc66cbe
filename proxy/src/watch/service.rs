//! Services (core/v1).

use lb_model::said::{self, Event};
use serde::Deserialize;

use super::kind::{Kind, Metadata, Named};

/// All Services that are not another proxy's.
#[derive(Clone, Debug)]
pub(super) enum Services {}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Object {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    load_balancer_source_ranges: Option<Vec<String>>,
    session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    health_check_node_port: Option<i32>,
    ports: Option<Vec<Port>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i32>,
    node_port: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ingress {
    ip: Option<String>,
    ip_mode: Option<String>,
}

impl Named for Object {
    fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }
}

impl Kind for Services {
    type Object = Object;
    type Said = said::Service;
    const NAME: &'static str = "Service";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "services";

    fn said(object: Object) -> said::Service {
        let metadata = object.metadata.unwrap_or_default();
        let labels = metadata.labels.unwrap_or_default();
        let spec = object.spec.unwrap_or_default();
        let ingress = object
            .status
            .unwrap_or_default()
            .load_balancer
            .unwrap_or_default()
            .ingress;
        let affinity = spec.session_affinity_config.unwrap_or_default().client_ip;
        said::Service {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            created: metadata.creation_timestamp.unwrap_or_default(),
            other_proxy: labels.proxy_name.is_some(),
            headless_label: labels.headless.is_some(),
            kind: spec.r#type.unwrap_or_default(),
            cluster_ips: match spec.cluster_ips {
                Some(list) if !list.is_empty() => list,
                _ => spec
                    .cluster_ip
                    .filter(|ip| !ip.is_empty())
                    .into_iter()
                    .collect(),
            },
            external_ips: spec.external_ips.unwrap_or_default(),
            ingress: ingress
                .unwrap_or_default()
                .into_iter()
                .map(Ingress::said)
                .collect(),
            source_ranges: spec.load_balancer_source_ranges.unwrap_or_default(),
            client_ip_affinity: spec.session_affinity.as_deref() == Some("ClientIP"),
            affinity_seconds: affinity.unwrap_or_default().timeout_seconds,
            internal_traffic_policy: spec.internal_traffic_policy.unwrap_or_default(),
            external_traffic_policy: spec.external_traffic_policy.unwrap_or_default(),
            health_check_node_port: spec.health_check_node_port.unwrap_or_default(),
            ports: spec
                .ports
                .unwrap_or_default()
                .into_iter()
                .map(Port::said)
                .collect(),
        }
    }

    fn list_begins() -> Option<Event> {
        Some(Event::ServiceListBegins)
    }

    fn there(said: said::Service) -> Event {
        Event::Service(said)
    }

    fn gone(namespace: String, name: String) -> Event {
        Event::ServiceGone { namespace, name }
    }

    fn list_ends(_count: usize) -> Option<Event> {
        Some(Event::ServiceListEnds)
    }
}

impl Ingress {
    fn said(self) -> said::Ingress {
        said::Ingress {
            ip: self.ip.unwrap_or_default(),
            ip_mode: self.ip_mode.unwrap_or_default(),
        }
    }
}

impl Port {
    fn said(self) -> said::ServicePort {
        said::ServicePort {
            name: self.name.unwrap_or_default(),
            protocol: self.protocol.unwrap_or_default(),
            port: self.port.unwrap_or_default(),
            node_port: self.node_port.unwrap_or_default(),
        }
    }
}
