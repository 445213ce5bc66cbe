//! GC: what belongs to none of the attachments that the runtime still knows.

use std::collections::BTreeSet;

use cni_types::{Attachment, Error};
use nodekit::route::Handle;

use crate::bandwidth;
use crate::call::Call;
use crate::failure;
use crate::ipam;
use crate::masquerade;
use crate::pod;
use crate::tables::Tables;

/// Takes away links, table elements and reservations of this network that nobody owns any more.
///
/// # Errors
/// Code 7 without a list of attachments; else what could not be taken away, all of it.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let kept = call.config.valid_attachments()?;
    let done = [
        pod::delete_unowned(call, &kept),
        delete_limits(call, &kept),
        Tables::open().and_then(|mut tables| tables.keep_only(call.config.name(), &kept)),
        masquerade::collect_rules(call, &kept),
        ipam::gc(call, &kept),
    ];
    failure::joined(done.into_iter().filter_map(Result::err).collect())
}

/// The devices that limit pods' traffic. Under the name `bridge` they are another plugin's.
fn delete_limits(call: &Call, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    if !call.is_combined() {
        return Ok(());
    }
    let mut route = Handle::open().map_err(failure::kernel)?;
    bandwidth::keep_only(&mut route, call.config.name(), kept)
}
