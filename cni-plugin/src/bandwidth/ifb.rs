//! The device that a pod's outgoing traffic passes.
//!
//! Its name follows from network and container, as in the reference, so that either finds what
//! the other made. Its hardware address says whose it is from birth, which an alias could not.

use std::collections::BTreeSet;

use cni_types::{Attachment, Error};
use nodekit::Errno;
use nodekit::route::{Handle, Link, Mac, NewIfb};

use crate::failure;
use crate::hash;
use crate::pod;

/// What all names begin with.
const PREFIX: &str = "bwp";
/// How many hexadecimal digits follow: a link's name has at most 15 bytes.
const DIGITS: usize = 12;
/// The first byte of the hardware address: locally administered, and ours.
const OURS: u8 = 0x0e;

/// What an attachment's device is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) mac: Mac,
}

impl Identity {
    pub(super) fn of(network: &str, attachment: &Attachment) -> Self {
        let [a, b, c] = network_bytes(network);
        let [d, e, ..] = hash::fold(&[attachment.ifname.as_bytes()]);
        Self {
            name: name_of(network, &attachment.container_id),
            mac: Mac([OURS, a, b, c, d, e]),
        }
    }
}

fn name_of(network: &str, container_id: &str) -> String {
    let digest = hmac_sha512::Hash::hash(format!("{network}{container_id}").as_bytes());
    let digits = digest[..DIGITS / 2]
        .iter()
        .map(|byte| format!("{byte:02x}"));
    format!("{PREFIX}{}", digits.collect::<String>())
}

fn network_bytes(network: &str) -> [u8; 3] {
    let [a, b, c, _] = hash::fold(&[network.as_bytes()]);
    [a, b, c]
}

/// Whether a link was made here for an attachment to this network.
fn is_of_network(link: &Link, network: &str) -> bool {
    let bytes = link.mac.map(|mac| mac.0);
    let ours = bytes
        .is_some_and(|[first, a, b, c, ..]| first == OURS && [a, b, c] == network_bytes(network));
    ours && is_named(link)
}

fn is_named(link: &Link) -> bool {
    link.kind.as_deref() == Some("ifb")
        && link.name.strip_prefix(PREFIX).is_some_and(|digits| {
            digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit())
        })
}

/// Makes the device, up. What a broken ADD of the same attachment left is replaced.
pub(super) fn make(route: &mut Handle, identity: &Identity, mtu: u32) -> Result<Link, Error> {
    let ifb = NewIfb {
        name: &identity.name,
        mac: Some(identity.mac),
        mtu: Some(mtu),
        up: true,
    };
    match route.create_ifb(&ifb) {
        Err(error) if error.errno() == Some(Errno::EEXIST) => {
            let there = route
                .link_by_name(&identity.name)
                .map_err(failure::kernel)?;
            if !is_named(&there) || there.mac != Some(identity.mac) {
                let message = format!(
                    "link {} is not of this attachment's making; another interface of the same \
                     container on this network may be limited",
                    identity.name
                );
                return Err(Error::new(failure::CONFLICT, message));
            }
            delete_link(route, there.index)?;
            route.create_ifb(&ifb).map_err(failure::kernel)?;
        }
        other => other.map_err(failure::kernel)?,
    }
    route.link_by_name(&identity.name).map_err(failure::kernel)
}

/// Takes away what [`make`] made.
pub(super) fn delete_made(identity: &Identity) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    match route.delete_link_by_name(&identity.name) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

/// An attachment's device, also one that the reference plugin made; `None` when there is none.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn find(
    route: &mut Handle,
    network: &str,
    attachment: &Attachment,
) -> Result<Option<Link>, Error> {
    let identity = Identity::of(network, attachment);
    let Some(link) = pod::find_link(route, &identity.name)? else {
        return Ok(None);
    };
    let anothers = is_of_network(&link, network) && link.mac != Some(identity.mac);
    Ok(Some(link).filter(|link| !anothers && is_named(link)))
}

/// Takes away the devices made here for attachments to this network that are not among the kept.
///
/// # Errors
/// What could not be taken away, all of it.
pub(crate) fn keep_only(
    route: &mut Handle,
    network: &str,
    kept: &BTreeSet<Attachment>,
) -> Result<(), Error> {
    let kept: BTreeSet<_> = kept
        .iter()
        .map(|attachment| name_of(network, &attachment.container_id))
        .collect();
    let mut errors = Vec::new();
    for link in route.links().map_err(failure::kernel)? {
        if is_of_network(&link, network) && !kept.contains(&link.name) {
            errors.extend(delete_link(route, link.index).err());
        }
    }
    failure::joined(errors)
}

pub(super) fn delete_link(route: &mut Handle, index: u32) -> Result<(), Error> {
    match route.delete_link(index) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_references() {
        // printf netpod | sha512sum
        assert_eq!(name_of("net", "pod"), "bwp6230a40fd8ff");
    }

    #[test]
    fn interfaces_of_one_container_are_told_apart_and_networks_too() {
        let of = |network, ifname| Identity::of(network, &Attachment::new("a", ifname).unwrap());
        assert_eq!(of("net", "eth0").name, of("net", "eth1").name);
        assert_ne!(of("net", "eth0").mac, of("net", "eth1").mac);
        assert_ne!(
            of("net", "eth0").mac.0[1..4],
            of("other", "eth0").mac.0[1..4]
        );
    }
}
