//! DEL: everything that is found is taken away; what fails does not keep the rest.

use std::net::IpAddr;
use std::path::Path;

use cni_types::{Attachment, Error};
use nodekit::route::Handle;

use super::identity::HostEnd;
use super::pod;
use crate::call::Call;
use crate::failure;
use crate::ipam;
use crate::masquerade::Masquerade;

/// Detaches a container, with or without its namespace. The address is given back last, so that
/// nobody gets it while anything of the old pod is there.
///
/// # Errors
/// What could not be taken away, all of it.
pub(crate) fn del(call: &Call, attachment: &Attachment, netns: Option<&Path>) -> Result<(), Error> {
    let mut errors = Vec::new();
    let mut noted = |done: Result<(), Error>| errors.extend(done.err());

    // Not held while links are deleted, which takes the kernel its time.
    let held = ipam::addresses_of(call, attachment).unwrap_or_else(|error| {
        noted(Err(error));
        Vec::new()
    });
    // The masquerading goes first and its connection stays open: what the kernel has to free of it
    // is freed while it deletes the links, which takes longer.
    let mut masquerade = Masquerade::open();
    match &mut masquerade {
        Ok(masquerade) => noted(end_masquerade(masquerade, call, attachment, &held)),
        // A kernel without the tables has nothing in them.
        Err(error) if masquerades(call) => noted(Err(error.clone())),
        Err(_) => {}
    }
    noted(delete_links(call, attachment, netns));
    noted(ipam::del(call, attachment));
    drop(masquerade);
    failure::joined(errors)
}

/// Where the network masquerades, what is reserved is in the map and ours. Elsewhere it may be from
/// a time when it did, and what an earlier DEL released may have gone to others: there the owner
/// must agree, because asking is cheaper than a transaction that the kernel refuses.
fn end_masquerade(
    masquerade: &mut Masquerade,
    call: &Call,
    attachment: &Attachment,
    held: &[IpAddr],
) -> Result<(), Error> {
    let told = told(call);
    if !masquerades(call) {
        return masquerade.remove_if_owned(attachment, &[held, &told].concat());
    }
    let told: Vec<_> = told
        .into_iter()
        .filter(|address| !held.contains(address))
        .collect();
    let done = [
        masquerade.remove(held.iter().copied()),
        masquerade.remove_if_owned(attachment, &told),
    ];
    failure::joined(done.into_iter().filter_map(Result::err).collect())
}

fn masquerades(call: &Call) -> bool {
    matches!(call.config.object().boolean("ipMasq"), Ok(Some(true)))
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
