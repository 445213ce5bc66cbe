//! Two nodes of one link behind a router, for what goes from one node to the other.

use std::os::fd::AsFd;

use nodekit::netns::{NetNs, Worker};
use nodekit::route::{Address, Handle, NewBridge, Route, VethEnd, VethPair};

use super::server::Server;
use super::{Host, hurry, neighbour, set};
use crate::settle;

/// All namespaces; gone when dropped.
#[derive(Debug)]
pub struct Site {
    /// 192.0.2.11 and .12, 2001:db8:2::11 and ::12; their default route is the router.
    pub nodes: [Host; 2],
    /// Pod `n` is 10.244.n.2 and fd00:244:n::2: 1 is on the first node, 2 and 3 are on the second.
    pub pods: Vec<Host>,
    /// 192.0.2.1 and 2001:db8:2::1. What is for 203.0.113.0/24 and 2001:db8:113::/48 goes to the
    /// first node.
    pub router: Host,
    /// 198.51.100.2 and 2001:db8:51::2, behind the router's eth1.
    pub client: Host,
    /// What comes from a node passes its port here: port11 and port12.
    pub switch: NetNs,
    _server: Server,
}

impl Site {
    /// Makes everything.
    ///
    /// # Panics
    /// A namespace or a link cannot be made.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "nothing about it is a default")]
    pub fn new() -> Self {
        let switch = NetNs::anonymous().unwrap();
        let mut ports = Handle::open_in(&switch).unwrap();
        let bridge = NewBridge {
            name: "lan",
            mac: None,
            mtu: None,
            vlan_filtering: None,
            up: true,
        };
        ports.create_bridge(&bridge).unwrap();
        let [router, first, second] = [1, 11, 12].map(|last| plug(&mut ports, last));
        let client = neighbour(&router.netns, "eth1", "198.51.100", "2001:db8:51:");
        let pods: Vec<Host> = (1..=3)
            .map(|n| {
                let node = if n == 1 { &first } else { &second };
                let (v4, v6) = (format!("10.244.{n}"), format!("fd00:244:{n}:"));
                neighbour(&node.netns, &format!("veth{n}"), &v4, &v6)
            })
            .collect();
        for node in [&first, &second] {
            by(node, &["0.0.0.0/0", "::/0"], &router);
        }
        by(&first, &["10.244.2.0/23", "fd00:244:2::/47"], &second);
        by(&second, &["10.244.1.0/24", "fd00:244:1::/48"], &first);
        by(&router, &["203.0.113.0/24", "2001:db8:113::/48"], &first);
        let hosts = pods.iter().chain([&router, &first, &second, &client]);
        hosts.for_each(|host| settle(&host.netns).unwrap());
        let server = Server::start(&pods);
        Self {
            nodes: [first, second],
            pods,
            router,
            client,
            switch,
            _server: server,
        }
    }

    /// Pod `n`, from 1.
    #[must_use]
    pub fn pod(&self, n: usize) -> &Host {
        &self.pods[n - 1]
    }

    /// What is for the pods of the second node goes to the router, as far as the first one is
    /// concerned; and the router sends it on.
    ///
    /// # Panics
    /// A route cannot be made.
    pub fn part_nodes(&self) {
        let [first, second] = &self.nodes;
        by(first, &["10.244.2.0/24", "fd00:244:2::/48"], &self.router);
        by(first, &["10.244.3.0/24", "fd00:244:3::/48"], &self.router);
        by(&self.router, &["10.244.2.0/23", "fd00:244:2::/47"], second);
    }
}

/// A host of the link that forwards.
fn plug(ports: &mut Handle, last: u8) -> Host {
    let netns = NetNs::anonymous().unwrap();
    hurry(&netns);
    let forward = || {
        set(["net", "ipv4", "ip_forward"], "1");
        set(["net", "ipv6", "conf/all/forwarding"], "1");
    };
    netns.run(forward).unwrap();
    let bridge = ports.link_by_name("lan").unwrap().index;
    let near = format!("port{last}");
    let pair = VethPair {
        near: VethEnd::named(&near),
        far: VethEnd {
            netns: Some(netns.as_fd()),
            ..VethEnd::named("eth0")
        },
        near_up: true,
        near_master: Some(bridge),
    };
    ports.create_veth(&pair).unwrap();
    let mut links = Handle::open_in(&netns).unwrap();
    let eth0 = links.link_by_name("eth0").unwrap().index;
    for link in [1, eth0] {
        links.set_up(link).unwrap();
    }
    let (v4, v6) = (format!("192.0.2.{last}"), format!("2001:db8:2::{last}"));
    for address in [format!("{v4}/24"), format!("{v6}/64")] {
        let address = Address::new(eth0, address.parse().unwrap());
        links.add_address(&address).unwrap();
    }
    Host {
        _inhabitant: Worker::start(&netns).unwrap(),
        netns,
        v4: v4.parse().unwrap(),
        v6: v6.parse().unwrap(),
    }
}

/// What `host` has for these networks, one of each family, goes to `gateway`.
fn by(host: &Host, networks: &[&str; 2], gateway: &Host) {
    let mut routes = Handle::open_in(&host.netns).unwrap();
    for (network, gateway) in networks.iter().zip([gateway.v4, gateway.v6]) {
        let mut route = Route::to(network.parse().unwrap());
        route.gateway = Some(gateway);
        routes.add_route(&route).unwrap();
    }
}
