//! DEL: everything that is found is taken away; what fails does not keep the rest.

use std::net::IpAddr;
use std::path::Path;

use cni_types::{Attachment, Error};
use nodekit::route::Handle;

use super::identity::HostEnd;
use super::pod;
use crate::call::Call;
use crate::failure;
use crate::host_local;
use crate::masquerade;

/// Detaches a container, with or without its namespace. The address is given back last, so that
/// nobody gets it while anything of the old pod is there.
///
/// # Errors
/// What could not be taken away, all of it.
pub(crate) fn del(call: &Call, attachment: &Attachment, netns: Option<&Path>) -> Result<(), Error> {
    let mut errors = Vec::new();
    let mut noted = |done: Result<(), Error>| errors.extend(done.err());

    // Not held while links are deleted, which takes the kernel its time.
    let held = host_local::held_by(&call.config, attachment).unwrap_or_else(|error| {
        noted(Err(error));
        Vec::new()
    });
    noted(delete_links(call, attachment, netns));
    noted(masquerade::remove(held.iter().copied()));
    // What an earlier DEL released may have gone to others: there the owner must agree.
    let told: Vec<_> = told(call)
        .into_iter()
        .filter(|address| !held.contains(address))
        .collect();
    noted(masquerade::remove_if_owned(attachment, &told));
    noted(host_local::release(&call.config, attachment).map(drop));
    failure::joined(errors)
}

fn delete_links(call: &Call, attachment: &Attachment, netns: Option<&Path>) -> Result<(), Error> {
    let in_pod = call.open_netns_if_any(netns).and_then(|pod| match pod {
        Some(pod) => pod::delete_pod_end(&pod, &attachment.ifname),
        None => Ok(()),
    });
    let mut route = Handle::open().map_err(failure::kernel)?;
    let on_host = pod::delete_host_end(&mut route, &HostEnd::of(attachment));
    failure::joined(in_pod.err().into_iter().chain(on_host.err()).collect())
}

/// The addresses of the runtime's record of ADD, where it has one that can be read.
fn told(call: &Call) -> Vec<IpAddr> {
    let result = call.config.prev_result(call.version).ok().flatten();
    result
        .map(|r| r.ips.iter().map(|ip| ip.address.address()).collect())
        .unwrap_or_default()
}
