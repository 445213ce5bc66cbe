//! The own Node (core/v1).

use lb_model::said::{self, Event};
use serde::Deserialize;

use super::kind::{Kind, Metadata, Named};

/// The Node that this daemon runs on.
#[derive(Clone, Debug)]
pub(super) enum OwnNode {}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Object {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<Taint>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address {
    r#type: Option<String>,
    address: Option<String>,
}

/// The cluster autoscaler is about to delete the Node: load balancers should stop using it.
const DELETION_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

impl Named for Object {
    fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }
}

impl Kind for OwnNode {
    type Object = Object;
    type Said = said::Node;
    const NAME: &'static str = "Node";
    const GROUP: &'static str = "";
    const PLURAL: &'static str = "nodes";

    fn said(object: Object) -> said::Node {
        let metadata = object.metadata.unwrap_or_default();
        let spec = object.spec.unwrap_or_default();
        let addresses = object
            .status
            .unwrap_or_default()
            .addresses
            .unwrap_or_default();
        let taints = spec.taints.unwrap_or_default();
        said::Node {
            name: metadata.name.unwrap_or_default(),
            zone: metadata.labels.unwrap_or_default().zone.unwrap_or_default(),
            pod_cidrs: match spec.pod_cidrs {
                Some(list) if !list.is_empty() => list,
                _ => spec
                    .pod_cidr
                    .filter(|cidr| !cidr.is_empty())
                    .into_iter()
                    .collect(),
            },
            addresses: of_type(&addresses, "InternalIP")
                .chain(of_type(&addresses, "ExternalIP"))
                .collect(),
            deleting: metadata.deletion_timestamp.is_some(),
            to_be_deleted: taints
                .iter()
                .any(|t| t.key.as_deref() == Some(DELETION_TAINT)),
        }
    }

    fn list_begins() -> Option<Event> {
        None
    }

    fn there(said: said::Node) -> Event {
        Event::Node(said)
    }

    fn gone(_namespace: String, _name: String) -> Event {
        Event::NodeGone
    }

    fn list_ends(count: usize) -> Option<Event> {
        (count == 0).then_some(Event::NodeGone)
    }
}

fn of_type<'a>(addresses: &'a [Address], kind: &'a str) -> impl Iterator<Item = String> + 'a {
    addresses
        .iter()
        .filter(move |address| address.r#type.as_deref() == Some(kind))
        .filter_map(|address| address.address.clone())
}
