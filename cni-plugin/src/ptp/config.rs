//! The configuration of a network without a bridge: what was said, checked, as what it means.

use cni_types::{Dns, Error, MacAddress};

use crate::call::Call;
use crate::ipam::Ipam;
use crate::keys;
use crate::masquerade;

/// Everything ADD needs to know, before it makes anything.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) masquerade: Option<masquerade::Config>,
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<MacAddress>,
    pub(super) dns: Dns,
    pub(super) ipam: Ipam,
}

impl Network {
    /// Reads and checks the whole configuration.
    pub(super) fn read(call: &Call) -> Result<Self, Error> {
        let object = call.config.object();
        let dns = call.config.dns()?;
        let ipam = Ipam::read(call)?.ok_or_else(|| {
            object.invalid(
                "ipam",
                "a source of addresses, which a pod without a bridge needs",
            )
        })?;
        Ok(Self {
            masquerade: masquerade::Config::read(&object)?,
            mtu: keys::mtu(&object)?,
            mac: keys::mac(call)?,
            dns: call.config.runtime()?.dns.unwrap_or(dns),
            ipam,
        })
    }
}
