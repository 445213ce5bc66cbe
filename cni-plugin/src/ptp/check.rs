//! CHECK and STATUS.

use std::path::Path;

use cni_types::{Attachment, Error, IpConfig};
use nodekit::route::{Handle, RouteFilter};

use super::add::{entries, gateway_of, host};
use super::config::Network;
use crate::call::Call;
use crate::identity::HostEnd;
use crate::pod::check::{changed, inside, interface, look_up, told};
use crate::tables::Tables;
use crate::{failure, ipam};

/// Sees whether an attachment still is as ADD's result says.
///
/// # Errors
/// Code 7 without that result, 102 naming what is missing or different.
pub(crate) fn check(call: &Call, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
    let network = Network::read(call)?;
    let result = told(call)?;
    let pod = call.open_netns(netns)?;
    let (index, of_pod) = interface(&result, attachment, netns)?;
    let ips: Vec<_> = result
        .ips
        .iter()
        .filter(|ip| ip.interface == Some(index))
        .cloned()
        .collect();
    check_host(&HostEnd::of(attachment), &ips)?;
    inside(&pod, of_pod, &ips.iter().collect::<Vec<_>>(), &result, true)?;
    ipam::check(call, attachment)?;
    if let Some(masquerade) = &network.masquerade {
        let addresses: Vec<_> = ips.iter().map(|ip| ip.address).collect();
        masquerade.check_rules(call, attachment, &addresses)?;
    }
    let entries = entries(call, &network, attachment, &ips);
    if !entries.is_empty() {
        Tables::open()?.check(&entries)?;
    }
    Ok(())
}

/// The host's end with its addresses, and the routes to the pod by it.
fn check_host(end: &HostEnd, ips: &[IpConfig]) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    let link = look_up(&mut route, &end.name)?;
    let name = &end.name;
    let held = route.addresses(Some(link.index)).map_err(failure::kernel)?;
    let filter = RouteFilter {
        link: Some(link.index),
        ..RouteFilter::default()
    };
    let routes = route.routes(filter).map_err(failure::kernel)?;
    for ip in ips {
        let gateway = gateway_of(ip)?;
        if !held.iter().any(|address| address.address.ip() == gateway) {
            return Err(changed(format!("{name} has lost gateway {gateway}")));
        }
        let pod = ip.address.address();
        if !routes.iter().any(|route| route.destination == host(pod)) {
            return Err(changed(format!("the route to {pod} by {name} is gone")));
        }
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
    match &network.masquerade {
        Some(masquerade) => masquerade.probe(),
        None => Ok(()),
    }
}
