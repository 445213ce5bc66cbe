//! What an attachment wants in nf_tables, of every feature together.

use std::net::IpAddr;

use cni_types::{Attachment, Cidr, Error};

use super::config::Network;
use crate::call::Call;
use crate::masquerade;
use crate::tables::{Entries, Key, Owner, Tables};

/// All of it, for ADD and CHECK.
pub(super) fn entries(
    call: &Call,
    network: &Network,
    attachment: &Attachment,
    addresses: &[Cidr],
) -> Entries {
    let name = call.config.name();
    let mut entries = Entries::new(Owner::new(name, attachment));
    if network.masquerade {
        masquerade::enter(&mut entries, name, addresses, &network.not_masqueraded);
    }
    entries
}

/// Takes away whatever the attachment has, for DEL: by the keys that follow from its addresses;
/// where those are not known, by looking at everything. The configuration may have changed since
/// ADD, so that it doesn't say what there is.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(super) fn remove(
    tables: &mut Tables,
    call: &Call,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<(), Error> {
    let owner = Owner::new(call.config.name(), attachment);
    if addresses.is_empty() {
        return tables.remove_all(&owner);
    }
    let keys: Vec<Key> = masquerade::keys(addresses).collect();
    tables.remove(&owner, &keys)
}
