//! Two nodes with pods, and a machine outside: network namespaces of their own for everybody who is
//! measured, since the kernel hooks rules up for each namespace.
//!
//! ```text
//!  outside ──── node-1 ──────────────────── node-2
//!               cni0: client pod, near pod   cni0: far pod
//! ```

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, NewBridge, Route, VethEnd, VethPair};
use nodekit::sysctl::{self, Key};

/// The nodes' names.
pub(crate) const NODES: [&str; 2] = ["node-1", "node-2"];
/// Their addresses on the wire between them.
pub(crate) const NODE_IPS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(172, 30, 0, 1), Ipv4Addr::new(172, 30, 0, 2)];
/// Of the pods of both.
pub(crate) const PODS: &str = "10.244.0.0/16";
/// The pod on the client's node.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
/// The pod on the other one.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 2);

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const GATEWAYS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 1), Ipv4Addr::new(10, 244, 2, 1)];
const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// See the module; gone when dropped.
pub(crate) struct Cluster {
    pub(crate) nodes: [NetNs; 2],
    pub(crate) client: NetNs,
    pub(crate) outside: NetNs,
    pub(crate) near: NetNs,
    pub(crate) far: NetNs,
}

impl Cluster {
    /// Makes everything; no packet filter has a rule anywhere.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let nodes = [node(GATEWAYS[0])?, node(GATEWAYS[1])?];
        let [one, two] = &nodes;
        wire(one, "eth0", NODE_IPS[0], two, "eth0", NODE_IPS[1])?;
        let other_pods = Route::to("10.244.2.0/24".parse()?);
        Handle::open_in(one)?.add_route(&Route {
            gateway: Some(NODE_IPS[1].into()),
            ..other_pods
        })?;
        Handle::open_in(one)?.add_route(&Route::default_by(NODE_IPS[1].into()))?;
        Handle::open_in(two)?.add_route(&Route::default_by(NODE_IPS[0].into()))?;
        let outside = machine()?;
        wire(one, "eth1", OUTSIDE[0], &outside, "eth0", OUTSIDE[1])?;
        Handle::open_in(&outside)?.add_route(&Route::default_by(OUTSIDE[0].into()))?;
        Ok(Self {
            client: pod(one, "veth-client", CLIENT, GATEWAYS[0])?,
            near: pod(one, "veth-near", NEAR, GATEWAYS[0])?,
            far: pod(two, "veth-far", FAR, GATEWAYS[1])?,
            nodes,
            outside,
        })
    }
}

/// A namespace with many ports, whose connections leave nothing when they are closed: to find a port
/// among thousands in TIME-WAIT takes longer than the connection that it is for.
fn machine() -> anyhow::Result<NetNs> {
    let netns = NetNs::anonymous()?;
    let ports = Key::new(["net", "ipv4", "ip_local_port_range"])?;
    let waiting = Key::new(["net", "ipv4", "tcp_max_tw_buckets"])?;
    // Above those of [`causeway_tests::attempt`]: of its attempts connection tracking has entries that
    // are not translated, and a client's next connection from such a port would get nowhere.
    netns.run(|| sysctl::write(&ports, "30000 60999"))??;
    netns.run(|| sysctl::write(&waiting, "0"))??;
    let mut links = Handle::open_in(&netns)?;
    let lo = links.link_by_name("lo")?.index;
    links.set_up(lo)?;
    Ok(netns)
}

/// A machine that forwards, with a bridge for pods that shows its packets to the packet filter, as
/// every Kubernetes node has it.
fn node(gateway: Ipv4Addr) -> anyhow::Result<NetNs> {
    let netns = machine()?;
    netns.run(|| -> anyhow::Result<()> {
        for (folder, name) in [
            ("ipv4", "ip_forward"),
            ("bridge", "bridge-nf-call-iptables"),
        ] {
            sysctl::write(&Key::new(["net", folder, name])?, "1")?;
        }
        Ok(())
    })??;
    let mut links = Handle::open_in(&netns)?;
    links.create_bridge(&NewBridge {
        name: "cni0",
        mac: None,
        mtu: None,
        vlan_filtering: None,
        up: true,
    })?;
    let bridge = links.link_by_name("cni0")?.index;
    links.add_address(&Address::new(bridge, format!("{gateway}/24").parse()?))?;
    Ok(netns)
}

fn wire(
    one: &NetNs,
    name: &str,
    own: Ipv4Addr,
    other: &NetNs,
    other_name: &str,
    other_own: Ipv4Addr,
) -> anyhow::Result<()> {
    let mut links = Handle::open_in(one)?;
    links.create_veth(&VethPair {
        near: VethEnd::named(name),
        far: VethEnd {
            netns: Some(other.as_fd()),
            ..VethEnd::named(other_name)
        },
        near_up: true,
        near_master: None,
    })?;
    for (netns, name, own) in [(one, name, own), (other, other_name, other_own)] {
        let mut links = Handle::open_in(netns)?;
        let link = links.link_by_name(name)?.index;
        links.set_up(link)?;
        links.add_address(&Address::new(link, format!("{own}/24").parse()?))?;
    }
    Ok(())
}

fn pod(node: &NetNs, name: &str, own: Ipv4Addr, gateway: Ipv4Addr) -> anyhow::Result<NetNs> {
    let pod = machine()?;
    let mut links = Handle::open_in(node)?;
    let bridge = links.link_by_name("cni0")?.index;
    links.create_veth(&VethPair {
        near: VethEnd::named(name),
        far: VethEnd {
            netns: Some(pod.as_fd()),
            ..VethEnd::named("eth0")
        },
        near_up: true,
        near_master: Some(bridge),
    })?;
    let mut links = Handle::open_in(&pod)?;
    let link = links.link_by_name("eth0")?.index;
    links.set_up(link)?;
    links.add_address(&Address::new(link, format!("{own}/24").parse()?))?;
    links.add_route(&Route::default_by(gateway.into()))?;
    Ok(pod)
}
