//! The role `loopback`: the pod's `lo`, set up.

use std::path::Path;

use cni_types::{Cidr, Error, Interface, IpConfig, Success};
use nodekit::netns::NetNs;
use nodekit::route::{Address, Handle, Link};

use crate::call::Call;
use crate::failure;

/// The one interface this role knows, whatever CNI_IFNAME says.
const LO: &str = "lo";

/// Sets `lo` up. The result of a plugin before is passed on.
///
/// # Errors
/// As [`Call::open_netns`], or the kernel's refusal.
pub(crate) fn add(call: &Call, netns: &Path) -> Result<Success, Error> {
    let pod = call.open_netns(netns)?;
    let (link, addresses) = set_up(&pod)?;
    if let Some(before) = call.config.prev_result(call.version)? {
        return Ok(before);
    }
    let interface = Interface {
        name: link.name,
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        sandbox: netns.to_string_lossy().into_owned(),
        ..Interface::default()
    };
    let ips = addresses.iter().filter_map(|address| {
        let address = Cidr::new(address.address.ip(), address.address.prefix()).ok()?;
        Some(IpConfig {
            address,
            gateway: None,
            interface: Some(0),
        })
    });
    Ok(Success {
        interfaces: vec![interface],
        ips: ips.collect(),
        ..Success::default()
    })
}

fn set_up(pod: &NetNs) -> Result<(Link, Vec<Address>), Error> {
    let done = pod.visit(|| {
        let mut route = Handle::open()?;
        let link = route.link_by_name(LO)?;
        route.set_up(link.index)?;
        let addresses = route.addresses(Some(link.index))?;
        Ok((link, addresses))
    });
    done.map_err(failure::namespace)?.map_err(failure::kernel)
}

/// Sees whether `lo` is up.
///
/// # Errors
/// As [`Call::open_netns`], or that it is down.
pub(crate) fn check(call: &Call, netns: &Path) -> Result<(), Error> {
    let link = call
        .open_netns(netns)?
        .visit(|| Handle::open()?.link_by_name(LO));
    let link = link.map_err(failure::namespace)?.map_err(failure::kernel)?;
    if link.up {
        Ok(())
    } else {
        Err(Error::new(failure::CHANGED, "lo is down"))
    }
}

/// Nothing to release: `lo` ends with its namespace. Setting it down, as the reference does,
/// would only disturb a namespace that lives on.
///
/// # Errors
/// Code 8 when CNI_NETNS is no namespace a pod can have.
pub(crate) fn del(call: &Call, netns: Option<&Path>) -> Result<(), Error> {
    call.open_netns_if_any(netns).map(drop)
}
