//! The bridge itself, which all pods of a node share: made once, by whoever comes first.

use std::fs::File;
use std::io::Read;

use cni_types::{Cidr, Code, Error, IpConfig};
use ipnetwork::IpNetwork;
use nodekit::Errno;
use nodekit::route::{
    Address, BridgePort, Handle, Link, LinkChange, Mac, Neighbour, NeighbourState, NewBridge,
};

use super::config::Network;
use crate::identity::HostEnd;
use crate::pod::{self, to_network};
use crate::{failure, forwarding};

/// The bridge, up; made where there is none. Any number of processes may do this at once.
pub(super) fn ensure(route: &mut Handle, network: &Network) -> Result<Link, Error> {
    let link = match find(route, &network.bridge)? {
        Some(link) => link,
        None => make(route, network)?,
    };
    if network.vlans.is_some() && link.vlan_filtering == Some(false) {
        route
            .set_vlan_filtering(link.index, true)
            .map_err(failure::kernel)?;
    }
    let change = LinkChange {
        up: (!link.up).then_some(true),
        promiscuous: (network.promiscuous && !link.promiscuous).then_some(true),
        ..LinkChange::default()
    };
    if change.up.is_some() || change.promiscuous.is_some() {
        route
            .change_link(link.index, &change)
            .map_err(failure::kernel)?;
    }
    settle_ipv6(&link, network.dad)?;
    Ok(link)
}

/// Sees that the kernel has what the configuration asks of it, before anything is made. Costs
/// nothing where nothing unusual is asked.
///
/// # Errors
/// Code 2 naming the option and what the kernel lacks.
pub(super) fn demand(route: &mut Handle, network: &Network) -> Result<(), Error> {
    match &network.vlans {
        Some(vlans) => vlans.demand(route, network.gateway),
        None => Ok(()),
    }
}

/// The node's own interface in the network: the bridge or, in a VLAN, one above it.
pub(super) fn gateway(
    route: &mut Handle,
    bridge: &Link,
    network: &Network,
) -> Result<Option<Link>, Error> {
    let Some(vlans) = &network.vlans else {
        return Ok(None);
    };
    let link = vlans.gateway(route, bridge)?;
    if let Some(link) = &link {
        settle_ipv6(link, network.dad)?;
    }
    Ok(link)
}

/// The bridge, if there is one.
///
/// # Errors
/// Code 101 when the name belongs to something else.
pub(super) fn find(route: &mut Handle, name: &str) -> Result<Option<Link>, Error> {
    match route.link_by_name(name) {
        Ok(link) if link.kind.as_deref() == Some("bridge") => Ok(Some(link)),
        Ok(link) => {
            let kind = link.kind.as_deref().unwrap_or("without a driver's name");
            let message =
                format!("bridge {name:?}: there is a link of this name, and it is {kind}");
            Err(Error::new(failure::CONFLICT, message))
        }
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(failure::kernel(error)),
    }
}

fn make(route: &mut Handle, network: &Network) -> Result<Link, Error> {
    // An address given at birth is pinned: the bridge's own does not follow its ports'.
    let mac = Some(random_mac()?);
    let bridge = NewBridge {
        name: &network.bridge,
        mac,
        mtu: network.mtu,
        vlan_filtering: network.vlans.is_some().then_some(true),
        up: true,
    };
    match route.create_bridge(&bridge) {
        Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(failure::kernel(error)),
        // EEXIST: another ADD was faster.
        _ => {}
    }
    find(route, &network.bridge)?.ok_or_else(|| {
        let message = format!(
            "bridge {:?} went away while it was being made",
            network.bridge
        );
        Error::new(Code::TRY_AGAIN, message)
    })
}

fn random_mac() -> Result<Mac, Error> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Error::new(Code::IO, format!("cannot read /dev/urandom: {error}")))?;
    // Locally administered, and no group's.
    bytes[0] = bytes[0] & 0xfc | 0x02;
    Ok(Mac(bytes))
}

