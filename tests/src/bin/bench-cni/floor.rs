//! The netlink calls that no attachment can do without, from this process itself.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, NewBridge, Route, VethEnd, VethPair};

use crate::network::Network;
use crate::node::{Node, Pod};

const BRIDGE: &str = "cni0";
const PORT: &str = "veth0";

impl Node {
    /// A veth pair between the bridge and a pod, with addresses and default routes. Only one at a
    /// time.
    pub(crate) fn bare_add(&self, pod: &Pod, network: &Network) -> anyhow::Result<Duration> {
        self.netns.run(|| {
            let mut route = Handle::open()?;
            let bridge = bridge(&mut route, network)?;
            let start = Instant::now();
            let pair = VethPair {
                near: VethEnd::named(PORT),
                far: VethEnd {
                    netns: Some(pod.netns.as_fd()),
                    ..VethEnd::named("eth0")
                },
                near_up: true,
                near_master: Some(bridge),
            };
            route.create_veth(&pair)?;
            configure(&pod.netns, network)?;
            Ok(start.elapsed())
        })?
    }

    /// Takes it away.
    pub(crate) fn bare_delete(&self) -> anyhow::Result<Duration> {
        self.netns.run(|| {
            let mut route = Handle::open()?;
            let start = Instant::now();
            route.delete_link_by_name(PORT)?;
            Ok(start.elapsed())
        })?
    }
}

fn configure(pod: &NetNs, network: &Network) -> anyhow::Result<()> {
    let mut route = Handle::open_in(pod)?;
    let link = route.link_by_name("eth0")?.index;
    for subnet in network.subnets() {
        route.add_address(&address(link, subnet, 2)?)?;
    }
    route.set_up(link)?;
    for subnet in network.subnets() {
        let gateway = address(link, subnet, 1)?.address.ip();
        route.add_route(&Route::default_by(gateway))?;
    }
    Ok(())
}

/// The bridge, made by the first who asks.
fn bridge(route: &mut Handle, network: &Network) -> anyhow::Result<u32> {
    if let Ok(bridge) = route.link_by_name(BRIDGE) {
        return Ok(bridge.index);
    }
    route.create_bridge(&NewBridge {
        name: BRIDGE,
        mac: None,
        mtu: None,
        vlan_filtering: None,
        up: true,
    })?;
    let index = route.link_by_name(BRIDGE)?.index;
    for subnet in network.subnets() {
        route.add_address(&address(index, subnet, 1)?)?;
    }
    Ok(index)
}

/// A host's address of a subnet.
fn address(link: u32, subnet: &str, host: u8) -> anyhow::Result<Address> {
    let (network, prefix) = subnet.split_once('/').unwrap_or((subnet, "32"));
    let host = match network.parse()? {
        IpAddr::V4(address) => IpAddr::from((u32::from(address) + u32::from(host)).to_be_bytes()),
        IpAddr::V6(address) => IpAddr::from((u128::from(address) + u128::from(host)).to_be_bytes()),
    };
    let mut address = Address::new(link, format!("{host}/{prefix}").parse()?);
    address.nodad = host.is_ipv6();
    Ok(address)
}
