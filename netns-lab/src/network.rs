//! The lab's wires: the fabric's bridge, the nodes, the outside client, and the routes between.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context as _;
use ipnetwork::IpNetwork;
use nodekit::Errno;
use nodekit::netns::{NetNs, NetNsDir};
use nodekit::route::{Address, Handle, NewBridge, Route, VethEnd, VethPair};
use nodekit::sysctl::{self, Key};

use crate::topology::{Addresses, Topology};

/// The name of the namespace that connects all others.
pub(crate) const FABRIC: &str = "fabric";
/// The name of the namespace outside the cluster.
pub const CLIENT: &str = "client";

/// The bridge inside the fabric.
const BRIDGE: &str = "fabric0";
/// Every machine's device on the fabric.
const UPLINK: &str = "eth0";

/// Makes the fabric, the nodes and the client below `folder`.
///
/// # Errors
/// The first thing that failed; what was made until then is in the folder.
pub(crate) fn build(folder: &Path, topology: &Topology) -> anyhow::Result<()> {
    let names = NetNsDir::open(folder)?;
    let fabric = names.create(FABRIC)?;
    let mut switch = Switch::build(&fabric, topology.gateway).context("building the fabric")?;
    for (port, node) in topology.nodes.iter().enumerate() {
        let netns = names.create(&node.name)?;
        let build = || -> anyhow::Result<()> {
            let mut handle = switch.plug(port, &netns, node.addresses, topology.gateway)?;
            netns.run(forward)??;
            for other in topology
                .nodes
                .iter()
                .filter(|other| other.name != node.name)
            {
                for (range, by) in [
                    (other.pods_v4.into(), IpAddr::from(other.addresses.v4)),
                    (other.pods_v6.into(), IpAddr::from(other.addresses.v6)),
                ] {
                    handle.add_route(&Route {
                        gateway: Some(by),
                        ..Route::to(range)
                    })?;
                }
            }
            Ok(())
        };
        let mut build = build;
        build().with_context(|| format!("building node {}", node.name))?;
    }
    let client = names.create(CLIENT)?;
    let port = topology.nodes.len();
    switch
        .plug(port, &client, topology.client, topology.gateway)
        .context("building the client outside the cluster")?;
    Ok(())
}

/// The bridge that everybody is plugged into.
struct Switch {
    handle: Handle,
    bridge: u32,
}

impl Switch {
    fn build(fabric: &NetNs, own: Addresses) -> anyhow::Result<Self> {
        let mut handle = Handle::open_in(fabric)?;
        set_up(&mut handle, "lo")?;
        fabric.run(no_address_detection)??;
        handle.create_bridge(&NewBridge {
            name: BRIDGE,
            mac: None,
            mtu: None,
            vlan_filtering: None,
            up: true,
        })?;
        let bridge = handle.link_by_name(BRIDGE)?.index;
        add_addresses(&mut handle, bridge, own)?;
        Ok(Self { handle, bridge })
    }

    /// Plugs a namespace in: its `eth0` with addresses and the default routes. The default route
    /// matters even though nothing lies beyond the fabric: a packet to a ClusterIP must find a
    /// way out before the service proxy's rules change where it goes.
    fn plug(
        &mut self,
        port: usize,
        netns: &NetNs,
        own: Addresses,
        gateway: Addresses,
    ) -> anyhow::Result<Handle> {
        netns.run(no_address_detection)??;
        let far = VethEnd {
            netns: Some(netns.as_fd()),
            ..VethEnd::named(UPLINK)
        };
        self.handle.create_veth(&VethPair {
            near: VethEnd::named(&format!("port{port}")),
            far,
            near_up: true,
            near_master: Some(self.bridge),
        })?;
        let mut handle = Handle::open_in(netns)?;
        set_up(&mut handle, "lo")?;
        let link = set_up(&mut handle, UPLINK)?;
        add_addresses(&mut handle, link, own)?;
        handle.add_route(&Route::default_by(gateway.v4.into()))?;
        handle.add_route(&Route::default_by(gateway.v6.into()))?;
        Ok(handle)
    }
}

fn set_up(handle: &mut Handle, name: &str) -> anyhow::Result<u32> {
    let index = handle.link_by_name(name)?.index;
    handle.set_up(index)?;
    Ok(index)
}

fn add_addresses(handle: &mut Handle, link: u32, own: Addresses) -> anyhow::Result<()> {
    let (v4, v6) = own.networks();
    for network in [IpNetwork::V4(v4), IpNetwork::V6(v6)] {
        handle.add_address(&Address::new(link, network))?;
    }
    Ok(())
}

/// Link-local addresses are usable at once; nobody else is on these wires.
fn no_address_detection() -> Result<(), sysctl::Error> {
    for device in ["all", "default"] {
        sysctl::write(&Key::ipv6_conf(device, "accept_dad")?, "0")?;
    }
    Ok(())
}

/// What makes a node out of a machine: it forwards, and packets that its bridge passes from pod
/// to pod go through its packet filter, too. Without the latter, the answer of a pod to its
/// neighbour behind a Service would come from the wrong address.
fn forward() -> anyhow::Result<()> {
    sysctl::write(&"net.ipv4.ip_forward".parse()?, "1")?;
    sysctl::write(&Key::ipv6_conf("all", "forwarding")?, "1")?;
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        let key = Key::new(["net", "bridge", name])?;
        match sysctl::ensure(&key, "1") {
            Ok(_) => {}
            Err(error) if error.errno() == Some(Errno::ENOENT) => anyhow::bail!(
                "the kernel module br_netfilter isn't loaded: run `modprobe br_netfilter`, as on \
                 any Kubernetes node whose pods share a bridge"
            ),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
