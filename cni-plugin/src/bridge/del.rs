//! DEL: everything that is found is taken away; what fails does not keep the rest.

use std::net::IpAddr;
use std::path::Path;

use cni_types::{Attachment, Error};
use nodekit::Errno;
use nodekit::route::Handle;

use super::wanted;
use crate::bandwidth;
use crate::call::Call;
use crate::failure;
use crate::identity::HostEnd;
use crate::ipam;
use crate::masquerade;
use crate::pod;
use crate::tables::Tables;

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
    let mut addresses = told(call);
    addresses.retain(|address| !held.contains(address));
    addresses.extend(held);
    // The tables go first and their connection stays open: what the kernel has to free of them is
    // freed while it deletes the links, which takes longer.
    let mut tables = Tables::open();
    match &mut tables {
        Ok(tables) => noted(wanted::remove(tables, call, attachment, &addresses)),
        // A kernel without the tables has nothing in them.
        Err(error) if masquerade::needs_tables(call) => noted(Err(error.clone())),
        Err(_) => {}
    }
    noted(masquerade::remove_rules(call, attachment, &addresses));
    noted(delete_links(call, attachment, netns));
    noted(ipam::del(call, attachment));
    drop(tables);
    failure::joined(errors)
}

fn delete_links(call: &Call, attachment: &Attachment, netns: Option<&Path>) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    // Under the name `bridge` limits are another plugin's.
    let limited = if call.is_combined() {
        delete_limited(&mut route, call.config.name(), attachment)
    } else {
        Ok(())
    };
    let in_pod = call.open_netns_if_any(netns).and_then(|pod| match pod {
        Some(pod) => pod::delete_pod_end(&pod, &attachment.ifname),
        None => Ok(()),
    });
    let on_host = pod::delete_host_end(&mut route, &HostEnd::of(attachment));
    let done = [limited, in_pod, on_host];
    failure::joined(done.into_iter().filter_map(Result::err).collect())
}

/// The device that limits the pod's traffic, if any, and the pair with it: apart they would take
/// the kernel twice the time.
fn delete_limited(route: &mut Handle, network: &str, attachment: &Attachment) -> Result<(), Error> {
    let Some(device) = bandwidth::find(route, network, attachment)? else {
        return Ok(());
    };
    // What stands in the way there is told by the next step.
    let port = pod::find_host_end(route, &HostEnd::of(attachment)).unwrap_or_default();
    let links: Vec<_> = port
        .iter()
        .chain([&device])
        .map(|link| link.index)
        .collect();
    match route.delete_links_together(&links) {
        Err(error) if error.errno() != Some(Errno::ENODEV) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}

/// The addresses of the runtime's record of ADD, where it has one that can be read.
fn told(call: &Call) -> Vec<IpAddr> {
    let result = call.config.prev_result(call.version).ok().flatten();
    result
        .map(|r| r.ips.iter().map(|ip| ip.address.address()).collect())
        .unwrap_or_default()
}
