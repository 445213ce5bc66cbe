//! Traffic of pods that leaves their network gets the node's address.
//!
//! A table of our own in each family holds one map from a pod's address to its network's chain, so
//! that a pod costs one element, in time and in rules. An element's comment says whose it is.

mod plan;

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni_types::{Attachment, Cidr, Code, Error};
use nodekit::Errno;
use nodekit::nft::{self, Batch, Data, Element, Family, NftSocket, Verdict};

use crate::failure;
use plan::{MAP, NetworkChain, TABLE, family_of, key_of, owner};

/// How often an addition is tried against others that change the same things at once.
const ATTEMPTS: usize = 8;

/// The tables of the namespace it was opened in.
///
/// Closing it waits until the kernel has freed what was deleted, 5 to 20 ms; whoever deletes
/// keeps it open while there is other work, which that time then passes with.
#[derive(Debug)]
pub(crate) struct Masquerade {
    nft: NftSocket,
}

impl Masquerade {
    /// Opens a connection to the kernel's tables.
    ///
    /// # Errors
    /// Code 100 where the kernel has none.
    pub(crate) fn open() -> Result<Self, Error> {
        NftSocket::open().map(|nft| Self { nft }).map_err(refused)
    }

    /// Has the addresses of an attachment masqueraded; all of them or none.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn add(
        &mut self,
        network: &str,
        attachment: &Attachment,
        addresses: &[Cidr],
        not_masqueraded: &[Cidr],
    ) -> Result<(), Error> {
        for (index, address) in addresses.iter().enumerate() {
            let chain = NetworkChain::new(network, *address, not_masqueraded);
            if let Err(error) = self.add_one(attachment, *address, &chain) {
                let before = addresses[..index].iter().map(|address| address.address());
                self.remove(before)?;
                return Err(refused(error));
            }
        }
        Ok(())
    }

    /// The element alone, where everything it needs is there; else that first.
    fn add_one(
        &mut self,
        attachment: &Attachment,
        address: Cidr,
        chain: &NetworkChain,
    ) -> Result<(), nft::Error> {
        let family = family_of(address.address());
        let element = Element {
            comment: Some(owner(attachment)),
            ..Element::to(
                key_of(address.address()),
                Data::Verdict(Verdict::Goto(chain.name.clone())),
            )
        };
        let (mut with_chain, mut in_place_of) = (false, false);
        for _ in 1..ATTEMPTS {
            let mut batch = Batch::new(family, TABLE);
            if with_chain {
                chain.add(&mut batch);
            }
            if in_place_of {
                batch.delete_elements(0, MAP, [&element]);
            }
            batch.create_elements(0, MAP, [&element]);
            match self.nft.commit(&batch) {
                // No table, map or chain yet; or the element that was to be replaced is gone.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {
                    (with_chain, in_place_of) = (true, false);
                }
                // Left by somebody who had the address before and was never deleted.
                Err(error) if error.errno() == Some(Errno::EEXIST) => in_place_of = true,
                other => return other,
            }
        }
        let mut batch = Batch::new(family, TABLE);
        chain.add(&mut batch);
        batch.create_elements(0, MAP, [&element]);
        self.nft.commit(&batch)
    }

    /// Ends it for addresses that belong to the caller's attachment, as its reservation shows. Succeeds where there is nothing.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn remove(
        &mut self,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), Error> {
        let mut addresses = addresses.into_iter();
        addresses.try_for_each(|address| self.remove_one(address).map_err(refused))
    }

    fn remove_one(&mut self, address: IpAddr) -> Result<(), nft::Error> {
        let mut batch = Batch::new(family_of(address), TABLE);
        batch.delete_elements(0, MAP, [Element::new(key_of(address))]);
        match self.nft.commit(&batch) {
            // No element, no map, no table; or a kernel that cannot have any.
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EOPNOTSUPP)) => {
                Ok(())
            }
            other => other,
        }
    }

    /// Ends it for those of the addresses whose element says that it is the attachment's.
    ///
    /// # Errors
    /// As [`remove`].
    pub(crate) fn remove_if_owned(
        &mut self,
        attachment: &Attachment,
        addresses: &[IpAddr],
    ) -> Result<(), Error> {
        let owner = owner(attachment);
        for family in [Family::Ip, Family::Ip6] {
            let mut wanted: Vec<_> = addresses
                .iter()
                .filter(|address| family_of(**address) == family)
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let present = self.elements(family)?;
            wanted.retain(|address| {
                let key = key_of(**address);
                present
                    .iter()
                    .any(|e| e.key == key && e.comment.as_deref() == Some(&owner))
            });
            for address in wanted {
                self.remove_one(*address).map_err(refused)?;
            }
        }
        Ok(())
    }

    /// Sees whether every address has an element of the attachment's.
    ///
    /// # Errors
    /// Code 102 naming the address that has none.
    pub(crate) fn check(
        &mut self,
        attachment: &Attachment,
        addresses: &[Cidr],
    ) -> Result<(), Error> {
        let owner = owner(attachment);
        for address in addresses {
            let key = key_of(address.address());
            let present = self.elements(family_of(address.address()))?;
            if !present
                .iter()
                .any(|e| e.key == key && e.comment.as_deref() == Some(&owner))
            {
                let message = format!("{} is not masqueraded any more", address.address());
                return Err(Error::new(failure::CHANGED, message));
            }
        }
        Ok(())
    }

    /// Ends it for every attachment of a network that is not among the kept, and takes away the
    /// network's chains that are then unused.
    ///
    /// # Errors
    /// As [`remove`].
    pub(crate) fn keep_only(
        &mut self,
        network: &str,
        kept: &BTreeSet<Attachment>,
    ) -> Result<(), Error> {
        let kept: BTreeSet<_> = kept.iter().map(owner).collect();
        for family in [Family::Ip, Family::Ip6] {
            let chains = self.nft.chains(family, TABLE).map_err(refused)?;
            let chains: Vec<_> = chains
                .into_iter()
                .filter(|chain| chain.comment.as_deref() == Some(network))
                .collect();
            let mut used = BTreeSet::new();
            for element in self.elements(family)? {
                let Some(Data::Verdict(Verdict::Goto(chain))) = &element.data else {
                    continue;
                };
                if !chains.iter().any(|known| known.name == *chain) {
                    continue;
                }
                if element
                    .comment
                    .as_ref()
                    .is_some_and(|owner| kept.contains(owner))
                {
                    used.insert(chain.clone());
                    continue;
                }
                let mut batch = Batch::new(family, TABLE);
                batch.delete_elements(0, MAP, [&element]);
                self.commit_unless_gone(&batch)?;
            }
            for chain in chains.iter().filter(|chain| !used.contains(&chain.name)) {
                let mut batch = Batch::new(family, TABLE);
                batch.flush_chain(0, &chain.name);
                batch.delete_chain(0, &chain.name);
                self.commit_unless_gone(&batch)?;
            }
        }
        Ok(())
    }

    /// Sees whether nf_tables answers.
    ///
    /// # Errors
    /// Code 100 with the kernel's refusal.
    pub(crate) fn probe(&mut self) -> Result<(), Error> {
        self.nft.generation().map(drop).map_err(refused)
    }

    fn commit_unless_gone(&mut self, batch: &Batch) -> Result<(), Error> {
        match self.nft.commit(batch) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            other => other.map_err(refused),
        }
    }

    /// All elements of a family's map; none where there is no map.
    fn elements(&mut self, family: Family) -> Result<Vec<Element>, Error> {
        match self.nft.elements(family, TABLE, MAP) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
            other => other.map_err(refused),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn refused(error: nft::Error) -> Error {
    let missing = [Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT];
    let hint = if error.errno().is_some_and(|errno| missing.contains(&errno)) {
        "; this kernel lacks nf_tables or part of it, which ipMasq needs"
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
