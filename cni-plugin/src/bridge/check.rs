//! CHECK and STATUS.

use std::path::Path;

use cni_types::{Attachment, Code, Error, Interface, IpConfig, Success};
use nodekit::netns::NetNs;
use nodekit::route::{Handle, Link, RouteFilter};

use super::config::Network;
use super::device;
use super::wanted::entries;
use crate::call::Call;
use crate::failure;
use crate::ipam;
use crate::pod::to_network;
use crate::tables::Tables;

/// Sees whether an attachment still is as ADD's result says.
///
/// # Errors
/// Code 7 without that result, 102 naming what is missing or different.
pub(crate) fn check(call: &Call, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
    let network = Network::read(call)?;
    let Some(result) = call.config.prev_result(call.version)? else {
        return Err(Error::new(
            Code::INVALID_CONFIG,
            "prevResult: missing; CHECK needs ADD's result",
        ));
    };
    let pod = call.open_netns(netns)?;
    let (index, told) = pod_interface(&result, attachment, netns)?;
    let ips: Vec<_> = result
        .ips
        .iter()
        .filter(|ip| ip.interface == Some(index))
        .collect();
    check_host(&network, &result, &ips)?;
    check_pod(&pod, told, &ips, &result)?;
    ipam::check(call, attachment)?;
    let addresses: Vec<_> = ips.iter().map(|ip| ip.address).collect();
    let entries = entries(call, &network, attachment, &addresses);
    if !entries.is_empty() {
        Tables::open()?.check(&entries)?;
    }
    Ok(())
}

/// Sees whether ADD could be served: the configuration is one, and nf_tables answers if needed.
///
/// # Errors
/// Code 2, 6 or 7 for the configuration, 50 when ADD could not be served.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let network = Network::read(call)?;
    ipam::status(call)?;
    let mut route = Handle::open().map_err(failure::kernel)?;
    device::demand(&mut route, &network)
        .and_then(|()| device::find(&mut route, &network.bridge))
        .and_then(|_| match network.masquerade {
            true => Tables::open()?.probe(),
            false => Ok(()),
        })
        .map_err(|error| Error {
            code: Code::NOT_AVAILABLE,
            ..error
        })
}

fn changed(message: String) -> Error {
    Error::new(failure::CHANGED, message)
}

fn pod_interface<'a>(
    result: &'a Success,
    attachment: &Attachment,
    netns: &Path,
) -> Result<(usize, &'a Interface), Error> {
    let mut interfaces = result.interfaces.iter().enumerate();
    let found = interfaces.find(|(_, interface)| {
        interface.name == attachment.ifname && Path::new(&interface.sandbox) == netns
    });
    found.ok_or_else(|| {
        changed(format!(
            "prevResult has no interface {} in {}",
            attachment.ifname,
            netns.display()
        ))
    })
}

fn look_up(route: &mut Handle, name: &str) -> Result<Link, Error> {
    route
        .link_by_name(name)
        .map_err(|error| changed(error.to_string()))
}

/// The bridge with its gateway addresses, and the host's ends as its ports.
fn check_host(network: &Network, result: &Success, ips: &[&IpConfig]) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    let name = &network.bridge;
    let bridge =
        device::find(&mut route, name)?.ok_or_else(|| changed(format!("bridge {name} is gone")))?;
    let of_host = result
        .interfaces
        .iter()
        .filter(|interface| interface.sandbox.is_empty());
    for told in of_host.filter(|interface| interface.name != *name) {
        let link = look_up(&mut route, &told.name)?;
        if link.master != Some(bridge.index) {
            return Err(changed(format!(
                "{} is no port of bridge {name}",
                told.name
            )));
        }
    }
    if !network.gateway {
        return Ok(());
    }
    let held = route
        .addresses(Some(bridge.index))
        .map_err(failure::kernel)?;
    for gateway in ips.iter().filter_map(|ip| ip.gateway) {
        if !held.iter().any(|address| address.address.ip() == gateway) {
            return Err(changed(format!("bridge {name} has lost gateway {gateway}")));
        }
    }
    Ok(())
}

/// The pod's interface with its addresses and routes.
fn check_pod(
    pod: &NetNs,
    told: &Interface,
    ips: &[&IpConfig],
    result: &Success,
) -> Result<(), Error> {
    let inside = || {
        let mut route = Handle::open().map_err(failure::kernel)?;
        let link = look_up(&mut route, &told.name)?;
        let name = &told.name;
        let mac = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        if !told.mac.is_empty() && !told.mac.eq_ignore_ascii_case(&mac) {
            return Err(changed(format!(
                "{name} has address {mac}, not {}",
                told.mac
            )));
        }
        if !link.up {
            return Err(changed(format!("{name} is down")));
        }
        let held = route.addresses(Some(link.index)).map_err(failure::kernel)?;
        for ip in ips {
            let wanted = to_network(ip.address)?;
            if !held.iter().any(|address| address.address == wanted) {
                return Err(changed(format!("{name} has lost address {}", ip.address)));
            }
        }
        let present = route
            .routes(RouteFilter::default())
            .map_err(failure::kernel)?;
        for wanted in &result.routes {
            let dst = to_network(wanted.dst)?;
            let is_there = present.iter().any(|route| {
                route.destination.network() == dst.network()
                    && route.destination.prefix() == dst.prefix()
                    && wanted.gw.is_none_or(|gw| route.gateway == Some(gw))
                    && wanted.table.is_none_or(|table| route.table == table)
            });
            if !is_there {
                return Err(changed(format!("the route to {} is gone", wanted.dst)));
            }
        }
        Ok(())
    };
    pod.run(inside).map_err(failure::namespace)?
}
