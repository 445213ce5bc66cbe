//! A node with two pods behind a bridge, another node with a pod, and a client outside.

use std::io::{Read, Result};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use causeway_tests::settle;
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, NewBridge, Route, VethEnd, VethPair};
use nodekit::sysctl;

/// For an answer that must come: the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace with an address of each family.
pub(crate) struct Host {
    pub(crate) netns: NetNs,
    pub(crate) v4: IpAddr,
    pub(crate) v6: IpAddr,
}

/// All of them.
pub(crate) struct Bed {
    pub(crate) node: NetNs,
    /// 192.0.2.2 and 2001:db8:2::2; the node is 192.0.2.1 there, on eth0.
    pub(crate) client: Host,
    /// 10.244.1.2 and 10.244.1.3 behind cni0.
    pub(crate) pods: [Host; 2],
    /// 10.244.2.2, behind eth1.
    pub(crate) remote: Host,
}

impl Host {
    fn new(v4: &str, v6: &str) -> Self {
        let netns = NetNs::anonymous().unwrap();
        quick(&netns);
        Handle::open_in(&netns).unwrap().set_up(1).unwrap();
        Self {
            netns,
            v4: v4.parse().unwrap(),
            v6: v6.parse().unwrap(),
        }
    }

    /// Its address of the same family.
    pub(crate) fn beside(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// What who answers over TCP says: who it is, and whom it sees.
    pub(crate) fn tcp(&self, to: SocketAddr) -> Result<String> {
        let ask = || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        };
        self.netns.run(ask).unwrap()
    }

