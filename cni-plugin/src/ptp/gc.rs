//! GC: what belongs to none of the attachments that the runtime still knows.

use cni_types::Error;

use crate::call::Call;
use crate::tables::Tables;
use crate::{failure, ipam, masquerade, pod};

/// Takes away links, table elements and reservations of this network that nobody owns any more.
///
/// # Errors
/// Code 7 without a list of attachments; else what could not be taken away, all of it.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let kept = call.config.valid_attachments()?;
    let done = [
        pod::delete_unowned(call, &kept),
        Tables::open().and_then(|mut tables| tables.keep_only(call.config.name(), &kept)),
        masquerade::collect_rules(call, &kept),
        ipam::gc(call, &kept),
    ];
    failure::joined(done.into_iter().filter_map(Result::err).collect())
}
