//! The role `bandwidth`: a pod receives and sends no faster than its limits.
//!
//! What the pod receives is what the host's end of its veth pair sends: a token bucket there
//! limits it. What it sends is redirected to a device of its own (`ifb`) with another bucket.

mod check;
mod ifb;
mod limits;

use std::collections::BTreeSet;
use std::path::Path;

use cni_types::{Attachment, Error, Interface, Success};
use nodekit::Errno;
use nodekit::route::{Handle, Link, Side};

use crate::call::Call;
use crate::rollback::{Rollback, Step};
use crate::{failure, port};

pub(crate) use check::check_shape;
pub(crate) use ifb::{find, keep_only};
pub(crate) use limits::Limits;

/// Limits the attachment of the result before, which is passed on with the device added.
///
/// # Errors
/// Code 7 for limits that make no sense, or without a result before; 101 where the traffic is
/// limited by somebody else; else the failed step's, and nothing is left of it.
pub(crate) fn add(call: &Call, attachment: &Attachment, netns: &Path) -> Result<Success, Error> {
    let limits = Limits::read(&call.config)?;
    let mut result = call.chained_result()?;
    let Some(limits) = limits else {
        return Ok(result);
    };
    let pod = call.open_netns(netns)?;
    let mut route = Handle::open().map_err(failure::kernel)?;
    let port = port::of_pod(&mut route, &pod, &attachment.ifname, &result)?;
    let mut rollback = Rollback::new(&|_| Ok(()));
    let network = call.config.name();
    let made = shape(
        &mut rollback,
        &mut route,
        &port,
        &limits,
        network,
        attachment,
    );
    let made = made.map_err(|reason| rollback.roll_back(reason))?;
    result.interfaces.extend(made);
    Ok(result)
}

/// Limits what passes the host's end of a pod's veth pair; gives the device that was made for it.
///
/// # Errors
/// The failed step's. The caller rolls back.
pub(crate) fn shape(
    rollback: &mut Rollback<'_>,
    route: &mut Handle,
    port: &Link,
    limits: &Limits,
    network: &str,
    attachment: &Attachment,
) -> Result<Option<Interface>, Error> {
    let index = port.index;
    let buckets = limits.buckets()?;
    if let Some(bucket) = buckets.incoming {
        rollback.step_with_undo(
            Step::LimitIncoming,
            || {
                let done = route.add_token_bucket(index, &bucket);
                done.map_err(|error| taken(port, "sends", error))
            },
            move || forget(index, Side::Outgoing),
        )?;
    }
    let Some(bucket) = buckets.outgoing else {
        return Ok(None);
    };
    let identity = ifb::Identity::of(network, attachment);
    let undo = identity.clone();
    let ifb = rollback.step_with_undo(
        Step::Ifb,
        || ifb::make(route, &identity, port.mtu),
        move || ifb::delete_made(&undo),
    )?;
    rollback.step(Step::LimitOutgoing, || {
        let done = route.add_token_bucket(ifb.index, &bucket);
        done.map_err(failure::kernel)
    })?;
    rollback.step_with_undo(
        Step::Hook,
        || {
            let done = route.add_ingress(index);
            done.map_err(|error| taken(port, "receives", error))
        },
        move || forget(index, Side::Incoming),
    )?;
    rollback.step(Step::Redirect, || {
        let done = route.redirect_received(index, ifb.index);
        done.map_err(failure::kernel)
    })?;
    Ok(Some(Interface {
        name: ifb.name,
        mac: identity.mac.to_string(),
        mtu: Some(ifb.mtu),
        ..Interface::default()
    }))
}

fn taken(port: &Link, does: &str, error: nodekit::route::Error) -> Error {
    if error.errno() != Some(Errno::EEXIST) {
        return failure::kernel(error);
    }
    let name = &port.name;
    let message = format!("what {name} {does} is limited or filtered by somebody else already");
    Error::new(failure::CONFLICT, message)
}

fn forget(link: u32, side: Side) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    match route.delete_qdisc(link, side) {
        // The link is gone, or what was there is.
        Err(error)
            if matches!(
                error.errno(),
                Some(Errno::ENODEV | Errno::ENOENT | Errno::EINVAL)
            ) =>
        {
            Ok(())
        }
        other => other.map_err(failure::kernel),
    }
}

/// Takes away the attachment's device. The buckets on the veth pair go with it.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn del(call: &Call, attachment: &Attachment) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    match find(&mut route, call.config.name(), attachment)? {
        Some(device) => ifb::delete_link(&mut route, device.index),
        None => Ok(()),
    }
}

/// Sees whether the limits are as the configuration has them.
///
/// # Errors
/// Code 7 for limits that make no sense, or without a result before; 102 naming what differs.
pub(crate) fn check(call: &Call, attachment: &Attachment, netns: &Path) -> Result<(), Error> {
    let limits = Limits::read(&call.config)?;
    let result = call.chained_result()?;
    let Some(limits) = limits else {
        return Ok(());
    };
    let pod = call.open_netns(netns)?;
    let mut route = Handle::open().map_err(failure::kernel)?;
    let port = port::of_pod(&mut route, &pod, &attachment.ifname, &result)?;
    check_shape(&mut route, &port, &limits, call.config.name(), attachment)
}

/// Sees whether the configuration can be used.
///
/// # Errors
/// Code 6 or 7 for limits that make no sense.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    Limits::read(&call.config).map(drop)
}

/// Takes away the devices of this network's attachments that are not among the kept.
///
/// # Errors
/// Code 7 without a list of attachments; else what could not be taken away.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let kept: BTreeSet<Attachment> = call.config.valid_attachments()?;
    let mut route = Handle::open().map_err(failure::kernel)?;
    keep_only(&mut route, call.config.name(), &kept)
}
