//! The plan of a lab's cluster: which nodes there are and which addresses belong to whom. Pure.
//!
//! ```text
//!  client 10.89.0.250      control 10.89.0.2       worker-1 10.89.0.3      worker-2 10.89.0.4
//!        │ eth0                  │ eth0                  │ eth0                  │ eth0
//!  ══════╧═══════════════════════╧═══════════════════════╧═══════════════════════╧══════ fabric
//!                          10.244.0.0/24           10.244.1.0/24           10.244.2.0/24  pods
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};

/// The most worker nodes of a lab: each needs its third octet and a machine's memory.
pub const MOST_WORKERS: u8 = 100;

/// The port of the API server on the control node.
pub const API_PORT: u16 = 6443;

/// The ClusterIP of the cluster's DNS, as kubeadm gives it.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Prefix length of the fabric and of each node's pod range, IPv4.
const PREFIX_V4: u8 = 24;
/// The same for IPv6.
const PREFIX_V6: u8 = 64;

/// What a node is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The API server and the cluster's DNS listen here; pods go elsewhere.
    ControlPlane,
    /// Pods run here.
    Worker,
}

/// One of the addresses on the fabric, in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    fn on_fabric(host: u8) -> Self {
        Self {
            v4: Ipv4Addr::new(10, 89, 0, host),
            v6: Ipv6Addr::new(0xfd00, 0x89, 0, 0, 0, 0, 0, u16::from(host)),
        }
    }

    /// Both with the fabric's prefix lengths.
    #[must_use]
    pub fn networks(&self) -> (Ipv4Network, Ipv6Network) {
        (network_v4(self.v4), network_v6(self.v6))
    }
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name: the Node object's, its namespace's and its folder's.
    pub name: String,
    /// What it is there for.
    pub role: Role,
    /// Its addresses on the fabric.
    pub addresses: Addresses,
    /// The range its pods' IPv4 addresses come from.
    pub pods_v4: Ipv4Network,
    /// The range its pods' IPv6 addresses come from.
    pub pods_v6: Ipv6Network,
}

impl Node {
    fn new(index: u8) -> Self {
        let (name, role) = match index {
            0 => ("control".to_owned(), Role::ControlPlane),
            number => (format!("worker-{number}"), Role::Worker),
        };
        let range = u16::from(index);
        Self {
            name,
            role,
            addresses: Addresses::on_fabric(index + 2),
            pods_v4: network_v4(Ipv4Addr::new(10, 244, index, 0)),
            pods_v6: network_v6(Ipv6Addr::new(0xfd00, 0x10, 0x244, range, 0, 0, 0, 0)),
        }
    }
}

/// The whole plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The control node, then the workers.
    pub nodes: Vec<Node>,
    /// The fabric's own addresses: every node's and the client's default gateway.
    pub gateway: Addresses,
    /// The machine outside the cluster. It has routes to nodes, none to pods.
    pub client: Addresses,
}

impl Topology {
    /// A control node and some workers, at most [`MOST_WORKERS`].
    ///
    /// # Errors
    /// When there are more.
    pub fn new(workers: u8) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=MOST_WORKERS).contains(&workers),
            "{workers} worker nodes; accepted: 1 to {MOST_WORKERS}"
        );
        Ok(Self {
            nodes: (0..=workers).map(Node::new).collect(),
            gateway: Addresses::on_fabric(1),
            client: Addresses::on_fabric(250),
        })
    }

    /// The node of a name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

fn network_v4(address: Ipv4Addr) -> Ipv4Network {
    // Only a prefix above 32 is refused.
    Ipv4Network::new_checked(address, PREFIX_V4).unwrap_or_else(|| address.into())
}

fn network_v6(address: Ipv6Addr) -> Ipv6Network {
    Ipv6Network::new_checked(address, PREFIX_V6).unwrap_or_else(|| address.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_shares_an_address_or_a_range() {
        let topology = Topology::new(MOST_WORKERS).unwrap();
        let mut hosts: Vec<_> = topology
            .nodes
            .iter()
            .map(|node| node.addresses.v4)
            .collect();
        hosts.extend([topology.gateway.v4, topology.client.v4]);
        let count = hosts.len();
        hosts.sort();
        hosts.dedup();
        assert_eq!(hosts.len(), count);
        for (node, other) in topology.nodes.iter().zip(topology.nodes.iter().skip(1)) {
            assert!(!node.pods_v4.overlaps(other.pods_v4));
            assert!(!node.pods_v6.overlaps(other.pods_v6));
        }
    }

    #[test]
    fn a_lab_without_or_with_too_many_workers_is_refused() {
        assert!(Topology::new(0).is_err());
        let error = Topology::new(MOST_WORKERS + 1).unwrap_err().to_string();
        assert!(
            error.contains("101") && error.contains("1 to 100"),
            "{error}"
        );
    }
}
