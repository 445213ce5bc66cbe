//! Reserving: a file with its holder first, then the addresses as further names of it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;

use cni_types::{Attachment, Error};

use super::store::{LINE_BREAK, Store, failed};

/// Addresses on their way to an attachment. Dropped before [`Claim::keep`], they are given back.
///
/// An address appears with its holder at once, so that a crash leaves none that is nobody's.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    store: &'a Store,
    by: &'a Attachment,
    taken: Vec<IpAddr>,
    kept: bool,
}

impl<'a> Claim<'a> {
    pub(super) fn new(store: &'a Store, by: &'a Attachment) -> Result<Self, Error> {
        let path = store.index.scratch();
        // A broken attempt's may be a reservation by now: it must not be written over.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
        let mut file = store.index.open(&path)?;
        let content = format!("{}{LINE_BREAK}{}", by.container_id, by.ifname);
        file.write_all(content.as_bytes())
            .map_err(failed("write", &path))?;
        Ok(Self {
            store,
            by,
            taken: Vec::new(),
            kept: false,
        })
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
        self.store.index.enter_scratch(container_id, ifname)?;
        self.kept = true;
        self.store.index.seal()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // What cannot be removed here is found by the next DEL: its holder stands in it.
        for address in &self.taken {
            let _ = fs::remove_file(self.store.file_of(*address));
        }
        let _ = fs::remove_file(self.store.index.scratch());
    }
}
