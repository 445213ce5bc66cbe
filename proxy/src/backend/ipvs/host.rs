//! How the kernel has to go about IPVS.

use std::sync::Arc;

use nodekit::ipvs::Timeouts;
use nodekit::sysctl::{self, Key};

use super::Options;
use super::kernel::Kernel;
use crate::backend::BackendError;

/// What is set whatever the configuration says.
const PARAMETERS: [(&str, &str); 4] = [
    // Its connections are in connection tracking, too: else no source is rewritten.
    ("net/ipv4/vs/conntrack", "1"),
    // A connection to a destination that was removed ends, and a UDP flow goes elsewhere.
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    // A client does not stay with a destination that drains.
    ("net/ipv4/vs/expire_quiescent_template", "1"),
    ("net/ipv4/ip_forward", "1"),
];

/// Set with `ipvs.strictARP`.
const STRICT_ARP: [(&str, &str); 2] = [
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/conf/all/arp_announce", "2"),
];

/// The kernel parameters that it needs, with their values. Those of IPVS are there once its module is.
pub(crate) fn parameters(options: &Options) -> impl Iterator<Item = (&'static str, &'static str)> {
    let strict = STRICT_ARP.into_iter().filter(|_| options.strict_arp);
    PARAMETERS.into_iter().chain(strict)
}

/// Sets all of it.
///
/// # Errors
/// Something could not be set, and is not as it must be.
pub(super) fn prepare(kernel: &mut Kernel, options: &Options) -> Result<(), BackendError> {
    for (name, value) in parameters(options) {
        ensure(name, value).map_err(|error| BackendError::Sysctl(Arc::new(error)))?;
    }
    let wanted = options.timeouts;
    if wanted != super::options::Timeouts::default() {
        let seconds = |time: std::time::Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let timeouts = Timeouts {
            tcp: seconds(wanted.tcp),
            tcp_fin: seconds(wanted.tcp_fin),
            udp: seconds(wanted.udp),
        };
        kernel.set_timeouts(timeouts).map_err(BackendError::Ipvs)?;
    }
    kernel.make_device().map_err(BackendError::Ipvs)
}

fn ensure(name: &str, value: &str) -> Result<(), sysctl::Error> {
    let key: Key = name.parse()?;
    if sysctl::ensure(&key, value)? {
        tracing::info!(name, value, "kernel parameter set");
    }
    Ok(())
}
