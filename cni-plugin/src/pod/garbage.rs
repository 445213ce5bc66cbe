//! Hosts' ends that nobody owns any more.

use std::collections::BTreeSet;

use cni_types::{Attachment, Error};
use nodekit::Errno;
use nodekit::route::{Handle, Link};

use crate::call::Call;
use crate::identity::HostEnd;
use crate::{failure, ipam};

/// What stands on a host's end: whose network it is of. Several may share a bridge.
pub(crate) fn alias_of(call: &Call) -> String {
    format!("cni network {}", call.config.name())
}

/// Deletes the hosts' ends of the network that none of the kept attachments owns, before its
/// reservations are given back.
///
/// One without an alias, as a killed ADD and older versions left it, could be any network's: it is
/// this one's if its attachment has a reservation here.
///
/// # Errors
/// Code 5 when the reservations can't be read, 100 with the kernel's refusal.
pub(crate) fn delete_unowned(call: &Call, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    let names = |attachments: &BTreeSet<Attachment>| -> BTreeSet<String> {
        let ends = attachments.iter().map(HostEnd::of);
        ends.map(|end| end.name).collect()
    };
    let mut errors = Vec::new();
    let holders = ipam::holders(call).unwrap_or_else(|error| {
        errors.push(error);
        BTreeSet::new()
    });
    let (kept, reserved, alias) = (names(kept), names(&holders), alias_of(call));
    let is_garbage = |link: &Link| {
        let of_network = match &link.alias {
            Some(said) => *said == alias,
            None => reserved.contains(&link.name),
        };
        of_network && HostEnd::is_ours(&link.name, link.mac) && !kept.contains(&link.name)
    };
    let mut route = Handle::open().map_err(failure::kernel)?;
    let links = route.links().map_err(failure::kernel)?;
    for link in links.iter().filter(|link| is_garbage(link)) {
        match route.delete_link(link.index) {
            Err(error) if error.errno() != Some(Errno::ENODEV) => {
                errors.push(failure::kernel(error));
            }
            _ => {}
        }
    }
    failure::joined(errors)
}
