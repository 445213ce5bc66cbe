//! What attachments have in nf_tables, committed in one transaction.
//!
//! Each feature (masquerading, host ports, filters) says as data what it wants: [`Entries`], a list
//! of elements of a few big maps, each with its owner in its comment. [`Tables`] knows no feature.
//! A feature has three functions:
//!
//! ```text
//! fn enter(entries: &mut Entries, ...)     // ADD and CHECK: entries.needs(family, scaffold), then
//!                                          //   entries.put(key, data, "what it is in words")
//!                                          //   entries.claim(...) for what others may hold rightly
//! fn keys(...) -> Vec<Key>                 // DEL: from what is known: addresses, ports, names
//! fn scaffold(...) -> Scaffold             // sets, and chains with all their rules
//! ```
//!
//! The callers in `bridge/` gather them: [`Tables::add`], [`Tables::check`], [`Tables::remove`] with
//! keys, and [`Tables::remove_all`] where the keys are not known (then all that is the owner's goes). GC ([`Tables::keep_only`]) and
//! `remove_all` go by the comments alone, whatever the set, so that a feature has nothing to do for
//! them, if
//!
//! - its sets are in the table [`TABLE`], of any of [`FAMILIES`], and have no ranges,
//! - its chains of one network have [`network_tag`] for their comment and a name that follows from
//!   their rules: they go once no element of the network leads there. All other chains stay.
//!
//! In the kernel's rule set an owner reads `<containerID> <ifname> <network>`, with the host's link
//! as a fourth word for claims.

mod entries;
mod owner;
mod sweep;

use std::collections::BTreeSet;

use cni_types::{Code, Error};
use nodekit::Errno;
use nodekit::nft::{self, Batch, Element, ElementPath, Family, NftSocket};
use nodekit::xtables;

use crate::failure;
use crate::rollback::{Rollback, Step};
pub(crate) use entries::{Entries, Entry, Key, Scaffold, address_key, family_of};
pub(crate) use owner::{Owner, network_tag};

/// The table's name, in every family.
pub(crate) const TABLE: &str = "causeway-cni";

/// The families that there may be a table of.
pub(crate) const FAMILIES: [Family; 3] = [Family::Ip, Family::Ip6, Family::Bridge];

/// How often something is tried against others that change the same things at once.
const ATTEMPTS: usize = 8;

/// The tag of what is not an entry's own.
const SCAFFOLD: usize = 0;

/// The tables of the namespace it was opened in.
///
/// Closing it waits until the kernel has freed what was deleted, 5 to 20 ms; whoever deletes
/// keeps it open while there is other work, which that time then passes with.
#[derive(Debug)]
pub(crate) struct Tables {
    nft: NftSocket,
}

/// The step of ADD that commits `entries`; undone, they go.
///
/// # Errors
/// As [`Tables::add`].
pub(crate) fn step(rollback: &mut Rollback<'_>, entries: &Entries) -> Result<(), Error> {
    let (owner, keys) = (entries.owner().clone(), entries.keys());
    rollback.step_with_undo(
        Step::Tables,
        || Tables::open()?.add(entries),
        move || Tables::open()?.remove(&owner, &keys).map(drop),
    )
}

/// An element that was taken away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) set: String,
    pub(crate) key: nft::Value,
}

/// What is tried next.
#[derive(Debug, Default)]
struct Attempt {
    with_scaffolds: bool,
    /// The entries whose key is somebody else's, to be taken over.
    in_place: BTreeSet<usize>,
}

impl Attempt {
    /// An operation's tag says which entry it is of: odd deletes, even creates.
    fn batch(&self, entries: &Entries) -> Batch {
        let mut batch = Batch::new(Family::Ip, TABLE);
        if self.with_scaffolds {
            for (family, scaffold) in entries.scaffolds() {
                batch.go_on_in(*family, TABLE);
                scaffold.add(SCAFFOLD, &mut batch);
            }
        }
        for (index, entry) in entries.iter().enumerate() {
            let Key { family, set, .. } = &entry.key;
            batch.go_on_in(*family, TABLE);
            if self.in_place.contains(&index) {
                batch.delete_elements(2 * index + 1, set, [&entry.element]);
            }
            batch.create_elements(2 * index + 2, set, [&entry.element]);
        }
        batch
    }
}

