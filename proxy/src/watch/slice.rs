//! EndpointSlices (discovery.k8s.io/v1).

use lb_model::said::{self, Event};
use serde::Deserialize;

use super::kind::{Kind, Metadata, Named};

/// All EndpointSlices that are not headless.
#[derive(Clone, Debug)]
pub(super) enum Slices {}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Object {
    metadata: Option<Metadata>,
    address_type: Option<String>,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<Port>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
    hints: Option<Hints>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hints {
    for_zones: Option<Vec<Hint>>,
    for_nodes: Option<Vec<Hint>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Hint {
    name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i32>,
}

impl Named for Object {
    fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }
}

impl Kind for Slices {
    type Object = Object;
    type Said = said::EndpointSlice;
    const NAME: &'static str = "EndpointSlice";
    const GROUP: &'static str = "discovery.k8s.io";
    const PLURAL: &'static str = "endpointslices";

    fn said(object: Object) -> said::EndpointSlice {
        let metadata = object.metadata.unwrap_or_default();
        let labels = metadata.labels.unwrap_or_default();
        said::EndpointSlice {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            service: labels.service.unwrap_or_default(),
            headless_label: labels.headless.is_some(),
            address_type: object.address_type.unwrap_or_default(),
            trigger_time: metadata.annotations.unwrap_or_default().trigger_time,
            endpoints: object
                .endpoints
                .unwrap_or_default()
                .into_iter()
                .map(Endpoint::said)
                .collect(),
            ports: object
                .ports
                .unwrap_or_default()
                .into_iter()
                .map(Port::said)
                .collect(),
        }
    }

    fn list_begins() -> Option<Event> {
        Some(Event::SliceListBegins)
    }

    fn there(said: said::EndpointSlice) -> Event {
        Event::Slice(said)
    }

    fn gone(namespace: String, name: String) -> Event {
        Event::SliceGone { namespace, name }
    }

    fn list_ends(_count: usize) -> Option<Event> {
        Some(Event::SliceListEnds)
    }
}

impl Endpoint {
    fn said(self) -> said::SliceEndpoint {
        let conditions = self.conditions.unwrap_or_default();
        let hints = self.hints.unwrap_or_default();
        said::SliceEndpoint {
            addresses: self.addresses.unwrap_or_default(),
            ready: conditions.ready,
            serving: conditions.serving,
            terminating: conditions.terminating,
            node_name: self.node_name.unwrap_or_default(),
            zone_hints: names(hints.for_zones),
            node_hints: names(hints.for_nodes),
        }
    }
}

fn names(hints: Option<Vec<Hint>>) -> Vec<String> {
    hints
        .unwrap_or_default()
        .into_iter()
        .filter_map(|hint| hint.name)
        .collect()
}

impl Port {
    fn said(self) -> said::SlicePort {
        said::SlicePort {
            name: self.name.unwrap_or_default(),
            protocol: self.protocol.unwrap_or_default(),
            port: self.port,
        }
    }
}
