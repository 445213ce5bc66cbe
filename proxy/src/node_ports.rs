//! The addresses on which node ports are served.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use lb_model::Family;
use nodekit::route::{Handle, index_of};

use crate::backend::ipvs::DEVICE;
use crate::config::NodePortAddresses;

/// What they depend on.
#[derive(Clone, Debug)]
pub struct NodePorts {
    wanted: NodePortAddresses,
    /// `bindAddress`.
    node_ip: Option<IpAddr>,
    /// Of the Node object, as it last was.
    node: Vec<IpAddr>,
}

impl NodePorts {
    /// No Node is known yet. `node_ip`: `bindAddress`.
    pub const fn new(wanted: NodePortAddresses, node_ip: Option<IpAddr>) -> Self {
        Self {
            wanted,
            node_ip,
            node: Vec::new(),
        }
    }

    /// Takes another configuration.
    pub fn configure(&mut self, wanted: NodePortAddresses, node_ip: Option<IpAddr>) {
        (self.wanted, self.node_ip) = (wanted, node_ip);
    }

    /// The Node's `status.addresses`: internal ones first. Unusable ones are left out.
    pub fn set_node(&mut self, addresses: &[String]) {
        self.node = addresses
            .iter()
            .filter_map(|address| address.parse().ok())
            .collect();
    }

    /// The addresses as they are now. Where the Node names none, the address from which this host
    /// would talk to the world stands in.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let mut addresses = BTreeSet::new();
        if self.wanted.primary {
            addresses.extend(
                Family::ALL
                    .into_iter()
                    .filter_map(|family| self.primary(family)),
            );
        }
        let within = &self.wanted.within;
        if !within.is_empty() {
            let own = local_addresses(self.wanted.loopback);
            addresses.extend(own.filter(|ip| within.iter().any(|network| network.contains(*ip))));
        }
        addresses
    }

    /// Whether every address of `family` serves node ports.
    fn is_everywhere(&self, family: Family) -> bool {
        self.wanted.is_everywhere(unspecified(family))
    }

    /// Whether node ports are wanted on loopback addresses of IPv4.
    pub fn names_localhost(&self) -> bool {
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        let mut within = self.wanted.within.iter();
        within.any(|network| network.contains(localhost))
    }

    /// The same as addresses to listen on: the unspecified one where every address of a family
    /// serves node ports.
    pub fn listening(&self) -> BTreeSet<IpAddr> {
        let (everywhere, others): (Vec<Family>, Vec<Family>) = Family::ALL
            .into_iter()
            .partition(|family| self.is_everywhere(*family));
        let mut listening: BTreeSet<IpAddr> = everywhere.into_iter().map(unspecified).collect();
        if !others.is_empty() {
            let addresses = self.addresses().into_iter();
            listening.extend(addresses.filter(|ip| others.contains(&Family::of(*ip))));
        }
        listening
    }

    fn primary(&self, family: Family) -> Option<IpAddr> {
        let own = |ip: &&IpAddr| Family::of(**ip) == family;
        let said = self.node_ip.iter().chain(&self.node).find(own).copied();
        // A Node with addresses of one family has none of the other.
        let unknown = self.node_ip.is_none() && self.node.is_empty();
        said.or_else(|| unknown.then(|| source_address(family)).flatten())
    }
}

const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Every address of this host but those that mode ipvs, or kube-proxy's, gave it for Services; none
/// when the kernel does not tell, which is logged.
pub fn own_addresses() -> BTreeSet<IpAddr> {
    let listed = Handle::open().and_then(|mut handle| {
        let services = index_of(DEVICE)?;
        let mut addresses = handle.addresses(None)?;
        addresses.retain(|address| Some(address.link) != services);
        Ok(addresses)
    });
    match listed {
        Ok(addresses) => addresses
            .into_iter()
            .map(|address| address.address.ip())
            .collect(),
        Err(error) => {
            tracing::warn!(%error, "this host's addresses are unknown");
            BTreeSet::new()
        }
    }
}

/// All addresses of this host but link-local ones, where a node port would never be asked for, and
/// loopback ones, unless that of IPv4 is wanted. Without any, node ports are not served.
fn local_addresses(loopback: bool) -> impl Iterator<Item = IpAddr> {
    own_addresses()
        .into_iter()
        .filter(|ip| !is_link_local(*ip))
        .filter(move |ip| !ip.is_loopback() || loopback && ip.is_ipv4())
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The source that the kernel would choose towards a documentation address (RFC 5737, RFC 3849).
/// Connecting a UDP socket sends nothing.
fn source_address(family: Family) -> Option<IpAddr> {
    let (any, world): (IpAddr, IpAddr) = match family {
        Family::V4 => (
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
        ),
        Family::V6 => (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        ),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((world, 9)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primary(node_ip: Option<&str>, node: &[&str]) -> Vec<String> {
        let ip = node_ip.map(|ip| ip.parse().unwrap());
        let mut ports = NodePorts::new(NodePortAddresses::primary(), ip);
        ports.set_node(&node.iter().map(ToString::to_string).collect::<Vec<_>>());
        ports.addresses().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_first_address_of_each_family_is_primary() {
        let node = [
            "192.168.0.4",
            "fd00::4",
            "10.0.0.4",
            "not an address",
            "fd00::5",
        ];
        assert_eq!(primary(None, &node), ["192.168.0.4", "fd00::4"]);
        assert_eq!(primary(None, &["192.168.0.4"]), ["192.168.0.4"]);
    }

    #[test]
    fn the_bind_address_wins_in_its_family() {
        assert_eq!(
            primary(Some("10.9.9.9"), &["10.0.0.4", "fd00::4"]),
            ["10.9.9.9", "fd00::4"]
        );
        assert_eq!(primary(Some("10.9.9.9"), &[]), ["10.9.9.9"]);
    }
}
