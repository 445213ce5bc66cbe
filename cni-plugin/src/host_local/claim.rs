//! Reserving: a file with its holder first, then the addresses as further names of it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;

use cni_types::{Attachment, Error};

use super::index;
use super::reservation::Reservation;
use super::store::{Store, failed};

/// Addresses on their way to an attachment. Dropped before [`Claim::keep`] is done, they are given
/// back.
///
/// An address appears with its holder at once, so that a crash leaves none that is nobody's.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    store: &'a Store,
    by: &'a Attachment,
    /// When the file was written, which names it in the index.
    written: String,
    taken: Vec<IpAddr>,
    kept: bool,
}

impl<'a> Claim<'a> {
    pub(super) fn new(store: &'a Store, by: &'a Attachment) -> Result<Self, Error> {
        let path = store.index.scratch();
        let (mut file, length) = store.index.reuse(&path)?;
        let mut claim = Self {
            store,
            by,
            written: String::new(),
            taken: Vec::new(),
            kept: false,
        };
        let content = Reservation::content(by);
        file.write_all(content.as_bytes())
            .map_err(failed("write", &path))?;
        let written = u64::try_from(content.len()).unwrap_or_default();
        if length > written {
            file.set_len(written).map_err(failed("write", &path))?;
        }
        let meta = file.metadata().map_err(failed("inspect", &path))?;
        claim.written = index::written(&meta);
        Ok(claim)
    }

    /// Takes an address; false when somebody has it.
    pub(super) fn take(&mut self, address: IpAddr) -> Result<bool, Error> {
        let path = self.store.file_of(address);
        match fs::hard_link(self.store.index.scratch(), &path) {
            Ok(()) => {
                self.taken.push(address);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed("make", &path)(error)),
        }
    }

    /// Makes the addresses the attachment's.
    pub(super) fn keep(mut self) -> Result<(), Error> {
        let Attachment {
            container_id,
            ifname,
        } = self.by;
        let index = &self.store.index;
        index.enter(container_id, Some(ifname), &self.written, &self.taken)?;
        let path = index.scratch();
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        index.seal()?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What cannot be removed here is found by the next DEL: its holder stands in it. An entry
        // of the index that is left counts for nothing without a seal.
        for address in &self.taken {
            let _ = fs::remove_file(self.store.file_of(*address));
        }
        let _ = fs::remove_file(self.store.index.scratch());
    }
}
