//! ServiceCIDRs (networking.k8s.io/v1, Kubernetes 1.33 and later).

use lb_model::said::{self, Event};
use serde::Deserialize;

use super::kind::{Kind, Metadata, Named};

/// All ServiceCIDRs.
#[derive(Clone, Debug)]
pub(super) enum ServiceCidrs {}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Object {
    metadata: Option<Metadata>,
    spec: Option<Spec>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    cidrs: Option<Vec<String>>,
}

impl Named for Object {
    fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }
}

impl Kind for ServiceCidrs {
    type Object = Object;
    type Said = said::ServiceCidr;
    const NAME: &'static str = "ServiceCIDR";
    const GROUP: &'static str = "networking.k8s.io";
    const PLURAL: &'static str = "servicecidrs";
    const OPTIONAL: bool = true;

    fn said(object: Object) -> said::ServiceCidr {
        said::ServiceCidr {
            name: object.metadata.and_then(|m| m.name).unwrap_or_default(),
            cidrs: object.spec.and_then(|s| s.cidrs).unwrap_or_default(),
        }
    }

    fn list_begins() -> Option<Event> {
        Some(Event::ServiceCidrListBegins)
    }

    fn there(said: said::ServiceCidr) -> Event {
        Event::ServiceCidr(said)
    }

    fn gone(_namespace: String, name: String) -> Event {
        Event::ServiceCidrGone { name }
    }

    fn list_ends(_count: usize) -> Option<Event> {
        Some(Event::ServiceCidrListEnds)
    }
}
