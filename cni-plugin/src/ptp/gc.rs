//! GC: what belongs to none of the attachments that the runtime still knows.

use std::collections::BTreeSet;

use cni_types::{Attachment, Error};
use nodekit::route::Handle;

use super::add::alias_of;
use crate::call::Call;
use crate::tables::Tables;
use crate::{failure, ipam, pod};

/// Takes away links, table elements and reservations of this network that nobody owns any more.
///
/// # Errors
/// Code 7 without a list of attachments; else what could not be taken away, all of it.
pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let kept = call.config.valid_attachments()?;
    let done = [
        delete_links(call, &kept),
        Tables::open().and_then(|mut tables| tables.keep_only(call.config.name(), &kept)),
        ipam::gc(call, &kept),
    ];
    failure::joined(done.into_iter().filter_map(Result::err).collect())
}

/// The host's ends of this network that were made here.
fn delete_links(call: &Call, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    let mut route = Handle::open().map_err(failure::kernel)?;
    let alias = alias_of(call);
    pod::delete_unowned(&mut route, kept, |link| link.alias.as_ref() == Some(&alias))
}
