//! The host's end of a pod's veth pair, where a chained plugin finds it.

use cni_types::{Code, Error, Success};
use nodekit::netns::NetNs;
use nodekit::route::{Handle, Link};

use crate::failure;

/// The link of this namespace that is the other end of a pod's interface, and that the result
/// before names.
///
/// # Errors
/// Code 7 when the interface has no other end, or when the result names none.
pub(crate) fn of_pod(
    route: &mut Handle,
    pod: &NetNs,
    ifname: &str,
    result: &Success,
) -> Result<Link, Error> {
    let inside = pod.visit(|| Handle::open()?.link_by_name(ifname));
    let inside = inside
        .map_err(failure::namespace)?
        .map_err(failure::kernel)?;
    let no_pair = || {
        let message = format!("{ifname} of the container is no end of a veth pair");
        Error::new(Code::INVALID_CONFIG, message)
    };
    if inside.kind.as_deref() != Some("veth") {
        return Err(no_pair());
    }
    let port = route
        .link_by_index(inside.peer.ok_or_else(no_pair)?)
        .map_err(failure::kernel)?;
    if on_host(result).any(|name| name == port.name) {
        return Ok(port);
    }
    let message = format!(
        "prevResult has no interface {} of the host, which is the other end of {ifname}",
        port.name
    );
    Err(Error::new(Code::INVALID_CONFIG, message))
}

/// The names of a result's interfaces that are in this namespace.
pub(crate) fn on_host(result: &Success) -> impl Iterator<Item = &str> {
    let interfaces = result.interfaces.iter();
    interfaces
        .filter(|interface| interface.sandbox.is_empty())
        .map(|interface| interface.name.as_str())
}
