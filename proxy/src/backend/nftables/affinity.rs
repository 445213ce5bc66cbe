//! Clients that are remembered for an endpoint that is gone.

use std::collections::BTreeMap;

use lb_model::{Family, FrontendAddress};
use lb_plan::nftables::{Applied, Set, TABLE};
use nodekit::Errno;
use nodekit::nft::{Element, Error, NftSocket};

use super::{elements, encode};

/// Which remembered clients are to be forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Due {
    /// Frontends that changed: all their clients (`true`), or those of endpoints that left.
    pub(super) changed: BTreeMap<FrontendAddress, bool>,
    /// Nothing is known of what was remembered before: all that may be wrong.
    pub(super) unknown: bool,
}

impl Due {
    /// Whether there is nothing to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && !self.unknown
    }

    fn forgets(&self, applied: &Applied, family: Family, element: &Element) -> bool {
        let Some(client) = elements::decode_remembered(family, element) else {
            return true;
        };
        let address = applied.frontend_of(client.destination, client.protocol, client.port);
        address.is_none_or(|address| {
            self.changed.get(&address) == Some(&true)
                || !applied.keeps(&address, client.target, self.unknown)
        })
    }
}

/// Forgets the clients that are due. Gives how many.
///
/// # Errors
/// As [`NftSocket::elements`] and [`NftSocket::commit`]; a client that is forgotten by its time
/// meanwhile is none.
pub(super) fn forget(
    socket: &mut NftSocket,
    family: Family,
    applied: &Applied,
    due: &Due,
) -> Result<usize, Error> {
    let set = Set::Affinity.name();
    let mut gone = socket.elements(encode::nft_family(family), TABLE, set)?;
    gone.retain(|element| due.forgets(applied, family, element));
    let count = gone.len();
    while !gone.is_empty() {
        let mut batch = encode::batch(family);
        for (tag, element) in gone.iter().enumerate() {
            batch.delete_elements(tag, set, [element]);
        }
        let error = match socket.commit(&batch) {
            Ok(()) => break,
            Err(error) => error,
        };
        let mut expired: Vec<usize> = Vec::new();
        for failure in error.failures() {
            match failure.tag {
                Some(tag) if failure.errno == Errno::ENOENT => expired.push(tag),
                _ => return Err(error),
            }
        }
        if expired.is_empty() {
            return Err(error);
        }
        let mut tag = 0..;
        gone.retain(|_| tag.next().is_some_and(|tag| !expired.contains(&tag)));
    }
    Ok(count)
}
