//! What is configured, for our plugin and for the reference plugins.

use std::path::Path;

use serde_json::{Value, json};

/// A network as an operator asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    pub(crate) name: &'static str,
    pub(crate) masquerade: bool,
    pub(crate) dual_stack: bool,
    /// The pod has a port of the host.
    pub(crate) ports: bool,
    /// The pod is filtered and limited, too.
    pub(crate) chain: bool,
    /// The largest part of the reference's time that ADD may take; none where none is promised.
    pub(crate) add: Option<f64>,
}

const BRIDGE: Network = Network {
    name: "bridge",
    masquerade: false,
    dual_stack: false,
    ports: false,
    chain: false,
    add: Some(0.25),
};

pub(crate) const MASQUERADE: Network = Network {
    name: "bridge, ipMasq",
    masquerade: true,
    add: Some(1.0 / 7.0),
    ..BRIDGE
};

pub(crate) const NETWORKS: [Network; 6] = [
    BRIDGE,
    MASQUERADE,
    Network {
        name: "… portmap",
        ports: true,
        add: Some(0.1),
        ..MASQUERADE
    },
    Network {
        name: "… firewall, bandwidth",
        ports: true,
        chain: true,
        add: Some(0.1),
        ..MASQUERADE
    },
    Network {
        name: "dual stack",
        dual_stack: true,
        add: None,
        ..BRIDGE
    },
    Network {
        name: "dual stack, ipMasq",
        dual_stack: true,
        add: None,
        ..MASQUERADE
    },
];

impl Network {
    /// The one object that our plugin does all of it with.
    pub(crate) fn combined(&self, reservations: &Path) -> Vec<Value> {
        let mut config = self.bridge("causeway-cni", reservations);
        if self.chain {
            config["ingressPolicy"] = "same-bridge".into();
        }
        config["runtimeConfig"] = self.port_mappings();
        if let Some(limits) = self.bandwidth().get("bandwidth") {
            config["runtimeConfig"]["bandwidth"] = limits.clone();
        }
        vec![config]
    }

    /// A chain of the reference plugins, in the order of ADD.
    pub(crate) fn chained(&self, reservations: &Path) -> Vec<Value> {
        let mut plugins = vec![self.bridge("bridge", reservations)];
        if self.ports {
            let ports = self.port_mappings();
            plugins.push(json!({"type": "portmap", "runtimeConfig": ports}));
        }
        if self.chain {
            plugins.push(json!({"type": "firewall", "ingressPolicy": "same-bridge"}));
            let limits = self.bandwidth();
            plugins.push(json!({"type": "bandwidth", "runtimeConfig": limits}));
        }
        plugins
    }

    fn bridge(&self, kind: &str, reservations: &Path) -> Value {
        let ranges: Vec<_> = self
            .subnets()
            .iter()
            .map(|subnet| json!([{"subnet": subnet}]))
            .collect();
        json!({
            "type": kind, "bridge": "cni0", "isDefaultGateway": true, "ipMasq": self.masquerade,
            "ipam": {"type": "host-local", "ranges": ranges, "dataDir": reservations},
        })
    }

    /// The networks' subnets, one for each family.
    pub(crate) fn subnets(&self) -> &'static [&'static str] {
        if self.dual_stack {
            &["10.1.0.0/16", "fd01::/64"]
        } else {
            &["10.1.0.0/16"]
        }
    }

    fn port_mappings(&self) -> Value {
        if !self.ports {
            return json!({});
        }
        let port = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp"});
        json!({"portMappings": [port]})
    }

    fn bandwidth(&self) -> Value {
        if !self.chain {
            return json!({});
        }
        let (rate, burst) = (100_000_000, 8_000_000);
        json!({"bandwidth": {
            "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst,
        }})
    }
}
