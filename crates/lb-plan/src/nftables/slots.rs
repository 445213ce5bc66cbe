//! Which endpoint sits in which slot.

use lb_model::Endpoint;

use super::class::MAX_ENDPOINTS;
use super::element::Target;

/// The first slot of the local endpoints of a frontend with external traffic policy Local.
pub const LOCAL_SLOTS: u16 = 0x8000;

/// What an endpoint is to a map's data.
pub(super) const fn target(endpoint: &Endpoint) -> Target {
    Target {
        ip: endpoint.ip,
        port: endpoint.port,
    }
}

/// Gives every one of `wanted` a slot, from 0 without holes, so that as few as possible of `old`
/// change theirs: one added, removed or replaced endpoint changes one or two slots.
pub(super) fn place(old: &[Endpoint], wanted: &[Endpoint]) -> Box<[Endpoint]> {
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    wanted.dedup_by_key(|endpoint| target(endpoint));
    wanted.truncate(MAX_ENDPOINTS);
    if old.is_empty() {
        return wanted.into();
    }
    let mut slots: Vec<Option<Endpoint>> = vec![None; wanted.len()];
    let mut settled = vec![false; wanted.len()];
    for (slot, endpoint) in slots.iter_mut().zip(old) {
        if let Ok(at) = wanted.binary_search_by_key(&target(endpoint), target) {
            *slot = Some(wanted[at]);
            settled[at] = true;
        }
    }
    let mut homeless = wanted
        .iter()
        .zip(settled)
        .filter_map(|(endpoint, settled)| (!settled).then_some(*endpoint));
    slots
        .into_iter()
        .filter_map(|slot| slot.or_else(|| homeless.next()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn endpoints(last: &[u8]) -> Vec<Endpoint> {
        last.iter()
            .map(|n| Endpoint {
                ip: IpAddr::from([10, 0, 0, *n]),
                port: 80,
                local: false,
                delegable: false,
            })
            .collect()
    }

    fn moved(old: &[u8], wanted: &[u8]) -> (Vec<u8>, usize) {
        let old = endpoints(old);
        let new = place(&old, &endpoints(wanted));
        let same = old.iter().zip(&new).filter(|(a, b)| a == b).count();
        let last = new
            .iter()
            .map(|e| match e.ip {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect();
        (last, old.len().max(new.len()) - same)
    }

    #[test]
    fn slots_stay_where_they_can() {
        assert_eq!(moved(&[], &[3, 1, 2]), (vec![1, 2, 3], 3));
        assert_eq!(moved(&[3, 1, 2], &[1, 2, 3]), (vec![3, 1, 2], 0));
        assert_eq!(moved(&[3, 1, 2], &[1, 2, 3, 4]), (vec![3, 1, 2, 4], 1));
        assert_eq!(moved(&[3, 1, 2], &[1, 3, 4]), (vec![3, 1, 4], 1));
        assert_eq!(moved(&[3, 1, 2, 5], &[1, 2, 5]), (vec![5, 1, 2], 2));
        assert_eq!(moved(&[3, 1, 2], &[3, 1]), (vec![3, 1], 1));
        assert_eq!(moved(&[3, 1], &[]), (vec![], 2));
        assert_eq!(moved(&[], &[1, 1]), (vec![1], 1));
    }
}
