//! The node sends pods' packets on.

use std::net::IpAddr;

use cni_types::Error;
use nodekit::sysctl::{self, Key};

use crate::failure;

/// Has the node forward the family of this address.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(crate) fn enable(of: IpAddr) -> Result<(), Error> {
    let key = match of {
        IpAddr::V4(_) => Key::new(["net", "ipv4", "ip_forward"]),
        IpAddr::V6(_) => Key::ipv6_conf("all", "forwarding"),
    };
    key.and_then(|key| sysctl::ensure(&key, "1"))
        .map(drop)
        .map_err(failure::setting)
}
