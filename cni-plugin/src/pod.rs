//! The veth pair, and the pod's end of it.

pub(crate) mod check;
mod garbage;

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use cni_types::{Attachment, Cidr, Code, Error, IpConfig};
use ipnetwork::IpNetwork;
use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{
    Address, Handle, Ipv6Settings, Link, LinkChange, Mac, Route, RouteKind, Scope, TABLE_MAIN,
    VethEnd, VethPair, index_of,
};
use nodekit::sysctl::{self, Key};

use crate::failure;
use crate::identity::HostEnd;
pub(crate) use garbage::{alias_of, delete_unowned};

/// How long duplicate address detection may take where it is left on.
const DAD_PATIENCE: Duration = Duration::from_secs(5);

/// How long the bridge may take to see that a port carries.
const PORT_PATIENCE: Duration = Duration::from_millis(500);

/// How long the kernel may take to take up an address of IPv6.
const OWN_PATIENCE: Duration = Duration::from_millis(500);

/// What an attachment's pair shall be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    /// The bridge that the host's end is a port of.
    pub(crate) bridge: Option<u32>,
    /// In bytes; none: the kernel's 1500.
    pub(crate) mtu: Option<u32>,
    /// The pod's Ethernet address; none: a random one.
    pub(crate) mac: Option<Mac>,
}

