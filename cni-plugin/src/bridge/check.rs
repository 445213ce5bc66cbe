//! CHECK and STATUS.

use std::path::Path;

use cni_types::{Attachment, Code, Error, IpConfig, Success};
use nodekit::route::Handle;

use super::config::Network;
use super::device;
use super::wanted::entries;
use crate::bandwidth;
use crate::call::Call;
use crate::failure;
use crate::firewall::Policy;
use crate::identity::HostEnd;
use crate::ipam;
use crate::pod::check::{changed, inside, interface, look_up, mac_told, told};
use crate::tables::Tables;

/// Sees whether an attachment still is as ADD's result says.
///
/// # Errors
/// Code 7 without that result, 102 naming what is missing or different.
pub(crate) fn check(call: &Call, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
    let network = Network::read(call)?;
    let result = told(call)?;
    let pod = call.open_netns(netns)?;
    let (index, interface_told) = interface(&result, attachment, netns)?;
    let ips: Vec<_> = result
        .ips
        .iter()
        .filter(|ip| ip.interface == Some(index))
        .collect();
    check_host(&network, &result, &ips)?;
    check_limits(call, &network, attachment)?;
    inside(&pod, interface_told, &ips, &result, !network.pod_down)?;
    ipam::check(call, attachment)?;
    let addresses: Vec<_> = ips.iter().map(|ip| ip.address).collect();
    if let Some(masquerade) = &network.masquerade {
        masquerade.check_rules(call, attachment, &addresses)?;
    }
    let mac = mac_told(interface_told);
    let entries = entries(call, &network, attachment, &addresses, None, mac);
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
    if let Some(masquerade) = &network.masquerade {
        masquerade.probe()?;
    }
    let mut route = Handle::open().map_err(failure::kernel)?;
    device::demand(&mut route, &network)
        .and_then(|()| device::find(&mut route, &network.bridge))
        .and_then(|_| {
            let any =
                network.ports.is_some() || network.spoof_check || network.ingress != Policy::Open;
            if any { Tables::open()?.probe() } else { Ok(()) }
        })
        .map_err(|error| Error {
            code: Code::NOT_AVAILABLE,
            ..error
        })
}

fn check_limits(call: &Call, network: &Network, attachment: &Attachment) -> Result<(), Error> {
    let Some(limits) = &network.limits else {
        return Ok(());
    };
    let mut route = Handle::open().map_err(failure::kernel)?;
    let port = look_up(&mut route, &HostEnd::of(attachment).name)?;
    bandwidth::check_shape(&mut route, &port, limits, call.config.name(), attachment)
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
    let above = network.gateway_above()?;
    let ports = of_host
        .filter(|interface| interface.name != *name)
        .filter(|interface| above.as_ref() != Some(&interface.name));
    for told in ports {
        let link = look_up(&mut route, &told.name)?;
        // What a chained plugin made, as the device that limits a pod's traffic.
        if link.kind.as_deref() != Some("veth") {
            continue;
        }
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
    let (name, index) = match &above {
        Some(above) => (above, look_up(&mut route, above)?.index),
        None => (name, bridge.index),
    };
    let held = route.addresses(Some(index)).map_err(failure::kernel)?;
    for gateway in ips.iter().filter_map(|ip| ip.gateway) {
        if !held.iter().any(|address| address.address.ip() == gateway) {
            return Err(changed(format!("{name} has lost gateway {gateway}")));
        }
    }
    Ok(())
}
