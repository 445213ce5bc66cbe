//! The door to addresses: `ipam.type` says whether `host-local` or `static` answer, in this
//! process, or another plugin that is executed as the specification's delegation says (spec 1.1.0,
//! section 4).

mod delegate;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use cni_types::{Attachment, Error, Object, Success};

use crate::call::Call;
use crate::role::Role;
use crate::{host_local, static_ipam};
use delegate::Delegate;

/// The types that need no other program, and no folder in CNI_PATH.
const OWN: &str = "host-local, static";

/// Where a network's addresses come from, ready for ADD: all that can be wrong with the
/// configuration has been looked at.
#[derive(Debug)]
pub(crate) enum Ipam {
    HostLocal(host_local::Config),
    Static(static_ipam::Config),
    External(Delegate),
}

impl Ipam {
    /// Reads the key `ipam`; `None` for a network without addresses.
    ///
    /// # Errors
    /// Code 2 for a type that is found nowhere; 4, 6 or 7 for what is wrong in the configuration
    /// or in CNI_ARGS.
    pub(crate) fn read(call: &Call) -> Result<Option<Self>, Error> {
        Ok(match Source::of(call)? {
            Source::None => None,
            Source::HostLocal => Some(Self::HostLocal(host_local::Config::read(
                &call.config,
                &call.args,
            )?)),
            Source::Static => Some(Self::Static(static_ipam::Config::read(
                &call.config,
                &call.args,
            )?)),
            Source::External(ipam) => Some(Self::External(Delegate::find(call, &ipam)?)),
        })
    }

    /// Gets the attachment its addresses, at least one, with routes and name resolution. What it
    /// took is given back by [`del`]; a failure leaves nothing behind.
    ///
    /// # Errors
    /// The source's own: 11 when no address is free, 7 for a second ADD, 5 when the disk fails;
    /// what an external plugin says is passed on as it is.
    pub(crate) fn add(&self, call: &Call, attachment: &Attachment) -> Result<Success, Error> {
        match self {
            Self::HostLocal(config) => host_local::add(config, call.config.name(), attachment),
            Self::Static(config) => Ok(config.result()),
            Self::External(delegate) => delegate.add(call),
        }
    }
}

/// Gives back what an attachment got, whatever of it is left.
///
/// # Errors
/// Code 5 when the disk fails, or what an external plugin says.
pub(crate) fn del(call: &Call, attachment: &Attachment) -> Result<(), Error> {
    match Source::of(call)? {
        Source::HostLocal => host_local::release(&call.config, attachment).map(drop),
        Source::None | Source::Static => Ok(()),
        Source::External(ipam) => Delegate::find(call, &ipam)?.tell(call, "DEL"),
    }
}

/// The addresses that are known to be an attachment's without the runtime's record: those reserved
/// for it, or written into its configuration.
///
/// # Errors
/// Code 5 when the disk fails; 6 or 7 for a configuration that says nothing.
pub(crate) fn addresses_of(call: &Call, attachment: &Attachment) -> Result<Vec<IpAddr>, Error> {
    match Source::of(call)? {
        Source::HostLocal => host_local::held_by(&call.config, attachment),
        Source::Static => {
            // A configuration that says nothing gave none.
            let config = static_ipam::Config::read(&call.config, &call.args);
            Ok(config.map_or_else(|_| Vec::new(), |config| config.addresses().collect()))
        }
        Source::None | Source::External(_) => Ok(Vec::new()),
    }
}

/// A folder that is ours alone, where the network has one.
pub(crate) fn notes(call: &Call) -> Option<PathBuf> {
    match Source::of(call) {
        Ok(Source::HostLocal) => host_local::notes(&call.config).ok(),
        _ => None,
    }
}

/// Sees whether an attachment still has its addresses.
///
/// # Errors
/// Code 3 or 102 when it hasn't, or what an external plugin says.
pub(crate) fn check(call: &Call, attachment: &Attachment) -> Result<(), Error> {
    match Source::of(call)? {
        Source::None => Ok(()),
        Source::HostLocal => host_local::check(&call.config, attachment),
        Source::Static => static_ipam::check(call),
        Source::External(ipam) => Delegate::find(call, &ipam)?.tell(call, "CHECK"),
    }
}

/// Sees whether ADD could get addresses.
///
/// # Errors
/// As [`Ipam::read`], 50 when no address is free or the disk fails, or what an external plugin says.
pub(crate) fn status(call: &Call) -> Result<(), Error> {
    match Ipam::read(call)? {
        Some(Ipam::HostLocal(config)) => host_local::status(&config, call.config.name()),
        Some(Ipam::External(delegate)) => delegate.tell(call, "STATUS"),
        Some(Ipam::Static(_)) | None => Ok(()),
    }
}

/// The attachments that have a reservation in the network.
///
/// # Errors
/// Code 5 when the disk fails; 6 or 7 for a configuration that says nothing.
pub(crate) fn holders(call: &Call) -> Result<BTreeSet<Attachment>, Error> {
    match Source::of(call)? {
        Source::HostLocal => host_local::holders(&call.config),
        Source::None | Source::Static | Source::External(_) => Ok(BTreeSet::new()),
    }
}

/// Gives back what no kept attachment holds.
///
/// # Errors
/// Code 5 when the disk fails, or what an external plugin says.
pub(crate) fn gc(call: &Call, kept: &BTreeSet<Attachment>) -> Result<(), Error> {
    match Source::of(call)? {
        Source::HostLocal => host_local::keep_only(&call.config, kept),
        Source::None | Source::Static => Ok(()),
        Source::External(ipam) => Delegate::find(call, &ipam)?.tell(call, "GC"),
    }
}

/// What `ipam.type` names.
enum Source<'a> {
    None,
    HostLocal,
    Static,
    External(Object<'a>),
}

impl<'a> Source<'a> {
    fn of(call: &'a Call) -> Result<Self, Error> {
        let Some(ipam) = call.config.object().object("ipam")? else {
            return Ok(Self::None);
        };
        Ok(match ipam.filled_text("type")? {
            None => Self::None,
            Some("host-local") => Self::HostLocal,
            Some("static") => Self::Static,
            // Such a plugin would execute itself for ever, by way of its link.
            Some(other) if Role::is_name(other) => {
                return Err(ipam.unsupported("type", &format!("{OWN} or another IPAM plugin")));
            }
            Some(other) if other.contains('/') => {
                let expected = format!("{OWN}, or a plugin's name without a folder");
                return Err(ipam.invalid("type", &expected));
            }
            Some(_) => Self::External(ipam),
        })
    }
}
