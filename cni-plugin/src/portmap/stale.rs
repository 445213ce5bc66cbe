//! Connections of UDP that the kernel still tracks as they were before a port came or went. Their
//! clients go on with the same source port, so that they would never see the change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Cidr, Error, Protocol};
use nodekit::conntrack::{ConntrackSocket, Entry, Family, Transport};
use nodekit::route::Handle;

use super::config::{Config, first_of_each, number_of, specific};
use crate::failure;

/// Forgets connections to host ports that don't lead to the pod, which has just been given them.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(crate) fn forget_before(
    route: &mut Handle,
    config: &Config,
    addresses: &[Cidr],
) -> Result<(), Error> {
    let wanted: Vec<_> = config
        .mappings
        .iter()
        .filter(|mapping| mapping.protocol == Protocol::Udp)
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let own = route.addresses(None).map_err(failure::kernel)?;
    let own: BTreeSet<_> = own.iter().map(|held| held.address.ip()).collect();
    for cidr in first_of_each(addresses) {
        let pod = cidr.address();
        forget(pod, |entry| {
            let to = entry.original.destination;
            let taken = wanted.iter().any(|mapping| {
                port_of(entry) == Some(mapping.host_port)
                    && specific(mapping).is_none_or(|ip| ip == to)
            });
            // Datagrams to the same port elsewhere only pass through this node.
            taken && entry.reply.source != pod && (to.is_loopback() || own.contains(&to))
        })?;
    }
    Ok(())
}

/// Forgets the connections by these host ports to a pod that is going.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(super) fn forget_after(ports: &BTreeSet<u16>, addresses: &[IpAddr]) -> Result<(), Error> {
    for pod in addresses {
        forget(*pod, |entry| {
            entry.is_destination_translated()
                && entry.reply.source == *pod
                && port_of(entry).is_some_and(|port| ports.contains(&port))
        })?;
    }
    Ok(())
}

fn port_of(entry: &Entry) -> Option<u16> {
    match entry.original.transport {
        Transport::Ports { destination, .. } => Some(destination),
        _ => None,
    }
}

fn forget(pod: IpAddr, is_stale: impl Fn(&Entry) -> bool) -> Result<(), Error> {
    let family = if pod.is_ipv4() {
        Family::Ip
    } else {
        Family::Ip6
    };
    let mut conntrack = ConntrackSocket::open().map_err(failure::kernel)?;
    let stale = conntrack
        .list(family, Some(number_of(Protocol::Udp)), is_stale)
        .map_err(failure::kernel)?;
    for entry in &stale {
        conntrack.delete(entry).map_err(failure::kernel)?;
    }
    Ok(())
}
