//! Namespaces whose own addresses can be used.

use std::net::IpAddr;
use std::time::Duration;

use nodekit::netns::NetNs;
use nodekit::route::{Handle, RouteKind};

use crate::proxy_bed::wait_until;

/// Longer than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until packets for each address of a namespace are taken there: the kernel makes the route to
/// an IPv6 address of its own in the background, once the link has a carrier.
///
/// # Errors
/// They are not, within a minute.
pub fn settle(netns: &NetNs) -> anyhow::Result<()> {
    let mut handle = Handle::open_in(netns)?;
    let held = handle.addresses(None)?.into_iter();
    // Which link a link-local one is of, a route does not say.
    let own = held.map(|held| held.address.ip());
    for address in own.filter(|own| !matches!(own, IpAddr::V6(v6) if v6.is_unicast_link_local())) {
        wait_until(&format!("route to {address}"), PATIENCE, || {
            let route = handle.route_to(address);
            route.is_ok_and(|route| route.kind == RouteKind::Local)
        })?;
    }
    Ok(())
}
