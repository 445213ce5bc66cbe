//! How the program on packets gets to interfaces: by links of TCX, which their pins keep, or, on
//! kernels without it (below 6.6), as filters of the `clsact` qdisc. Both ways replace the program
//! of an earlier daemon in one go.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};

use super::clsact::Clsact;
use super::load::Refusals;
use super::options::PacketsHook;
use super::probe::has_tcx;
use super::{Error, Options, pins};

/// The program's name, and the beginning of its pins'.
pub(super) const PROGRAM: &str = "packets";

/// The program, and where it is.
pub(super) struct Attachments {
    program: SchedClassifier,
    /// The kernel's number of it.
    id: u32,
    way: Way,
    clsact: Clsact,
    pins: PathBuf,
    /// Nothing is left of the other way, which an earlier daemon may have taken.
    settled: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Tcx,
    Clsact,
}

impl Attachments {
    /// The program of `ebpf`. It is attached to nothing yet.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        refusals: &mut Refusals,
        options: &Options,
    ) -> Result<Self, Error> {
        refusals.of(PROGRAM).map_err(at_program)?;
        let program = own(ebpf, &options.pins).map_err(at_program)?;
        let id = program.info().map_err(at_program)?.id();
        let way = match options.packets_hook {
            PacketsHook::Tcx => Way::Tcx,
            PacketsHook::Auto if has_tcx().map_err(at_program)? => Way::Tcx,
            PacketsHook::Auto | PacketsHook::Clsact => Way::Clsact,
        };
        Ok(Self {
            program,
            id,
            way,
            clsact: Clsact::open(&options.pins)?,
            pins: options.pins.clone(),
            settled: false,
        })
    }

    /// The kernel's number of the program.
    pub(super) const fn id(&self) -> u32 {
        self.id
    }

    /// Whether any interface has the program of an earlier daemon.
    pub(super) fn are_anywhere(&mut self) -> Result<bool, Error> {
        if !pins::numbered(&self.pins, PREFIX)?.is_empty() {
            return Ok(true);
        }
        let places = self.clsact.places()?;
        // One that went meanwhile has none.
        let has = |index| self.clsact.program(index).is_ok_and(|one| one.is_some());
        Ok(places.into_iter().any(has))
    }

    /// Whether an interface has this very program.
    pub(super) fn is_at(&mut self, index: u32) -> Result<bool, Error> {
        match self.way {
            Way::Tcx => Ok(pin(&self.pins, index).exists()),
            Way::Clsact => Ok(self.clsact.program(index)? == Some(self.id)),
        }
    }

    /// Puts the program in the place of an earlier daemon's, or on the interface, after all others.
    pub(super) fn attach(&mut self, index: u32, name: &str) -> Result<(), Error> {
        match self.way {
            Way::Tcx => self.attach_by_link(index, name).map_err(at_program),
            Way::Clsact => {
                let program = self.program.fd().map_err(at_program)?;
                self.clsact.attach(index, program.as_fd())
            }
        }
    }

    fn attach_by_link(&mut self, index: u32, name: &str) -> Result<(), ProgramError> {
        let pin = pin(&self.pins, index);
        if let Ok(pinned) = PinnedLink::from_pin(&pin) {
            let replaced = SchedClassifierLink::try_from(FdLink::from(pinned))
                .map_err(other)
                .and_then(|link| self.program.attach_to_link(link));
            if let Ok(id) = replaced {
                drop(self.program.take_link(id)?);
                return Ok(());
            }
            // It was of an interface that is gone.
            fs::remove_file(&pin).map_err(ProgramError::IOError)?;
        }
        let last = TcAttachOptions::TcxOrder(LinkOrder::last());
        let id = self
            .program
            .attach_with_options(name, TcAttachType::Ingress, last)?;
        let link = FdLink::try_from(self.program.take_link(id)?).map_err(other)?;
        link.pin(&pin).map_err(other)?;
        Ok(())
    }

    /// Takes the program from all other interfaces, those of an earlier daemon included. They are
    /// gone, or became a port of another.
    pub(super) fn keep(&mut self, wanted: impl Fn(u32) -> bool) -> Result<(), Error> {
        let stays = |way, index| way == self.way && wanted(index);
        for index in pins::numbered(&self.pins, PREFIX)? {
            if !stays(Way::Tcx, index) {
                let pin = pin(&self.pins, index);
                fs::remove_file(&pin).map_err(pins::failed("pin", &pin))?;
            }
        }
        if self.way == Way::Clsact || !self.settled {
            for index in self.clsact.places()? {
                if !stays(Way::Clsact, index) {
                    self.clsact.leave(index)?;
                }
            }
        }
        self.settled = true;
        Ok(())
    }

    /// Takes what no pin keeps from all interfaces of this network namespace.
    pub(super) fn remove(pins: &Path) -> Result<(), Error> {
        let mut clsact = Clsact::open(pins)?;
        for index in clsact.places()? {
            clsact.leave(index)?;
        }
        Ok(())
    }
}

/// The program, apart from the object that it came in: it goes to interfaces on another thread.
fn own(ebpf: &mut Ebpf, folder: &Path) -> Result<SchedClassifier, ProgramError> {
    let program: &mut SchedClassifier = ebpf
        .program_mut(PROGRAM)
        .ok_or(ProgramError::NotLoaded)?
        .try_into()?;
    let own = |name: &Path| SchedClassifier::from_pin(name);
    twin(folder, |name| program.pin(name).map_err(other), own)
}

/// A program once more, by a name for a moment: there is no other way to have it twice.
pub(super) fn twin<P>(
    folder: &Path,
    pin: impl FnOnce(&Path) -> Result<(), ProgramError>,
    own: impl FnOnce(&Path) -> Result<P, ProgramError>,
) -> Result<P, ProgramError> {
    let name = pins::link(folder, "program");
    drop(fs::remove_file(&name));
    pin(&name)?;
    let own = own(&name);
    drop(fs::remove_file(&name));
    own
}

const PREFIX: &str = "packets-";

fn pin(pins: &Path, index: u32) -> PathBuf {
    pins::link(pins, &format!("{PREFIX}{index}"))
}

pub(super) fn other(error: impl std::error::Error + Send + Sync + 'static) -> ProgramError {
    ProgramError::IOError(std::io::Error::other(error))
}

fn at_program(source: ProgramError) -> Error {
    Error::Packets { source }
}
