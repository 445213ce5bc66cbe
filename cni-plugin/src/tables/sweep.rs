//! What is found by its owner alone: everything in the tables is looked at.

use std::collections::BTreeSet;

use cni_types::{Attachment, Error};
use nodekit::Errno;
use nodekit::nft::{Batch, Data, Element, Family, Verdict};

use super::{ATTEMPTS, FAMILIES, Owner, TABLE, Tables, network_tag, refused};
use crate::failure;

/// The elements of one set.
struct Contents {
    family: Family,
    set: String,
    elements: Vec<(Owner, Element)>,
}

impl Tables {
    /// Takes away every element of the owner's.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn remove_all(&mut self, owner: &Owner) -> Result<(), Error> {
        self.remove_where(&|other| other.is_same(owner)).map(drop)
    }

    /// Takes away every element of a network's attachments that are not among the kept, and the
    /// network's chains that are then unused.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn keep_only(
        &mut self,
        network: &str,
        kept: &BTreeSet<Attachment>,
    ) -> Result<(), Error> {
        let tag = network_tag(network);
        let left = self
            .remove_where(&|owner| owner.network() == tag && !kept.contains(owner.attachment()))?;
        self.delete_unused_chains(&tag, &left)
    }

    /// Every owner in the tables, with all the elements that are its, by family and set.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    fn contents(&mut self) -> Result<Vec<Contents>, Error> {
        let mut all = Vec::new();
        for family in FAMILIES {
            let sets = match self.nft.sets(family, TABLE) {
                Err(error) if error.errno() == Some(Errno::ENOENT) => continue,
                Err(error) if error.errno() == Some(Errno::EINVAL) && self.probe().is_err() => {
                    // A kernel without the tables doesn't know the request at all.
                    return Ok(Vec::new());
                }
                other => other.map_err(refused)?,
            };
            for set in sets {
                let elements = match self.nft.elements(family, TABLE, &set.name) {
                    Err(error) if error.errno() == Some(Errno::ENOENT) => continue,
                    other => other.map_err(refused)?,
                };
                let owned = elements.into_iter().filter_map(|element| {
                    Some((Owner::read(element.comment.as_deref()?)?, element))
                });
                all.push(Contents {
                    family,
                    set: set.name,
                    elements: owned.collect(),
                });
            }
        }
        Ok(all)
    }

    /// Takes away the elements of those owners, in one transaction, and gives all the others.
    fn remove_where(&mut self, goes: &dyn Fn(&Owner) -> bool) -> Result<Vec<Contents>, Error> {
        let mut left = Vec::new();
        for _ in 0..ATTEMPTS {
            left = self.contents()?;
            let mut batch = Batch::new(Family::Ip, TABLE);
            for one in &mut left {
                let going = one.elements.extract_if(.., |(owner, _)| goes(owner));
                batch.go_on_in(one.family, TABLE);
                batch.delete_elements(0, &one.set, going.map(|(_, element)| element));
            }
            match self.nft.commit(&batch) {
                // Some of it went meanwhile.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                other => {
                    other.map_err(refused)?;
                    break;
                }
            }
        }
        Ok(left)
    }

    fn delete_unused_chains(&mut self, tag: &str, left: &[Contents]) -> Result<(), Error> {
        let mut errors = Vec::new();
        for family in FAMILIES {
            let of_family = left.iter().filter(|contents| contents.family == family);
            let used: BTreeSet<_> = of_family
                .flat_map(|contents| &contents.elements)
                .filter_map(|(_, element)| match &element.data {
                    Some(Data::Verdict(Verdict::Goto(chain) | Verdict::Jump(chain))) => Some(chain),
                    _ => None,
                })
                .collect();
            let chains = match self.nft.chains(family, TABLE) {
                Err(error) if error.errno() == Some(Errno::EINVAL) && self.probe().is_err() => {
                    return Ok(());
                }
                other => other.map_err(refused)?,
            };
            let unused = chains.into_iter().filter(|chain| {
                !chain.is_base
                    && chain.comment.as_deref() == Some(tag)
                    && !used.contains(&chain.name)
            });
            for chain in unused {
                let mut batch = Batch::new(family, TABLE);
                batch.flush_chain(0, &chain.name);
                batch.delete_chain(0, &chain.name);
                match self.nft.commit(&batch) {
                    // Gone, or taken into use, meanwhile.
                    Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EBUSY)) => {}
                    other => errors.extend(other.map_err(refused).err()),
                }
            }
        }
        failure::joined(errors)
    }
}
