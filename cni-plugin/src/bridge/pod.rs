//! The veth pair, and the pod's end of it.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use cni_types::{Attachment, Code, Error, IpConfig};
use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{
    Address, BridgePort, Handle, Link, Mac, Route, Scope, TABLE_MAIN, VethEnd, VethPair,
};
use nodekit::sysctl::{self, Key};

use super::config::Network;
use super::device::to_network;
use super::identity::HostEnd;
use crate::failure;

/// How long duplicate address detection may take where it is left on.
const DAD_PATIENCE: Duration = Duration::from_secs(5);

/// Makes the pair in one message: the host's end a port of the bridge and up, the pod's end in the
/// pod's namespace and down.
pub(super) fn make_veth(
    route: &mut Handle,
    pod: &NetNs,
    attachment: &Attachment,
    bridge: &Link,
    network: &Network,
    mac: Option<Mac>,
) -> Result<(), Error> {
    let end = HostEnd::of(attachment);
    let pair = VethPair {
        near_master: Some(bridge.index),
        near_up: true,
        near: VethEnd {
            mac: Some(end.mac),
            mtu: network.mtu,
            ..VethEnd::named(&end.name)
        },
        far: VethEnd {
            netns: Some(pod.as_fd()),
            mac,
            mtu: network.mtu,
            ..VethEnd::named(&attachment.ifname)
        },
    };
    match route.create_veth(&pair) {
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            make_room(route, pod, attachment, &end)?;
            route.create_veth(&pair).map_err(failure::kernel)
        }
        other => other.map_err(failure::kernel),
    }
}

/// One of the two names is in use. The pod's must not be; the host's may be what a broken ADD of
/// the same attachment left.
fn make_room(
    route: &mut Handle,
    pod: &NetNs,
    attachment: &Attachment,
    end: &HostEnd,
) -> Result<(), Error> {
    let ifname = &attachment.ifname;
    let in_pod = pod
        .run(|| Handle::open()?.link_by_name(ifname))
        .map_err(failure::namespace)?;
    if in_pod.is_ok() {
        let message = format!("interface {ifname} exists already in the container's namespace");
        return Err(Error::new(failure::CONFLICT, message));
    }
    delete_host_end(route, end)
}

/// Deletes the host's end, and by that the pair. Succeeds when there is none.
///
/// # Errors
/// Code 101 when the name belongs to a link that was not made here.
pub(super) fn delete_host_end(route: &mut Handle, end: &HostEnd) -> Result<(), Error> {
    let link = match route.link_by_name(&end.name) {
        Ok(link) => link,
        Err(error) if error.errno() == Some(Errno::ENODEV) => return Ok(()),
        Err(error) => return Err(failure::kernel(error)),
    };
    if !HostEnd::is_ours(&link.name, link.mac) || link.kind.as_deref() != Some("veth") {
        let message = format!("link {} is not of this plugin's making", link.name);
        return Err(Error::new(failure::CONFLICT, message));
    }
    match route.delete_link(link.index) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

/// Deletes the pod's end, and by that the pair. Succeeds when there is none.
pub(super) fn delete_pod_end(pod: &NetNs, ifname: &str) -> Result<(), Error> {
    let deleted = pod.run(|| Handle::open()?.delete_link_by_name(ifname));
    match deleted.map_err(failure::namespace)? {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

/// Sets what the bridge's port does, where it differs from the kernel's default.
pub(super) fn set_port(route: &mut Handle, end: &HostEnd, network: &Network) -> Result<(), Error> {
    let port = BridgePort {
        hairpin: network.hairpin,
        isolated: network.isolated,
    };
    if port == BridgePort::default() {
        return Ok(());
    }
    route
        .set_bridge_port(&end.name, port)
        .map_err(failure::kernel)
}

/// Sets up the pod's end inside the namespace: settings, addresses, link, routes, in this order,
/// so that the link announces its addresses as it comes up.
pub(super) fn configure(
    pod: &NetNs,
    ifname: &str,
    ips: &[IpConfig],
    routes: &[cni_types::Route],
    dad: bool,
) -> Result<Link, Error> {
    let inside = || {
        let mut route = Handle::open().map_err(failure::kernel)?;
        let link = route.link_by_name(ifname).map_err(failure::kernel)?;
        settings(ifname, ips, dad)?;
        for ip in ips {
            let address = Address {
                nodad: !dad,
                ..Address::new(link.index, to_network(ip.address)?)
            };
            route.add_address(&address).map_err(failure::kernel)?;
        }
        route.set_up(link.index).map_err(failure::kernel)?;
        if dad && ips.iter().any(|ip| ip.address.address().is_ipv6()) {
            settle(&mut route, link.index)?;
        }
        for said in routes {
            route
                .add_route(&meant(said, link.index, ips)?)
                .map_err(failure::kernel)?;
        }
        Ok(link)
    };
    pod.run(inside).map_err(failure::namespace)?
}

fn settings(ifname: &str, ips: &[IpConfig], dad: bool) -> Result<(), Error> {
    let ensure = |key: Result<Key, sysctl::Error>, value| {
        key.and_then(|key| sysctl::ensure(&key, value))
            .map_err(failure::setting)
    };
    ensure(Key::ipv4_conf(ifname, "arp_notify"), "1")?;
    if !ips.iter().any(|ip| ip.address.address().is_ipv6()) {
        return Ok(());
    }
    ensure(Key::ipv6_conf(ifname, "disable_ipv6"), "0")?;
    ensure(Key::ipv6_conf(ifname, "keep_addr_on_down"), "1")?;
    ensure(Key::ipv6_conf(ifname, "ndisc_notify"), "1")?;
    if !dad {
        // For the link-local address, which the kernel makes; ours carry the flag themselves.
        ensure(Key::ipv6_conf(ifname, "accept_dad"), "0")?;
    }
    Ok(())
}

/// Waits until duplicate address detection has ended.
fn settle(route: &mut Handle, link: u32) -> Result<(), Error> {
    let deadline = Instant::now() + DAD_PATIENCE;
    loop {
        let addresses = route.addresses(Some(link)).map_err(failure::kernel)?;
        if let Some(failed) = addresses.iter().find(|address| address.dad_failed) {
            let message = format!("{} is in use by another host", failed.address);
            return Err(Error::new(failure::CONFLICT, message));
        }
        if !addresses.iter().any(|address| address.tentative) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let message = "duplicate address detection did not end";
            return Err(Error::new(Code::TRY_AGAIN, message));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A route as said, with the gateway of its family's first address where it names none.
fn meant(said: &cni_types::Route, link: u32, ips: &[IpConfig]) -> Result<Route, Error> {
    let own = ips
        .iter()
        .find(|ip| ip.address.address().is_ipv4() == said.dst.address().is_ipv4());
    let on_link = said.scope.is_some_and(|scope| scope != 0);
    let gateway: Option<IpAddr> = match said.gw {
        Some(gw) => Some(gw),
        None if on_link => None,
        None => own.and_then(|ip| ip.gateway),
    };
    Ok(Route {
        gateway,
        link: Some(link),
        table: said.table.unwrap_or(TABLE_MAIN),
        priority: said.priority,
        scope: said.scope.map(Scope::from),
        mtu: said.mtu,
        advmss: said.advmss,
        ..Route::to(to_network(said.dst)?)
    })
}