/// Makes the pair in one message: the host's end up (and the bridge's port), the pod's end in the
/// pod's namespace and down.
pub(crate) fn make_veth(
    route: &mut Handle,
    pod: &NetNs,
    attachment: &Attachment,
    wanted: Pair,
) -> Result<(), Error> {
    let end = HostEnd::of(attachment);
    let pair = VethPair {
        near_master: wanted.bridge,
        near_up: true,
        near: VethEnd {
            mac: Some(end.mac),
            mtu: wanted.mtu,
            ..VethEnd::named(&end.name)
        },
        far: VethEnd {
            netns: Some(pod.as_fd()),
            mac: wanted.mac,
            mtu: wanted.mtu,
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
        .visit(|| Handle::open()?.link_by_name(ifname))
        .map_err(failure::namespace)?;
    if in_pod.is_ok() {
        let message = format!("interface {ifname} exists already in the container's namespace");
        return Err(Error::new(failure::CONFLICT, message));
    }
    delete_host_end(route, end)
}

/// A link of the node's, if there is one. Waits for nobody when there is none.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn find_link(route: &mut Handle, name: &str) -> Result<Option<Link>, Error> {
    let Some(index) = index_of(name).map_err(failure::kernel)? else {
        return Ok(None);
    };
    match route.link_by_index(index) {
        Ok(link) => Ok(Some(link)),
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
        Err(error) => Err(failure::kernel(error)),
    }
}

/// The host's end, if there is one.
///
/// # Errors
/// Code 101 when the name belongs to a link that was not made here.
pub(crate) fn find_host_end(route: &mut Handle, end: &HostEnd) -> Result<Option<Link>, Error> {
    let Some(link) = find_link(route, &end.name)? else {
        return Ok(None);
    };
    if HostEnd::is_ours(&link.name, link.mac) && link.kind.as_deref() == Some("veth") {
        return Ok(Some(link));
    }
    let message = format!("link {} is not of this plugin's making", link.name);
    Err(Error::new(failure::CONFLICT, message))
}

/// Deletes the host's end, and by that the pair. Succeeds when there is none.
///
/// # Errors
/// Code 101 when the name belongs to a link that was not made here.
pub(crate) fn delete_host_end(route: &mut Handle, end: &HostEnd) -> Result<(), Error> {
    let Some(link) = find_host_end(route, end)? else {
        return Ok(());
    };
    match route.delete_link(link.index) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

/// Deletes the pod's end, and by that the pair. Succeeds when there is none.
pub(crate) fn delete_pod_end(pod: &NetNs, ifname: &str) -> Result<(), Error> {
    let deleted = pod.visit(|| match index_of(ifname)? {
        Some(link) => Handle::open()?.delete_link(link),
        None => Ok(()),
    });
    match deleted.map_err(failure::namespace)? {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

/// What the pod's end shall have.
#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) ips: &'a [IpConfig],
    /// The Ethernet address that it was made with; none: a random one.
    pub(crate) mac: Option<Mac>,
    /// The addresses bring the routes to their subnets.
    pub(crate) subnet_routes: bool,
    /// Through this link where they name none.
    pub(crate) routes: Vec<Route>,
    /// Duplicate address detection of IPv6 is left on.
    pub(crate) dad: bool,
    pub(crate) up: bool,
}

/// The pod's end, with the connection to the kernel that it was set up by.
#[derive(Debug)]
pub(crate) struct PodEnd {
    index: u32,
    pub(crate) mac: Option<Mac>,
    route: Handle,
}

/// Sets up the pod's end inside the namespace: settings, addresses, link, routes.
pub(crate) fn configure(pod: &NetNs, ifname: &str, wanted: &Inside<'_>) -> Result<PodEnd, Error> {
    let found = pod.visit(|| PodEnd::find(ifname, wanted));
    let mut end = found.map_err(failure::namespace)??;
    // The connection stays the namespace's.
    end.set_up(wanted)?;
    Ok(end)
}

impl PodEnd {
    /// The end in the calling thread's namespace. The kernel is only asked to describe it where
    /// that tells something new.
    fn find(ifname: &str, wanted: &Inside<'_>) -> Result<Self, Error> {
        let mut route = Handle::open().map_err(failure::kernel)?;
        let ipv6 = wanted.ips.iter().any(|ip| ip.address.address().is_ipv6());
        if let (Some(mac), false) = (wanted.mac, ipv6)
            && let Some(index) = index_of(ifname).map_err(failure::kernel)?
        {
            let mac = Some(mac);
            return Ok(Self { index, mac, route });
        }
        let Link {
            index,
            mac,
            ipv6: settings,
            ..
        } = route.link_by_name(ifname).map_err(failure::kernel)?;
        if ipv6 {
            prepare_ipv6(ifname, settings, wanted.dad)?;
        }
        Ok(Self { index, mac, route })
    }

    fn set_up(&mut self, wanted: &Inside<'_>) -> Result<(), Error> {
        let Self { index, route, .. } = self;
        let index = *index;
        for ip in wanted.ips {
            let address = Address {
                nodad: !wanted.dad,
                noprefixroute: !wanted.subnet_routes,
                ..Address::new(index, to_network(ip.address)?)
            };
            route.add_address(&address).map_err(failure::kernel)?;
        }
        if !wanted.up {
            return Ok(());
        }
        let change = LinkChange {
            up: Some(true),
            arp_notify: true,
            ..LinkChange::default()
        };
        route.change_link(index, &change).map_err(failure::kernel)?;
        if wanted.dad && wanted.ips.iter().any(|ip| ip.address.address().is_ipv6()) {
            settle(route, index)?;
        }
        for ip in wanted.ips {
            await_own(route, ip.address.address())?;
        }
        for said in &wanted.routes {
            let through = Route {
                link: said.link.or(Some(index)),
                ..said.clone()
            };
            route.add_route(&through).map_err(failure::kernel)?;
        }
        Ok(())
    }

    /// Tells everybody on the link whose addresses these now are: an ARP request of its own for
    /// each of IPv4, an unsolicited neighbour advertisement for each of IPv6. What the kernel sends
    /// as a link comes up is lost where the bridge doesn't know yet that the port carries; setting
    /// the Ethernet address to what it is has the kernel send it again.
    pub(crate) fn announce(&mut self) -> Result<(), Error> {
        let again = LinkChange {
            mac: self.mac,
            ..LinkChange::default()
        };
        self.route
            .change_link(self.index, &again)
            .map_err(failure::kernel)
    }
}

/// Switches a setting of IPv6 off on one of the node's links, before the pod's end is up. Kernels
/// without IPv6 have nothing to set.
pub(crate) fn switch_off(link: &str, setting: &str) -> Result<(), Error> {
    match Key::ipv6_conf(link, setting).and_then(|key| sysctl::write(&key, "0")) {
        Err(error) if error.errno() != Some(Errno::ENOENT) => Err(failure::setting(error)),
        _ => Ok(()),
    }
}

/// Waits until packets for an address of a link that is up are taken. The kernel sees to it for IPv6
/// a moment after the address was added, also without looking for duplicates.
pub(crate) fn await_own(route: &mut Handle, address: IpAddr) -> Result<(), Error> {
    if address.is_ipv4() {
        return Ok(());
    }
    let deadline = Instant::now() + OWN_PATIENCE;
    loop {
        match route.route_to(address) {
            Ok(found) if found.kind == RouteKind::Local => return Ok(()),
            // On a link without carrier it never is.
            _ if Instant::now() >= deadline => return Ok(()),
            Err(error) if error.errno() != Some(Errno::ENETUNREACH) => {
                return Err(failure::kernel(error));
            }
            _ => thread::sleep(Duration::from_micros(100)),
        }
    }
}

/// Waits until the bridge takes frames from the host's end. Kernels from 6.8 on see to it when
/// they are asked; older ones do in a moment. A bridge with a spanning tree takes half a minute,
/// which nobody waits for. Gives the end as it is then.
pub(crate) fn await_port(host: &mut Handle, end: &HostEnd) -> Result<Link, Error> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        let link = host.link_by_name(&end.name).map_err(failure::kernel)?;
        if link.port_enabled || Instant::now() >= deadline {
            return Ok(link);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Settings that a new link does not have, or may have otherwise by the namespace's default.
fn prepare_ipv6(ifname: &str, now: Option<Ipv6Settings>, dad: bool) -> Result<(), Error> {
    let set = |name, value| {
        Key::ipv6_conf(ifname, name)
            .and_then(|key| sysctl::write(&key, value))
            .map_err(failure::setting)
    };
    if now.is_none_or(|now| now.disable_ipv6 != 0) {
        set("disable_ipv6", "0")?;
    }
    set("keep_addr_on_down", "1")?;
    set("ndisc_notify", "1")?;
    if !dad {
        // For the link-local address, which the kernel makes; ours carry the flag themselves.
        set("accept_dad", "0")?;
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
pub(crate) fn meant(said: &cni_types::Route, ips: &[IpConfig]) -> Result<Route, Error> {
    let own = ips
        .iter()
        .find(|ip| ip.address.address().is_ipv4() == said.dst.address().is_ipv4());
    let on_link = said.scope.is_some_and(|scope| scope != 0);
    let gateway = match said.gw {
        Some(gw) => Some(gw),
        None if on_link => None,
        None => own.and_then(|ip| ip.gateway),
    };
    Ok(Route {
        gateway,
        table: said.table.unwrap_or(TABLE_MAIN),
        priority: said.priority,
        scope: said.scope.map(Scope::from),
        mtu: said.mtu,
        advmss: said.advmss,
        ..Route::to(to_network(said.dst)?)
    })
}

/// An address with its prefix, as the kernel's side takes it.
pub(crate) fn to_network(cidr: Cidr) -> Result<IpNetwork, Error> {
    IpNetwork::new(cidr.address(), cidr.prefix())
        .map_err(|error| Error::new(Code::INTERNAL, format!("{cidr}: {error}")))
}