impl Tables {
    /// Opens a connection to the kernel's tables.
    ///
    /// # Errors
    /// Code 100 where the kernel has none.
    pub(crate) fn open() -> Result<Self, Error> {
        NftSocket::open().map(|nft| Self { nft }).map_err(refused)
    }

    /// Puts all entries in, or none: first the elements alone; with their scaffolds where
    /// something of those is missing; in place of elements that were left behind.
    ///
    /// # Errors
    /// Code 101 for a claim that somebody alive holds; code 100 with the kernel's refusal.
    pub(crate) fn add(&mut self, entries: &Entries) -> Result<(), Error> {
        let mut attempt = Attempt::default();
        for _ in 1..ATTEMPTS {
            match self.nft.commit(&attempt.batch(entries)) {
                Ok(()) => return Ok(()),
                Err(error) => self.learn(&mut attempt, entries, error)?,
            }
        }
        self.nft.commit(&attempt.batch(entries)).map_err(refused)
    }

    /// What to do otherwise after a refusal; the refusal itself where that can't help.
    fn learn(
        &mut self,
        attempt: &mut Attempt,
        entries: &Entries,
        error: nft::Error,
    ) -> Result<(), Error> {
        if error.failures().is_empty() {
            return Err(refused(error));
        }
        for failure in error.failures() {
            let tag = failure.tag.unwrap_or(SCAFFOLD);
            let deleting = tag % 2 == 1;
            let index = tag.saturating_sub(1) / 2;
            match failure.errno {
                // The element that was to be replaced is gone.
                Errno::ENOENT if deleting => {
                    attempt.in_place.remove(&index);
                }
                // No table, map or chain yet, or not any more.
                Errno::ENOENT => attempt.with_scaffolds = true,
                Errno::EEXIST if tag != SCAFFOLD => {
                    if let Some(entry) = entries.iter().nth(index) {
                        self.may_replace(entries.owner(), entry)?;
                        attempt.in_place.insert(index);
                    }
                }
                _ => return Err(refused(error)),
            }
        }
        Ok(())
    }

    /// An address has one pod: what another left under its key is stale. A claim may be another's
    /// by right.
    fn may_replace(&mut self, owner: &Owner, entry: &Entry) -> Result<(), Error> {
        if !entry.claimed {
            return Ok(());
        }
        let found = self.find(std::slice::from_ref(&entry.key))?;
        let Some(holder) = found.iter().flatten().next().and_then(owner_of) else {
            return Ok(());
        };
        if holder.is_same(owner) || !holder.is_alive()? {
            return Ok(());
        }
        let message = format!("{} is held by {holder}", entry.what);
        Err(Error::new(failure::CONFLICT, message))
    }