/// The routes of a node's own links are ours to make; and by a link that looked for duplicates of
/// its own address, the node could not look for pods in the first two seconds.
fn settle_ipv6(link: &Link, dad: bool) -> Result<(), Error> {
    let Some(settings) = link.ipv6 else {
        return Ok(());
    };
    if settings.accept_ra != 0 {
        pod::switch_off(&link.name, "accept_ra")?;
    }
    if !dad && settings.accept_dad != 0 {
        pod::switch_off(&link.name, "accept_dad")?;
    }
    Ok(())
}

/// Gives the bridge, or the interface above it, the gateways' addresses and lets the node forward
/// their families.
pub(super) fn be_gateway(
    route: &mut Handle,
    bridge: &Link,
    gateways: &[Cidr],
    network: &Network,
) -> Result<(), Error> {
    let held = route
        .addresses(Some(bridge.index))
        .map_err(failure::kernel)?;
    let mut held: Vec<_> = held.into_iter().map(|held| held.address).collect();
    for gateway in gateways {
        let wanted = to_network(*gateway)?;
        if !held.contains(&wanted) {
            for other in held.extract_if(.., |held| is_in_the_way(*held, wanted)) {
                replace(route, bridge, other, wanted, network)?;
            }
            add_address(route, bridge, wanted, network)?;
            if !network.dad {
                pod::await_own(route, wanted.ip())?;
            }
            held.push(wanted);
        }
        forwarding::enable(gateway.address())?;
    }
    Ok(())
}

fn add_address(
    route: &mut Handle,
    bridge: &Link,
    wanted: IpNetwork,
    network: &Network,
) -> Result<(), Error> {
    let address = Address {
        nodad: !network.dad,
        ..Address::new(bridge.index, wanted)
    };
    match route.add_address(&address) {
        Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(failure::kernel(error)),
        // EEXIST: another ADD was faster.
        _ => {}
    }
    // Set to what it is, the address is pinned also on a bridge that somebody else made.
    let pin = LinkChange {
        mac: bridge.mac,
        ..LinkChange::default()
    };
    route
        .change_link(bridge.index, &pin)
        .map_err(failure::kernel)
}

/// One IPv4 address only; several of IPv6 as long as their subnets are apart.
fn is_in_the_way(held: IpNetwork, wanted: IpNetwork) -> bool {
    match (held, wanted) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(held), IpNetwork::V6(wanted)) => {
            held.contains(wanted.ip()) || wanted.contains(held.ip())
        }
        _ => false,
    }
}

fn replace(
    route: &mut Handle,
    bridge: &Link,
    held: IpNetwork,
    wanted: IpNetwork,
    network: &Network,
) -> Result<(), Error> {
    if !network.force_address {
        let name = &bridge.name;
        let message = format!(
            "bridge {name} has address {held}, which {wanted} would replace; forceAddress allows it"
        );
        return Err(Error::new(failure::CONFLICT, message));
    }
    match route.delete_address(bridge.index, held) {
        Err(error) if error.errno() != Some(Errno::EADDRNOTAVAIL) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

/// Sets what the bridge's port does, and writes on it whose it is.
pub(super) fn set_port(
    route: &mut Handle,
    end: &HostEnd,
    network: &Network,
    alias: &str,
) -> Result<(), Error> {
    let port = BridgePort {
        hairpin: network.hairpin,
        isolated: network.isolated,
    };
    route
        .set_bridge_port(&end.name, port, Some(alias))
        .map_err(failure::kernel)?;
    let Some(vlans) = &network.vlans else {
        return Ok(());
    };
    let link = route.link_by_name(&end.name).map_err(failure::kernel)?;
    vlans.join(route, link.index)
}

/// Has the node know a pod's Ethernet address from the start, in place of that of a pod which had
/// the address before.
pub(super) fn know(
    route: &mut Handle,
    gateway: &Link,
    ips: &[IpConfig],
    mac: Option<Mac>,
) -> Result<(), Error> {
    for ip in ips {
        let neighbour = Neighbour {
            link: gateway.index,
            address: ip.address.address(),
            mac,
            state: NeighbourState::Stale,
        };
        route
            .replace_neighbour(&neighbour)
            .map_err(failure::kernel)?;
    }
    Ok(())
}
