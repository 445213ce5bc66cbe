//! Whether the limits are what the configuration says.

use cni_types::{Attachment, Error};
use nodekit::route::{Handle, Link, Side, TokenBucket};

use super::ifb;
use super::limits::Limits;
use crate::failure;

/// Compares what the kernel has with what [`super::shape`] makes.
///
/// # Errors
/// Code 102 naming what differs.
pub(crate) fn check_shape(
    route: &mut Handle,
    port: &Link,
    limits: &Limits,
    network: &str,
    attachment: &Attachment,
) -> Result<(), Error> {
    let buckets = limits.buckets()?;
    if let Some(wanted) = buckets.incoming {
        has_bucket(route, port, wanted)?;
    }
    let Some(wanted) = buckets.outgoing else {
        return Ok(());
    };
    let name = ifb::Identity::of(network, attachment).name;
    let ifb = route
        .link_by_name(&name)
        .map_err(|error| changed(format!("{name}, which limits what the pod sends: {error}")))?;
    has_bucket(route, &ifb, wanted)?;
    let targets = route
        .redirects_of_received(port.index)
        .map_err(|error| changed(error.to_string()))?;
    if targets.contains(&ifb.index) {
        return Ok(());
    }
    let port = &port.name;
    Err(changed(format!(
        "what the pod sends to {port} is not redirected to {name}"
    )))
}

fn has_bucket(route: &mut Handle, link: &Link, wanted: TokenBucket) -> Result<(), Error> {
    let name = &link.name;
    let held = route
        .qdisc(link.index, Side::Outgoing)
        .map_err(failure::kernel)?;
    let Some(held) = held.and_then(|qdisc| qdisc.bucket) else {
        return Err(changed(format!("{name} has no limit any more")));
    };
    if held == wanted {
        return Ok(());
    }
    let said = |bucket: TokenBucket| {
        format!(
            "{} bytes/s, a burst of {} ticks and a queue of {} bytes",
            bucket.rate, bucket.depth, bucket.limit
        )
    };
    Err(changed(format!(
        "{name} is limited to {} instead of {}",
        said(held),
        said(wanted)
    )))
}

fn changed(message: String) -> Error {
    Error::new(failure::CHANGED, message)
}
