//! The program on packets as a filter of an interface's `clsact` qdisc (tc-bpf(8)). The interface
//! keeps it, whatever becomes of the daemon, and needs no pin; what was made is found by listing.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use nodekit::Errno;
use nodekit::netlink::Error as NetlinkError;
use nodekit::route::{Classifier, Filter, Handle, Side};

use super::{Error, pins};

/// What ours is called.
const NAME: &str = "causeway_packets";
/// After the filters that were not given a priority, which the kernel counts down from 0xC000
/// (`tcf_auto_prio`, net/sched/cls_api.c).
const PRIORITY: u16 = 0xd000;
const HANDLE: u32 = 1;
/// How the names of marks begin: folders beside the pins, each for a qdisc that was made for the
/// program. The kernel does not remember who made one.
const MARK: &str = "clsact-";

/// The filters of the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Clsact {
    netlink: Handle,
    pins: PathBuf,
}

impl Clsact {
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        Ok(Self {
            netlink: Handle::open().map_err(Error::Filter)?,
            pins: pins.to_owned(),
        })
    }

    /// The kernel's number of the program that an interface has; `None`: it has none of ours.
    pub(super) fn program(&mut self, index: u32) -> Result<Option<u32>, Error> {
        let filters = self.filters(index, Side::Incoming)?;
        Ok(filters.iter().find_map(ours).map(|(_, program)| program))
    }

    /// Puts `program` on an interface, in the place of an earlier one of ours in one go.
    pub(super) fn attach(&mut self, index: u32, program: BorrowedFd<'_>) -> Result<(), Error> {
        let mark = self.mark(index);
        // Before the qdisc is there: what is killed in between leaves none that nobody takes away.
        let marked = mark.exists();
        fs::create_dir_all(&mark).map_err(pins::failed("folder", &mark))?;
        let hooked = self.netlink.add_clsact(index);
        if hooked.is_err() && !(marked && self.program(index)?.is_some()) {
            unmark(&mark)?;
        }
        match hooked {
            Err(error) if error.errno() != Some(Errno::EEXIST) => return Err(Error::Filter(error)),
            _ => {}
        }
        let classifier = Classifier {
            name: NAME.to_owned(),
            priority: PRIORITY,
            handle: HANDLE,
        };
        self.netlink
            .set_classifier(index, Side::Incoming, &classifier, program)
            .map_err(Error::Filter)
    }

    /// The interfaces that may have the program, or once had.
    pub(super) fn places(&mut self) -> Result<Vec<u32>, Error> {
        let mut places = self.netlink.hooked_links().map_err(Error::Filter)?;
        places.extend(pins::numbered(&self.pins, MARK)?);
        Ok(places)
    }

    /// Takes the program from an interface, and the qdisc if it was made for it and nobody else
    /// uses it.
    pub(super) fn leave(&mut self, index: u32) -> Result<(), Error> {
        for (classifier, _) in self.filters(index, Side::Incoming)?.iter().filter_map(ours) {
            let deleted = self
                .netlink
                .delete_classifier(index, Side::Incoming, classifier);
            gone(deleted)?;
        }
        let mark = self.mark(index);
        if !mark.exists() {
            return Ok(());
        }
        let mut idle = true;
        for side in [Side::Incoming, Side::Outgoing] {
            idle &= self.filters(index, side)?.is_empty();
        }
        if idle {
            gone(self.netlink.delete_qdisc(index, Side::Incoming))?;
        }
        unmark(&mark)
    }

    fn filters(&mut self, index: u32, side: Side) -> Result<Vec<Filter>, Error> {
        self.netlink.filters(index, side).map_err(Error::Filter)
    }

    fn mark(&self, index: u32) -> PathBuf {
        pins::link(&self.pins, &format!("{MARK}{index}"))
    }
}

fn ours(filter: &Filter) -> Option<(&Classifier, u32)> {
    let (classifier, program) = filter.classifier.as_ref()?;
    (classifier.name == NAME).then_some((classifier, *program))
}

fn unmark(mark: &Path) -> Result<(), Error> {
    match fs::remove_dir(mark) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(pins::failed("folder", mark)(error))
        }
        _ => Ok(()),
    }
}

/// What went by itself meanwhile, with its interface or its qdisc, is gone.
fn gone(deleted: Result<(), NetlinkError>) -> Result<(), Error> {
    match deleted {
        Err(error)
            if !matches!(
                error.errno(),
                Some(Errno::ENODEV | Errno::ENOENT | Errno::EINVAL)
            ) =>
        {
            Err(Error::Filter(error))
        }
        _ => Ok(()),
    }
}