    /// Takes away the elements with these keys that are the owner's, in one transaction. Gives
    /// those.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn remove(&mut self, owner: &Owner, keys: &[Key]) -> Result<Vec<Removed>, Error> {
        // The kernel refuses to delete an element twice.
        let mut keys = keys.to_vec();
        keys.sort();
        keys.dedup();
        for _ in 0..ATTEMPTS {
            let mut batch = Batch::new(Family::Ip, TABLE);
            let mut removed = Vec::new();
            for (key, found) in keys.iter().zip(self.find(&keys)?) {
                if let Some(element) = found.filter(|found| owner.has(found)) {
                    batch.go_on_in(key.family, TABLE);
                    batch.delete_elements(0, key.set, [&element]);
                    removed.push(Removed {
                        set: key.set.to_owned(),
                        key: element.key,
                    });
                }
            }
            match self.nft.commit(&batch) {
                // Somebody else does the same.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                other => return other.map(|()| removed).map_err(refused),
            }
        }
        Ok(Vec::new())
    }

    /// Whether an element of the owner's has one of these keys.
    ///
    /// # Errors
    /// As [`Tables::remove`].
    pub(crate) fn holds_any(&mut self, owner: &Owner, keys: &[Key]) -> Result<bool, Error> {
        let found = self.find(keys)?;
        Ok(found.iter().flatten().any(|element| owner.has(element)))
    }

    /// Sees whether every entry is there, as its owner's, and leads where it should.
    ///
    /// # Errors
    /// Code 102 naming the entry that isn't.
    pub(crate) fn check(&mut self, entries: &Entries) -> Result<(), Error> {
        let keys: Vec<_> = entries.iter().map(|entry| entry.key.clone()).collect();
        for (entry, found) in entries.iter().zip(self.find(&keys)?) {
            let trouble = match found.filter(|found| entries.owner().has(found)) {
                None => "is gone from the node's tables",
                // A chain's name follows from a configuration, which may have been changed.
                Some(found) if is_value(&found) && found.data != entry.element.data => {
                    "leads elsewhere in the node's tables"
                }
                Some(_) => continue,
            };
            let message = format!("{} {trouble}", entry.what);
            return Err(Error::new(failure::CHANGED, message));
        }
        Ok(())
    }

    /// The elements with these keys.
    fn find(&mut self, keys: &[Key]) -> Result<Vec<Option<Element>>, Error> {
        let paths: Vec<_> = keys
            .iter()
            .map(|key| ElementPath {
                family: key.family,
                table: TABLE,
                set: key.set,
                key: &key.value,
            })
            .collect();
        match self.nft.find_elements(&paths) {
            // A kernel without the tables doesn't know the request at all.
            Err(error) if error.errno() == Some(Errno::EINVAL) && self.probe().is_err() => {
                Ok(vec![None; keys.len()])
            }
            other => other.map_err(refused),
        }
    }

    /// Whether iptables have a chain in one of their tables, of either family. It is seen without
    /// running them, in nf_tables; chains of the kernel's older tables (iptables-legacy) are not.
    pub(crate) fn iptables_have(&mut self, table: xtables::Table, chain: &str) -> bool {
        let mut has = |family| self.nft.has_chain(family, table.name(), chain);
        // Where that can't be told, nothing is known to be there.
        [Family::Ip, Family::Ip6]
            .into_iter()
            .any(|family| has(family).unwrap_or_default())
    }

    /// Whether iptables have a chain whose name begins so, as [`Tables::iptables_have`].
    pub(crate) fn iptables_have_any(&mut self, table: xtables::Table, start: &str) -> bool {
        let families = [Family::Ip, Family::Ip6].into_iter();
        let chains = families.flat_map(|family| self.nft.chains(family, table.name()));
        let mut chains = chains.flatten();
        chains.any(|chain| chain.name.starts_with(start))
    }

    /// Sees whether nf_tables answers.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn probe(&mut self) -> Result<(), Error> {
        self.nft.generation().map(drop).map_err(refused)
    }
}

fn owner_of(element: &Element) -> Option<Owner> {
    Owner::read(element.comment.as_deref()?)
}

fn is_value(element: &Element) -> bool {
    matches!(element.data, Some(nft::Data::Value(_)))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn refused(error: nft::Error) -> Error {
    let missing = [Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT];
    let hint = if error.errno().is_some_and(|errno| missing.contains(&errno)) {
        "; this kernel lacks nf_tables or part of it"
    } else {
        ""
    };
    let code = if error.errno() == Some(Errno::ENOBUFS) {
        Code::TRY_AGAIN
    } else {
        failure::KERNEL
    };
    Error::new(code, format!("{error}{hint}"))
}

#[cfg(test)]
mod tests;
