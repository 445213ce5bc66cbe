//! DEL: everything that is found is taken away; what fails does not keep the rest.

use std::net::IpAddr;
use std::path::Path;

use cni_types::{Attachment, Error};
use nodekit::route::Handle;

use super::leaving::Leaving;
use crate::call::Call;
use crate::identity::HostEnd;
use crate::{failure, ipam, masquerade, pod};

/// Detaches a container, with or without its namespace. The address is given back last, so that
/// nobody gets it while anything of the old pod is there.
///
/// # Errors
/// What could not be taken away, all of it.
pub(crate) fn del(call: &Call, attachment: &Attachment, netns: Option<&Path>) -> Result<(), Error> {
    let mut errors = Vec::new();
    // Not held while links are deleted, which takes the kernel its time.
    let held = ipam::addresses_of(call, attachment).unwrap_or_else(|error| {
        errors.push(error);
        Vec::new()
    });
    let mut addresses = told(call);
    addresses.retain(|address| !held.contains(address));
    addresses.extend(held);
    errors.extend(masquerade::remove_rules(call, attachment, &addresses).err());
    let leaving = Leaving {
        call,
        attachment,
        addresses: &addresses,
    };
    errors.extend(leaving.leave().err());
    // The pair, where its host's end was not found, or is about to go by the same DEL twice.
    let in_pod = call.open_netns_if_any(netns).and_then(|pod| match pod {
        Some(pod) => pod::delete_pod_end(&pod, &attachment.ifname),
        None => Ok(()),
    });
    errors.extend(in_pod.err());
    errors.extend(delete_host_end(attachment).err());
    errors.extend(ipam::del(call, attachment).err());
    failure::joined(errors)
}

fn delete_host_end(attachment: &Attachment) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    pod::delete_host_end(&mut route, &HostEnd::of(attachment))
}

/// The addresses of the runtime's record of ADD, where it has one that can be read.
fn told(call: &Call) -> Vec<IpAddr> {
    let result = call.config.prev_result(call.version).ok().flatten();
    result
        .map(|r| r.ips.iter().map(|ip| ip.address.address()).collect())
        .unwrap_or_default()
}
