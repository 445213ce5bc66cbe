//! What is said: objects, as an API server writes them, through the proxy's own decoding.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proxy::backend::PlaneSettings;
use causeway_proxy::config::{self, Settings};
use causeway_proxy::watch;
use lb_model::said::Event;
use lb_model::{Family, Model, ModelConfig};
use serde_json::{Map, Value, json};

use crate::file::{self, Step};

/// The Node that the proxy acts for, unless a scenario has another one.
const NODE: &str = include_str!("node.yaml");
/// The only namespace.
const NAMESPACE: &str = "default";

/// A model, its settings and what was said to it.
pub(crate) struct World {
    pub(crate) model: Model,
    pub(crate) settings: Settings,
    /// Kind and name.
    there: BTreeSet<(String, String)>,
}

impl World {
    /// The Node is known, and that there is nothing else.
    pub(crate) fn new(configuration: &Map<String, Value>) -> Self {
        let mut file = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "hostnameOverride": "node-0",
            "clusterCIDR": "10.244.0.0/16,fd00:244::/32",
        });
        for (field, value) in configuration {
            file[field] = value.clone();
        }
        let (said, warnings) = config::read(&file.to_string()).unwrap();
        assert_eq!(warnings, [""; 0]);
        let settings = Settings::understand(&said, None, "").unwrap();
        let mut world = Self {
            model: Model::new(ModelConfig {
                node_name: settings.node_name.clone(),
                detect_local: settings.detect_local.clone(),
                masquerade_all: settings.nftables.masquerade_all,
            }),
            settings,
            there: BTreeSet::new(),
        };
        for event in [
            Event::ServiceListBegins,
            Event::ServiceListEnds,
            Event::SliceListBegins,
            Event::SliceListEnds,
        ] {
            assert_eq!(world.model.apply(event), []);
        }
        assert_eq!(world.put(&file::parse(NODE)), 0);
        world
    }

    /// Does what `step` says.
    pub(crate) fn step(&mut self, step: &Step) {
        let fields: usize = step.apply.iter().map(|object| self.put(object)).sum();
        let disputes = self.model.take_disputes().into_iter();
        let in_vain: usize = disputes.map(|(_, complaints)| complaints.len()).sum();
        assert_eq!(fields + in_vain, step.complaints, "complaints");
        for object in &step.delete {
            let (kind, name) = object.split_once('/').unwrap();
            let key = (kind.to_owned(), name.to_owned());
            assert!(self.there.remove(&key), "{object} is not there");
            self.remove(&key);
        }
    }

    /// Deletes everything but the Node.
    pub(crate) fn clear(&mut self) {
        for key in std::mem::take(&mut self.there) {
            self.remove(&key);
        }
    }

    /// Gives how many fields are complained about.
    fn put(&mut self, object: &Value) -> usize {
        let text = |pointer: &str| {
            let value = object.pointer(pointer).and_then(Value::as_str);
            value.unwrap_or_else(|| panic!("no {pointer}")).to_owned()
        };
        let kind = text("/kind");
        let mut object = object.clone();
        if kind != "Node" {
            self.there.insert((kind.clone(), text("/metadata/name")));
            object["metadata"]["namespace"] = json!(NAMESPACE);
        }
        let heard = watch::read(&kind, &object.to_string()).unwrap();
        let mut complaints = heard.complaints;
        complaints.extend(self.model.apply(heard.event.unwrap()));
        complaints.len()
    }

    fn remove(&mut self, (kind, name): &(String, String)) {
        let (namespace, name) = (NAMESPACE.to_owned(), name.clone());
        let event = match kind.as_str() {
            "Service" => Event::ServiceGone { namespace, name },
            "EndpointSlice" => Event::SliceGone { namespace, name },
            "ServiceCIDR" => Event::ServiceCidrGone { name },
            other => panic!("{other}: nothing that can be deleted"),
        };
        assert_eq!(self.model.apply(event), []);
    }

    /// What a data plane is told; node ports are served on `addresses`.
    pub(crate) fn plane_settings(&self, addresses: &BTreeSet<IpAddr>) -> Vec<PlaneSettings> {
        let settings = Family::ALL.map(|family| PlaneSettings {
            family,
            masquerade_bit: self.settings.nftables.masquerade_bit,
            detector: self.model.local_detector(family),
            node_port_addresses: addresses
                .iter()
                .copied()
                .filter(|ip| Family::of(*ip) == family)
                .collect(),
            service_cidrs: self.model.service_cidrs(family).into_iter().collect(),
            own_addresses: BTreeSet::new(),
            localhost_node_ports: true,
            tcp_be_liberal: false,
        });
        settings.to_vec()
    }
}