    /// A UDP socket for `to`.
    pub(crate) fn udp_socket(&self, to: SocketAddr) -> UdpSocket {
        let from = self.beside(to.ip());
        let open = || {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        self.netns.run(open).unwrap()
    }

    /// The same over UDP.
    pub(crate) fn udp(&self, to: SocketAddr) -> Result<String> {
        exchange(&self.udp_socket(to), b"?")
    }

    /// The same, asked twice of the same port.
    pub(crate) fn udp_twice(&self, to: SocketAddr) -> Result<String> {
        let socket = self.udp_socket(to);
        let first = exchange(&socket, b"?")?;
        let second = exchange(&socket, b"?")?;
        assert_eq!(first, second);
        Ok(second)
    }
}

/// Sends a datagram and says what comes back.
pub(crate) fn exchange(socket: &UdpSocket, datagram: &[u8]) -> Result<String> {
    socket.send(datagram)?;
    let mut answer = [0; 256];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

impl Bed {
    pub(crate) fn new() -> Self {
        let node = NetNs::anonymous().unwrap();
        quick(&node);
        let mut links = Handle::open_in(&node).unwrap();
        links.set_up(1).unwrap();
        node.run(forward).unwrap();
        let client = Host::new("192.0.2.2", "2001:db8:2::2");
        join(&node, &client.netns, "eth0", None);
        give(&node, "eth0", ["192.0.2.1/24", "2001:db8:2::1/64"]);
        give(&client.netns, "eth0", ["192.0.2.2/24", "2001:db8:2::2/64"]);
        by(&client.netns, ["192.0.2.1", "2001:db8:2::1"]);

        let bridge = links
            .create_bridge(&NewBridge {
                name: "cni0",
                mac: None,
                mtu: None,
                vlan_filtering: None,
                up: true,
            })
            .and_then(|()| links.link_by_name("cni0"));
        let bridge = bridge.unwrap().index;
        give(&node, "cni0", ["10.244.1.1/24", "fd00:244:1::1/64"]);
        let pods = [2, 3].map(|last| {
            let pod = Host::new(&format!("10.244.1.{last}"), &format!("fd00:244:1::{last}"));
            join(&node, &pod.netns, &format!("veth{last}"), Some(bridge));
            let addresses = [format!("{}/24", pod.v4), format!("{}/64", pod.v6)];
            give(&pod.netns, "eth0", addresses.each_ref().map(String::as_str));
            by(&pod.netns, ["10.244.1.1", "fd00:244:1::1"]);
            pod
        });

        let remote = Host::new("10.244.2.2", "fd00:244:2::2");
        join(&node, &remote.netns, "eth1", None);
        give(&node, "eth1", ["198.51.100.1/24", "2001:db8:51::1/64"]);
        give(
            &remote.netns,
            "eth0",
            ["198.51.100.2/24", "2001:db8:51::2/64"],
        );
        give(&remote.netns, "lo", ["10.244.2.2/32", "fd00:244:2::2/128"]);
        by(&remote.netns, ["198.51.100.1", "2001:db8:51::1"]);
        for (network, gateway) in [
            ("10.244.2.0/24", "198.51.100.2"),
            ("fd00:244:2::/64", "2001:db8:51::2"),
        ] {
            let mut route = Route::to(network.parse().unwrap());
            route.gateway = Some(gateway.parse().unwrap());
            links.add_route(&route).unwrap();
        }
        let [one, two] = &pods;
        for netns in [&client, one, two, &remote].map(|host| &host.netns) {
            settle(netns).unwrap();
        }
        settle(&node).unwrap();
        Self {
            node,
            client,
            pods,
            remote,
        }
    }

    /// From now on the node finishes the checksums of what it sends, as it does for a real link;
    /// else they are left unfinished between virtual ones, and nobody looks at them.
    pub(crate) fn finish_checksums(&self) {
        for link in ["eth0", "eth1", "cni0", "veth2", "veth3"] {
            set_offload(&self.node, link, "tx", false);
        }
    }

    /// Has the client finish its checksums, as if there were a real link to it.
    pub(crate) fn finish_clients_checksums(&self) {
        set_offload(&self.client.netns, "eth0", "tx", false);
    }

    /// From now on the link to the pods takes packets of 1,300 bytes, and less than the others.
    pub(crate) fn narrow(&self) {
        let set = || {
            let mut ip = Command::new("ip");
            ip.args(["link", "set", "cni0", "mtu", "1300"]);
            ip.status().unwrap()
        };
        assert!(self.node.run(set).unwrap().success());
    }

    /// Pods of another node that is behind the same link as the client, 10.244.3.2 and
    /// fd00:244:3::2: it is the client itself.
    pub(crate) fn beyond(&self) -> Host {
        let netns = self.client.netns.try_clone().unwrap();
        let beyond = Host {
            netns,
            v4: "10.244.3.2".parse().unwrap(),
            v6: "fd00:244:3::2".parse().unwrap(),
        };
        give(&beyond.netns, "lo", ["10.244.3.2/32", "fd00:244:3::2/128"]);
        settle(&beyond.netns).unwrap();
        let mut links = Handle::open_in(&self.node).unwrap();
        let networks = ["10.244.3.0/24", "fd00:244:3::/64"];
        for (network, gateway) in networks.iter().zip([self.client.v4, self.client.v6]) {
            let mut route = Route::to(network.parse().unwrap());
            route.gateway = Some(gateway);
            links.add_route(&route).unwrap();
        }
        beyond
    }

    /// The index of a link of the node.
    pub(crate) fn link(&self, name: &str) -> u32 {
        let mut links = Handle::open_in(&self.node).unwrap();
        links.link_by_name(name).unwrap().index
    }
}

/// What the kernel leaves to a link, or does for it (ethtool(8), `--offload`).
pub(crate) fn set_offload(netns: &NetNs, link: &str, what: &str, on: bool) {
    let mut ethtool = Command::new("ethtool");
    ethtool.args(["--offload", link, what, if on { "on" } else { "off" }]);
    let output = netns.run(|| ethtool.output()).unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn set(key: &[&str], value: &str) {
    sysctl::write(&sysctl::Key::new(key.iter().copied()).unwrap(), value).unwrap();
}

fn forward() {
    set(&["net", "ipv4", "ip_forward"], "1");
    set(&["net", "ipv6", "conf", "all", "forwarding"], "1");
}

/// Addresses of links to come can be used at once, and every refusal is told.
fn quick(netns: &NetNs) {
    let at_once = || {
        set(&["net", "ipv6", "conf", "default", "accept_dad"], "0");
        set(&["net", "ipv4", "icmp_ratelimit"], "0");
        set(&["net", "ipv6", "icmp", "ratelimit"], "0");
    };
    netns.run(at_once).unwrap();
}

fn join(node: &NetNs, other: &NetNs, name: &str, near_master: Option<u32>) {
    let pair = VethPair {
        near: VethEnd::named(name),
        far: VethEnd {
            netns: Some(other.as_fd()),
            ..VethEnd::named("eth0")
        },
        near_up: false,
        near_master,
    };
    let mut near = Handle::open_in(node).unwrap();
    near.create_veth(&pair).unwrap();
    let link = near.link_by_name(name).unwrap().index;
    near.set_up(link).unwrap();
    let mut far = Handle::open_in(other).unwrap();
    let link = far.link_by_name("eth0").unwrap().index;
    far.set_up(link).unwrap();
}

fn give(netns: &NetNs, link: &str, addresses: [&str; 2]) {
    let mut handle = Handle::open_in(netns).unwrap();
    let link = handle.link_by_name(link).unwrap().index;
    for address in addresses {
        let address = Address::new(link, address.parse().unwrap());
        handle.add_address(&address).unwrap();
    }
}

fn by(netns: &NetNs, gateways: [&str; 2]) {
    let mut handle = Handle::open_in(netns).unwrap();
    for gateway in gateways {
        let route = Route::default_by(gateway.parse().unwrap());
        handle.add_route(&route).unwrap();
    }
}
