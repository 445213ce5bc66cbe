//! The interfaces whose packets are translated, and what is known of each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_ebpf_abi::{Interface, Settings};
use lb_model::{Family, LocalDetector};
use lb_plan::bpf::address;
use nodekit::route::{Address, Error, Handle, Link, Scope};

/// The loopback interface's index, in every network namespace (`LOOPBACK_IFINDEX`, linux/if.h).
const LOOPBACK: u32 = 1;

/// The network namespace as it is.
#[derive(Debug, Default)]
pub(super) struct Scene {
    /// By index, with the name.
    pub(super) interfaces: BTreeMap<u32, (String, Interface)>,
    /// Every address of the node.
    pub(super) here: BTreeSet<IpAddr>,
}

impl Scene {
    /// Looks.
    pub(super) fn look(detectors: &BTreeMap<Family, LocalDetector>) -> Result<Self, Error> {
        let mut handle = Handle::open()?;
        let (links, addresses) = (handle.links()?, handle.addresses(None)?);
        Ok(Self::of(&links, &addresses, detectors))
    }

    /// Ports of a bridge or a bond have none: what comes to them comes up through the one that they
    /// belong to.
    fn of(
        links: &[Link],
        addresses: &[Address],
        detectors: &BTreeMap<Family, LocalDetector>,
    ) -> Self {
        let seen = links
            .iter()
            .filter(|link| link.index != LOOPBACK && link.master.is_none());
        let interface = |link: &Link| {
            let pods = detectors.values().any(|by| is_pods(by, &link.name));
            let mut flags = 0;
            if pods {
                flags |= Interface::PODS;
            }
            if link.mac.is_none() {
                flags |= Interface::NO_ETHERNET;
            }
            let source = |family| source(addresses, link.index, family).map_or([0; 16], address);
            Interface {
                v4: source(Family::V4),
                v6: source(Family::V6),
                flags,
            }
        };
        Self {
            interfaces: seen
                .map(|link| (link.index, (link.name.clone(), interface(link))))
                .collect(),
            here: addresses.iter().map(|one| one.address.ip()).collect(),
        }
    }
}

impl Scene {
    /// [`Settings::no_ethernet`].
    pub(super) fn no_ethernet(&self) -> [u32; 2] {
        let mut all = [0; 2];
        for (index, (_, interface)) in &self.interfaces {
            if interface.flags & Interface::NO_ETHERNET != 0 {
                let (upper, bit) = Settings::bit(*index);
                all[usize::from(upper)] |= bit;
            }
        }
        all
    }
}

fn is_pods(detector: &LocalDetector, name: &str) -> bool {
    match detector {
        LocalDetector::None | LocalDetector::Cidr(_) => false,
        LocalDetector::Interface(pods) => pods == name,
        LocalDetector::InterfacePrefix(prefix) => name.starts_with(prefix),
    }
}

/// The node's address for what leaves by `link`: the link's first one, or, where it has none, the
/// first one of any, as the kernel's masquerading has it (`inet_select_addr`).
fn source(addresses: &[Address], link: u32, family: Family) -> Option<IpAddr> {
    let good = addresses.iter().filter(|one| {
        let ip = one.address.ip();
        let usable = !one.tentative && !one.dad_failed && !ip.is_loopback();
        Family::of(ip) == family && one.scope == Scope::Universe && usable
    });
    let mut good: Vec<&Address> = good.collect();
    good.sort_by_key(|one| (one.link != link, one.link));
    good.first().map(|one| one.address.ip())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use nodekit::route::Mac;

    pub(crate) fn link(index: u32, name: &str, master: Option<u32>, mac: bool) -> Link {
        Link {
            index,
            name: name.to_owned(),
            alias: None,
            kind: None,
            mac: mac.then_some(Mac([2; 6])),
            mtu: 1500,
            up: true,
            carrier: true,
            promiscuous: false,
            all_multicast: false,
            qdisc: None,
            tx_queue_len: 0,
            master,
            peer: None,
            peer_netnsid: None,
            port: None,
            port_enabled: false,
            vlan_filtering: None,
            ipv6: None,
        }
    }

    fn at(link: u32, address: &str, scope: Scope) -> Address {
        Address {
            scope,
            ..Address::new(link, address.parse().unwrap())
        }
    }

    #[test]
    fn each_interface_has_its_addresses_and_says_whether_pods_are_there() {
        let links = [
            link(1, "lo", None, false),
            link(2, "eth0", None, true),
            link(3, "cni0", None, true),
            link(4, "veth1", Some(3), true),
            link(5, "wg0", None, false),
        ];
        let addresses = [
            at(1, "127.0.0.1/8", Scope::Host),
            at(5, "169.254.9.9/32", Scope::Link),
            at(3, "10.244.1.1/24", Scope::Universe),
            at(2, "192.0.2.1/24", Scope::Universe),
            at(2, "192.0.2.9/24", Scope::Universe),
            at(2, "fe80::1/64", Scope::Link),
            at(2, "2001:db8::1/64", Scope::Universe),
        ];
        let detectors = [(Family::V4, LocalDetector::Interface("cni0".to_owned()))];
        let scene = Scene::of(&links, &addresses, &detectors.into());
        let found: Vec<_> = scene.interfaces.iter().collect();
        let one = |v4: &str, v6: &str, flags| Interface {
            v4: address(v4.parse().unwrap()),
            v6: address(v6.parse().unwrap()),
            flags,
        };
        assert_eq!(
            found,
            [
                (&2, &("eth0".to_owned(), one("192.0.2.1", "2001:db8::1", 0))),
                (
                    &3,
                    &(
                        "cni0".to_owned(),
                        one("10.244.1.1", "2001:db8::1", Interface::PODS)
                    )
                ),
                (
                    &5,
                    &(
                        "wg0".to_owned(),
                        one("192.0.2.1", "2001:db8::1", Interface::NO_ETHERNET)
                    )
                ),
            ]
        );
        assert_eq!(scene.here.len(), 7);
        assert_eq!(scene.no_ethernet(), [1 << 5, 0]);
    }
}
