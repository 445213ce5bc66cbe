//! Whether the pod's end still is as ADD's result says.

use std::path::Path;

use cni_types::{Attachment, Code, Error, Interface, IpConfig, Success};
use nodekit::netns::NetNs;
use nodekit::route::{Handle, Link, Mac, RouteFilter};

use super::to_network;
use crate::call::Call;
use crate::failure;

/// ADD's result, which CHECK must be given.
///
/// # Errors
/// Code 7 without it.
pub(crate) fn told(call: &Call) -> Result<Success, Error> {
    call.config.prev_result(call.version)?.ok_or_else(|| {
        Error::new(
            Code::INVALID_CONFIG,
            "prevResult: missing; CHECK needs ADD's result",
        )
    })
}

pub(crate) fn changed(message: String) -> Error {
    Error::new(failure::CHANGED, message)
}

/// The pod's interface in a result, and its index there.
pub(crate) fn interface<'a>(
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

/// The Ethernet address of an interface in a result.
pub(crate) fn mac_told(interface: &Interface) -> Option<Mac> {
    interface.mac.parse().ok()
}

/// A link that must be there.
pub(crate) fn look_up(route: &mut Handle, name: &str) -> Result<Link, Error> {
    route
        .link_by_name(name)
        .map_err(|error| changed(error.to_string()))
}

/// The pod's interface with its addresses and routes.
pub(crate) fn inside(
    pod: &NetNs,
    told: &Interface,
    ips: &[&IpConfig],
    result: &Success,
    up: bool,
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
        if link.up != up {
            let state = if link.up { "up" } else { "down" };
            return Err(changed(format!("{name} is {state}")));
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
    pod.visit(inside).map_err(failure::namespace)?
}
