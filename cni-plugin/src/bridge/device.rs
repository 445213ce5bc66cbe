//! The bridge itself, which all pods of a node share: made once, by whoever comes first.

use std::fs::File;
use std::io::Read;

use cni_types::{Cidr, Code, Error};
use ipnetwork::IpNetwork;
use nodekit::Errno;
use nodekit::route::{Address, Handle, Link, LinkChange, Mac, NewBridge};
use nodekit::sysctl::{self, Key};

use super::config::Network;
use crate::failure;

/// The bridge, up; made where there is none. Any number of processes may do this at once.
pub(super) fn ensure(route: &mut Handle, network: &Network) -> Result<Link, Error> {
    let link = match find(route, &network.bridge)? {
        Some(link) => link,
        None => make(route, network)?,
    };
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
    ignore_router_advertisements(&link.name)?;
    if !network.dad {
        // Else the bridge may not look for pods on others' behalf in its first two seconds.
        set_ipv6(&link.name, "accept_dad", "0")?;
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
        vlan_filtering: None,
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

/// The routes of a node's own links are ours to make.
pub(super) fn ignore_router_advertisements(link: &str) -> Result<(), Error> {
    set_ipv6(link, "accept_ra", "0")
}

/// Kernels without IPv6 have nothing to set.
fn set_ipv6(link: &str, name: &str, value: &str) -> Result<(), Error> {
    match Key::ipv6_conf(link, name).and_then(|key| sysctl::ensure(&key, value)) {
        Err(error) if error.errno() != Some(Errno::ENOENT) => Err(failure::setting(error)),
        _ => Ok(()),
    }
}

/// Gives the bridge a gateway's address and lets the node forward its family.
pub(super) fn be_gateway(
    route: &mut Handle,
    bridge: &Link,
    address: Cidr,
    network: &Network,
) -> Result<(), Error> {
    let wanted = to_network(address)?;
    let present = route
        .addresses(Some(bridge.index))
        .map_err(failure::kernel)?;
    if !present.iter().any(|held| held.address == wanted) {
        for other in present
            .iter()
            .filter(|held| is_in_the_way(held.address, wanted))
        {
            replace(route, bridge, other.address, wanted, network)?;
        }
        add_address(route, bridge, wanted, network)?;
    }
    let forwarding = match address.address() {
        std::net::IpAddr::V4(_) => "net/ipv4/ip_forward",
        std::net::IpAddr::V6(_) => "net/ipv6/conf/all/forwarding",
    };
    let key = forwarding.parse::<Key>().map_err(failure::setting)?;
    sysctl::ensure(&key, "1").map_err(failure::setting)?;
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

pub(super) fn to_network(cidr: Cidr) -> Result<IpNetwork, Error> {
    IpNetwork::new(cidr.address(), cidr.prefix())
        .map_err(|error| Error::new(Code::INTERNAL, format!("{cidr}: {error}")))
}
