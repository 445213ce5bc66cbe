//! What a kube-proxy that ran on this node before left besides iptables' chains, which our iptables
//! data plane removes: it gives its own the same names.
//!
//! In nftables `table ip kube-proxy` and `table ip6 kube-proxy`: they would go on sending new
//! connections to endpoints that are long gone. Of mode ipvs the sets that its rules ask; its device
//! and its virtual services are those of our own mode ipvs.

use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_model::Family;
use nodekit::Errno;
use nodekit::ipset::{IpSets, Set};
use nodekit::nft::{self, Batch, NftSocket};

use super::{BackendError, IptablesBackend};

/// The name that kube-proxy gives its tables (`pkg/proxy/nftables/proxier.go` of Kubernetes 1.36).
const TABLE: &str = "kube-proxy";

/// The sets of its mode ipvs (`pkg/proxy/ipvs/ipset.go`). Others have sets whose names begin alike.
const SETS: [&str; 17] = [
    "KUBE-LOOP-BACK",
    "KUBE-CLUSTER-IP",
    "KUBE-EXTERNAL-IP",
    "KUBE-EXTERNAL-IP-LOCAL",
    "KUBE-LOAD-BALANCER",
    "KUBE-LOAD-BALANCER-FW",
    "KUBE-LOAD-BALANCER-LOCAL",
    "KUBE-LOAD-BALANCER-SOURCE-IP",
    "KUBE-LOAD-BALANCER-SOURCE-CIDR",
    "KUBE-NODE-PORT-TCP",
    "KUBE-NODE-PORT-LOCAL-TCP",
    "KUBE-NODE-PORT-UDP",
    "KUBE-NODE-PORT-LOCAL-UDP",
    "KUBE-NODE-PORT-SCTP-HASH",
    "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
    "KUBE-HEALTH-CHECK-NODE-PORT",
    "KUBE-IPVS-IPS",
];

/// What comes before the rest of a set's name in IPv6, and in IPv4.
const PREFIXES: [&str; 2] = ["KUBE-6-", "KUBE-"];

/// The longest name of a set, in bytes (`IPSET_MAXNAMELEN`, less its end): kube-proxy cuts its own.
const LONGEST_NAME: usize = 31;

/// How long sets may be held by rules that are gone: nf_tables lets go of them a moment later.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// Removes kube-proxy's tables; gives the families of which there was one.
///
/// # Errors
/// [`BackendError::Nft`]; one family's failure does not keep the other's table.
pub fn remove_kube_proxy() -> Result<Vec<Family>, BackendError> {
    let mut socket = NftSocket::open()?;
    let mut removed = Vec::new();
    let mut result = Ok(());
    for (family, kind) in [
        (Family::V4, nft::Family::Ip),
        (Family::V6, nft::Family::Ip6),
    ] {
        match remove(&mut socket, kind) {
            Ok(true) => removed.push(family),
            Ok(false) => {}
            Err(error) => result = Err(error.into()),
        }
    }
    result.map(|()| removed)
}

fn remove(socket: &mut NftSocket, family: nft::Family) -> Result<bool, nft::Error> {
    let tables = match socket.tables(Some(family)) {
        // No nftables, so no table.
        Err(error) if error.errno() == Some(Errno::EPROTONOSUPPORT) => return Ok(false),
        tables => tables?,
    };
    if !tables.iter().any(|table| table.name == TABLE) {
        return Ok(false);
    }
    let mut batch = Batch::new(family, TABLE);
    batch.destroy_table(0);
    socket.commit(&batch)?;
    Ok(true)
}

/// Removes what is only in kube-proxy's mode ipvs and not in ours: its chains of iptables, where the
/// other ones are ours now, and then its sets. Gives how many sets there were.
///
/// # Errors
/// [`BackendError::Iptables`], [`BackendError::IpSet`]; [`BackendError::SetInUse`] for a set that
/// others' rules ask, too.
pub fn remove_kube_proxy_sets() -> Result<usize, BackendError> {
    let mut sets = IpSets::open().map_err(BackendError::IpSet)?;
    // Without a set nothing is left: sets are the last to go.
    if theirs(&mut sets)?.is_empty() {
        return Ok(0);
    }
    IptablesBackend::remove_ipvs_chains()?;
    let begin = Instant::now();
    let mut removed = 0;
    loop {
        let (free, held): (Vec<_>, Vec<_>) = theirs(&mut sets)?
            .into_iter()
            .partition(|set| set.references == 0);
        for set in free {
            let there = sets.destroy(&set.name).map_err(BackendError::IpSet)?;
            removed += usize::from(there);
        }
        match held.into_iter().next() {
            None => return Ok(removed),
            Some(Set { name, references }) if begin.elapsed() >= PATIENCE => {
                return Err(BackendError::SetInUse { name, references });
            }
            Some(_) => sleep(PAUSE),
        }
    }
}

fn theirs(sets: &mut IpSets) -> Result<Vec<Set>, BackendError> {
    let mut all = match sets.list() {
        // No ipset in this kernel.
        Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(Vec::new()),
        all => all.map_err(BackendError::IpSet)?,
    };
    all.retain(|set| is_kube_proxys(&set.name));
    Ok(all)
}

/// Whether this is the name of a set of kube-proxy's.
fn is_kube_proxys(name: &str) -> bool {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix));
    rest.is_some_and(|rest| {
        let cut = name.len() == LONGEST_NAME;
        SETS.iter()
            .filter_map(|set| set.strip_prefix("KUBE-"))
            .any(|set| set == rest || cut && set.starts_with(rest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_kube_proxys_in_either_family() {
        for name in SETS {
            assert!(is_kube_proxys(name), "{name}");
            let mut ipv6 = name.replacen("KUBE-", "KUBE-6-", 1);
            ipv6.truncate(LONGEST_NAME);
            assert!(is_kube_proxys(&ipv6), "{ipv6}");
        }
        assert!(is_kube_proxys("KUBE-6-LOAD-BALANCER-SOURCE-CID"));
        // kube-router's, others', and what is but a part of a name.
        for name in [
            "KUBE-DST-3YNVZWWGX3UQQ4VQ",
            "KUBE-LOAD",
            "KUBE-",
            "LOOP-BACK",
            "KUBE-6-",
        ] {
            assert!(!is_kube_proxys(name), "{name}");
        }
    }
}
