//! ADD: steps, each with its undo.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;

use cni_types::{Attachment, Code, Error, Interface, IpConfig, Success};
use ipnetwork::IpNetwork;
use nodekit::Errno;
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, Link, LinkChange, Mac, Route, Scope};

use super::config::Network;
use crate::call::Call;
use crate::identity::{HostEnd, pod_mac};
use crate::pod::{self, Inside, Pair, to_network};
use crate::rollback::{Rollback, Step};
use crate::tables::{self, Entries, Owner};
use crate::{failure, forwarding, ipam};

/// Attaches a container. On failure nothing of it is left.
///
/// # Errors
/// Code 2, 6 or 7 before anything is made; else the failed step's.
pub(crate) fn add(
    call: &Call,
    attachment: &Attachment,
    netns: &Path,
    before: &dyn Fn(Step) -> Result<(), Error>,
) -> Result<Success, Error> {
    let network = Network::read(call)?;
    let pod = call.open_netns(netns)?;
    let mut rollback = Rollback::new(before);
    attach(call, &network, attachment, &pod, &mut rollback)
        .map(|done| done.result(netns, &attachment.ifname))
        .map_err(|reason| rollback.roll_back(reason))
}

/// What ADD made.
struct Attached {
    end: HostEnd,
    link: Link,
    mac: Option<Mac>,
    given: Success,
}

fn attach<'a>(
    call: &'a Call,
    network: &'a Network,
    attachment: &'a Attachment,
    pod: &'a NetNs,
    rollback: &mut Rollback<'a>,
) -> Result<Attached, Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    let end = HostEnd::of(attachment);
    let mut given = rollback.step_with_undo(
        Step::Reserve,
        || network.ipam.add(call, attachment),
        || ipam::del(call, attachment),
    )?;
    if !network.dns.is_empty() {
        given.dns.clone_from(&network.dns);
    }
    let pair = Pair {
        bridge: None,
        mtu: network.mtu,
        mac: network
            .mac
            .map_or_else(|| pod_mac(&given.ips), |mac| Some(Mac(mac.0))),
    };
    let undo_end = end.clone();
    rollback.step_with_undo(
        Step::Veth,
        || pod::make_veth(&mut route, pod, attachment, pair),
        // A socket of its own: the steps hold the other one.
        move || {
            let mut route = Handle::open().map_err(failure::kernel)?;
            pod::delete_host_end(&mut route, &undo_end)
        },
    )?;
    let mac = rollback.step(Step::Pod, || {
        pod::switch_off(&end.name, "accept_ra")?;
        // By an address that it first looks for itself, the node could not look for the pod.
        pod::switch_off(&end.name, "accept_dad")?;
        let wanted = Inside {
            ips: &given.ips,
            mac: pair.mac,
            // By those the pod would look for its neighbours on the link, where there are none.
            subnet_routes: false,
            routes: pod_routes(&given)?,
            dad: false,
            up: true,
        };
        pod::configure(pod, &attachment.ifname, &wanted).map(|end| end.mac)
    })?;
    let link = rollback.step(Step::Gateway, || {
        be_gateway(&mut route, &end, &given.ips, &pod::alias_of(call))
    })?;
    program(call, network, attachment, &given.ips, rollback)?;
    Ok(Attached {
        end,
        link,
        mac,
        given,
    })
}

/// Everything that the attachment has in nf_tables or iptables.
fn program<'a>(
    call: &'a Call,
    network: &'a Network,
    attachment: &'a Attachment,
    ips: &[IpConfig],
    rollback: &mut Rollback<'a>,
) -> Result<(), Error> {
    if let Some(masquerade) = &network.masquerade {
        let addresses: Vec<_> = ips.iter().map(|ip| ip.address).collect();
        masquerade.add_rules(rollback, call, attachment, &addresses)?;
    }
    let entries = entries(call, network, attachment, ips);
    if entries.is_empty() {
        return Ok(());
    }
    tables::step(rollback, &entries)
}

/// What the attachment has in nf_tables.
pub(super) fn entries(
    call: &Call,
    network: &Network,
    attachment: &Attachment,
    ips: &[IpConfig],
) -> Entries {
    let name = call.config.name();
    let mut entries = Entries::new(Owner::new(name, attachment));
    let addresses: Vec<_> = ips.iter().map(|ip| ip.address).collect();
    if let Some(masquerade) = &network.masquerade {
        masquerade.enter(&mut entries, name, &addresses);
    }
    entries
}

/// The gateway of an address; a pod without a bridge has no other way out.
pub(super) fn gateway_of(ip: &IpConfig) -> Result<IpAddr, Error> {
    ip.gateway.ok_or_else(|| {
        let address = ip.address;
        let message = format!("ipam gave {address} without a gateway, which the type ptp needs");
        Error::new(Code::INVALID_CONFIG, message)
    })
}

/// An address alone.
pub(super) fn host(address: IpAddr) -> IpNetwork {
    address.into()
}

/// The gateway on the link, everything else of the subnet by it, and what the network says.
fn pod_routes(given: &Success) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for ip in &given.ips {
        let gateway = gateway_of(ip)?;
        let source = Some(ip.address.address());
        routes.push(Route {
            source,
            scope: Some(Scope::Link),
            ..Route::to(host(gateway))
        });
        let subnet = to_network(ip.address)?;
        if subnet != host(subnet.ip()) {
            routes.push(Route {
                gateway: Some(gateway),
                source,
                ..Route::to(subnet)
            });
        }
    }
    for said in &given.routes {
        routes.push(pod::meant(said, &given.ips)?);
    }
    Ok(routes)
}

/// The host's end with the gateways' addresses and the routes to the pod; gives the end.
fn be_gateway(
    route: &mut Handle,
    end: &HostEnd,
    ips: &[IpConfig],
    alias: &str,
) -> Result<Link, Error> {
    let link = route.link_by_name(&end.name).map_err(failure::kernel)?;
    let change = LinkChange {
        alias: Some(alias),
        ..LinkChange::default()
    };
    route
        .change_link(link.index, &change)
        .map_err(failure::kernel)?;
    for ip in ips {
        let gateway = gateway_of(ip)?;
        match route.add_address(&Address::new(link.index, host(gateway))) {
            // Two addresses of one subnet have one gateway.
            Err(error) if error.errno() == Some(Errno::EEXIST) => {}
            other => other.map_err(failure::kernel)?,
        }
        pod::await_own(route, gateway)?;
        // In place of the route to a pod that had the address and whose pair is still there.
        let to_pod = Route {
            link: Some(link.index),
            ..Route::to(host(ip.address.address()))
        };
        route.replace_route(&to_pod).map_err(failure::kernel)?;
        forwarding::enable(gateway)?;
    }
    Ok(link)
}

impl Attached {
    fn result(self, netns: &Path, ifname: &str) -> Success {
        let Self {
            end,
            link,
            mac,
            given,
        } = self;
        let interface = |name: &str, mac: Option<Mac>, sandbox: String| Interface {
            name: name.to_owned(),
            mac: mac.map(|mac| mac.to_string()).unwrap_or_default(),
            mtu: Some(link.mtu),
            sandbox,
            ..Interface::default()
        };
        let sandbox = netns.to_string_lossy().into_owned();
        let ips = given.ips.into_iter().map(|ip| IpConfig {
            interface: Some(1),
            ..ip
        });
        Success {
            interfaces: vec![
                interface(&end.name, Some(end.mac), String::new()),
                interface(ifname, mac, sandbox),
            ],
            ips: ips.collect(),
            ..given
        }
    }
}
