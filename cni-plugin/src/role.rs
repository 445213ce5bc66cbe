//! Which plugin is meant, and its operations.

use std::ffi::OsStr;
use std::path::Path;

use cni_types::{Attachment, Error, Success};

use crate::call::Call;
use crate::{bandwidth, bridge, firewall, host_local, loopback, portmap, ptp, static_ipam, tuning};

/// One of the plugins that this binary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Bandwidth,
    Bridge,
    Firewall,
    HostLocal,
    Loopback,
    Portmap,
    Ptp,
    Static,
    Tuning,
}

impl Role {
    /// The names under which the roles are known, as a program's and as a `type`.
    pub(crate) const NAMES: &[(&'static str, Self)] = &[
        ("causeway-cni", Self::Bridge),
        ("bandwidth", Self::Bandwidth),
        ("bridge", Self::Bridge),
        ("firewall", Self::Firewall),
        ("host-local", Self::HostLocal),
        ("loopback", Self::Loopback),
        ("portmap", Self::Portmap),
        ("ptp", Self::Ptp),
        ("static", Self::Static),
        ("tuning", Self::Tuning),
    ];

    /// The role of a program's name; `None` for the binary's own and for unknown names, where the
    /// configuration's `type` decides.
    pub(crate) fn named(program: &OsStr) -> Option<Self> {
        let name = Path::new(program).file_name()?.to_str()?;
        Self::of_type(name).filter(|_| name != "causeway-cni")
    }

    /// Whether a type is one of this binary's.
    pub(crate) fn is_name(name: &str) -> bool {
        Self::of_type(name).is_some()
    }

    /// The names, as a text shows them.
    pub(crate) fn names() -> String {
        let names: Vec<_> = Self::NAMES.iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }

    fn of_type(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, role)| *role)
    }

    /// The role of a configuration.
    pub(crate) fn of(call: &Call) -> Result<Self, Error> {
        Self::of_type(call.config.plugin_type()?)
            .ok_or_else(|| call.config.object().unsupported("type", &Self::names()))
    }

    pub(crate) fn add(
        self,
        call: &Call,
        attachment: &Attachment,
        netns: &Path,
    ) -> Result<Success, Error> {
        match self {
            Self::Bandwidth => bandwidth::add(call, attachment, netns),
            Self::Firewall => firewall::add(call, attachment, netns),
            Self::Tuning => tuning::add(call, attachment, netns),
            Self::Bridge => bridge::add(call, attachment, netns, &|_| Ok(())),
            Self::Ptp => ptp::add(call, attachment, netns, &|_| Ok(())),
            Self::Loopback => loopback::add(call, netns),
            Self::Portmap => portmap::add(call, attachment),
            Self::HostLocal => {
                let config = host_local::Config::read(&call.config, &call.args)?;
                host_local::add(&config, call.config.name(), attachment)
            }
            Self::Static => Ok(static_ipam::Config::read(&call.config, &call.args)?.result()),
        }
    }

    pub(crate) fn del(
        self,
        call: &Call,
        attachment: &Attachment,
        netns: Option<&Path>,
    ) -> Result<(), Error> {
        match self {
            Self::Bandwidth => bandwidth::del(call, attachment),
            Self::Firewall => firewall::del(call, attachment),
            Self::Tuning => tuning::del(call, attachment, netns),
            // A pair, elements and addresses: the bridge stays in any case.
            Self::Bridge | Self::Ptp => bridge::del(call, attachment, netns),
            Self::Loopback => loopback::del(call, netns),
            Self::Portmap => portmap::del(call, attachment),
            Self::HostLocal => host_local::release(&call.config, attachment).map(drop),
            // It holds nothing at all.
            Self::Static => Ok(()),
        }
    }

    pub(crate) fn check(
        self,
        call: &Call,
        attachment: &Attachment,
        netns: &Path,
    ) -> Result<(), Error> {
        match self {
            Self::Bandwidth => bandwidth::check(call, attachment, netns),
            Self::Firewall => firewall::check(call, attachment, netns),
            Self::Tuning => tuning::check(call, attachment, netns),
            Self::Bridge => bridge::check(call, attachment, netns),
            Self::Ptp => ptp::check(call, attachment, netns),
            Self::Loopback => loopback::check(call, netns),
            Self::Portmap => portmap::check(call, attachment),
            Self::HostLocal => host_local::check(&call.config, attachment),
            Self::Static => static_ipam::check(call),
        }
    }

    pub(crate) fn status(self, call: &Call) -> Result<(), Error> {
        match self {
            Self::Bandwidth => bandwidth::status(call),
            Self::Firewall => firewall::status(call),
            Self::Tuning => tuning::status(call),
            Self::Bridge => bridge::status(call),
            Self::Portmap => portmap::status(call),
            Self::Ptp => ptp::status(call),
            Self::HostLocal => {
                let config = host_local::Config::read(&call.config, &call.args)?;
                host_local::status(&config, call.config.name())
            }
            Self::Static => static_ipam::Config::read(&call.config, &call.args).map(drop),
            Self::Loopback => Ok(()),
        }
    }

    pub(crate) fn gc(self, call: &Call) -> Result<(), Error> {
        match self {
            Self::Bandwidth => bandwidth::gc(call),
            Self::Firewall => firewall::gc(call),
            Self::Tuning => tuning::gc(call),
            Self::Bridge => bridge::gc(call),
            Self::Portmap => portmap::gc(call),
            Self::Ptp => ptp::gc(call),
            Self::HostLocal => {
                let kept = call.config.valid_attachments()?;
                host_local::keep_only(&call.config, &kept)
            }
            // They hold nothing outside the pods' namespaces.
            Self::Loopback | Self::Static => call.config.valid_attachments().map(drop),
        }
    }
}
