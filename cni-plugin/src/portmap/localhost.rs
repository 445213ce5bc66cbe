//! The node's own loopback addresses lead to host ports too.

use cni_types::{Cidr, Error};
use nodekit::Errno;
use nodekit::nft::Family;
use nodekit::route::{Handle, Route, RouteKind, TABLE_LOCAL};
use nodekit::sysctl::{self, Key};

use super::config::{Config, first_of_each};
use crate::failure;
use crate::tables::family_of;

/// The metric of the second route to ::1: far behind the kernel's own.
const LAST: u32 = 4096;

/// Prepares the links that lead to the pod's addresses; gives the one of IPv4. Nothing of it is
/// undone: a bridge serves other pods as well, and a pod's own link goes with it.
///
/// # Errors
/// Code 100 with the kernel's refusal.
pub(crate) fn prepare(
    route: &mut Handle,
    config: &Config,
    addresses: &[Cidr],
) -> Result<Option<String>, Error> {
    let mut guarded = None;
    if !config.settings.snat {
        return Ok(guarded);
    }
    for cidr in first_of_each(addresses) {
        let family = family_of(cidr.address());
        if config.of_family(family).next().is_none() {
            continue;
        }
        let towards = match route.route_to(cidr.address()) {
            Ok(found) => found.link,
            // Without a way to it, no port leads there from this node.
            Err(error) if unreachable(error.errno()) => None,
            Err(error) => return Err(failure::kernel(error)),
        };
        let Some(index) = towards else { continue };
        if family == Family::Ip {
            let link = route.link_by_index(index).map_err(failure::kernel)?.name;
            Key::ipv4_conf(&link, "route_localnet")
                .and_then(|key| sysctl::ensure(&key, "1"))
                .map_err(failure::setting)?;
            guarded = Some(link);
        } else {
            answer_to_ipv6(route, index)?;
        }
    }
    Ok(guarded)
}

fn unreachable(errno: Option<Errno>) -> bool {
    matches!(errno, Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH))
}

/// An answer to ::1 is taken only from a link that ::1 is routed by (`rt6_need_strict`,
/// net/ipv6/route.c). From outside nothing else comes of it: the kernel drops packets with a
/// loopback address that a link other than `lo` brings.
fn answer_to_ipv6(route: &mut Handle, link: u32) -> Result<(), Error> {
    let Ok(destination) = "::1/128".parse() else {
        return Ok(());
    };
    let second = Route {
        kind: RouteKind::Local,
        link: Some(link),
        table: TABLE_LOCAL,
        priority: Some(LAST),
        ..Route::to(destination)
    };
    match route.add_route(&second) {
        Err(error) if error.errno() != Some(Errno::EEXIST) => Err(failure::kernel(error)),
        _ => Ok(()),
    }
}
