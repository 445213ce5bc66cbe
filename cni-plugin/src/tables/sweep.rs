//! What is found by its owner alone: everything in the tables is looked at.

use std::collections::BTreeSet;

use cni_types::{Attachment, Error};
use nodekit::Errno;
use nodekit::nft::{Batch, Data, Element, Family, Verdict};

use super::{ATTEMPTS, FAMILIES, Owner, Removed, TABLE, Tables, network_tag, refused};
use crate::failure;

/// The elements of one set.
struct Contents {
    family: Family,
    set: String,
    elements: Vec<(Owner, Element)>,
}

impl Tables {
    /// Takes away every element of the owner's; of these sets alone where they are given. Gives
    /// those.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn remove_all(
        &mut self,
        owner: &Owner,
        of_sets: Option<&[&str]>,
    ) -> Result<Vec<Removed>, Error> {
        let (removed, _) = self.remove_where(&|set, other| {
            other.is_same(owner) && of_sets.is_none_or(|sets| sets.contains(&set))
        })?;
        Ok(removed)
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
        let (_, left) = self.remove_where(&|_, owner| {
            owner.network() == tag && !kept.contains(owner.attachment())
        })?;
        self.delete_unused_chains(&tag, &left)
    }

    /// Every element of these sets that has an owner.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn owned(&mut self, sets: &[&str]) -> Result<Vec<(Owner, Element)>, Error> {
        let contents = self.contents()?.into_iter();
        let wanted = contents.filter(|contents| sets.contains(&contents.set.as_str()));
        Ok(wanted.flat_map(|contents| contents.elements).collect())
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

    /// Takes away the elements of those sets and owners, in one transaction. Gives these, and all
    /// the others.
    fn remove_where(
        &mut self,
        goes: &dyn Fn(&str, &Owner) -> bool,
    ) -> Result<(Vec<Removed>, Vec<Contents>), Error> {
        let mut left = Vec::new();
        for _ in 0..ATTEMPTS {
            left = self.contents()?;
            let mut removed = Vec::new();
            let mut batch = Batch::new(Family::Ip, TABLE);
            for Contents {
                family,
                set,
                elements,
            } in &mut left
            {
                let going = elements.extract_if(.., |(owner, _)| goes(set, owner));
                let going: Vec<_> = going.map(|(_, element)| element).collect();
                batch.go_on_in(*family, TABLE);
                batch.delete_elements(0, set, &going);
                removed.extend(going.into_iter().map(|element| Removed {
                    set: set.clone(),
                    key: element.key,
                }));
            }
            match self.nft.commit(&batch) {
                // Some of it went meanwhile.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                other => return other.map(|()| (removed, left)).map_err(refused),
            }
        }
        Ok((Vec::new(), left))
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
