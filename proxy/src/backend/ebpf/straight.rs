//! Whether packets that no Service is concerned with may be given to pods behind a bridge as well, past all
//! that the node's stack has for packets that it sends on.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use causeway_ebpf_abi::{Address, maps};
use lb_plan::bpf::address;
use nodekit::nft::{Family, NftSocket};
use nodekit::route::{Handle, Link};
use nodekit::sysctl::{self, Key};

use super::entries::monotonic;
use super::sockets::{failed, gone, take};
use super::{Error, Options, pins};

/// So long the program goes by what it was told last: as the daemon is gone, or can't see.
const LASTS: Duration = Duration::from_secs(60);
/// The strict filter of sources (`rp_filter`, ip-sysctl.rst): what comes by another link than an answer would
/// take ends there.
const STRICT: &str = "1";

/// What the program knows of it.
pub(super) struct Straight {
    told: Array<MapData, u64>,
    own: HashMap<MapData, Address, u32>,
    /// [`Options::host_routing`].
    wanted: bool,
}

impl Straight {
    pub(super) fn take(ebpf: &mut Ebpf, options: &Options) -> Result<Self, Error> {
        Ok(Self {
            told: take(ebpf, maps::STRAIGHT)?,
            own: take(ebpf, maps::OWN)?,
            wanted: options.host_routing,
        })
    }

    /// Looks who may want to see packets, and says to the program where nobody does. `links` are all of the
    /// node, or none where there is no pod that packets could be given to.
    pub(super) fn follow(&mut self, links: &[Link]) -> Result<(), Error> {
        let found = if self.wanted && !links.is_empty() {
            self.look(links)
        } else {
            Ok(0)
        };
        let bits = *found.as_ref().unwrap_or(&0);
        self.tell(bits).map_err(failed(maps::STRAIGHT))?;
        found.map(drop)
    }

    fn look(&mut self, links: &[Link]) -> Result<u64, Error> {
        if are_forwarded_filtered()? {
            return Ok(0);
        }
        let mut handle = Handle::open().map_err(Error::Interfaces)?;
        let here = handle.addresses(None).map_err(Error::Interfaces)?;
        let here = here.iter().map(|one| address(one.address.ip()));
        self.set_own(&here.collect()).map_err(failed(maps::OWN))?;
        Ok(bits(links, may_lead))
    }

    fn set_own(&mut self, wanted: &BTreeSet<Address>) -> Result<(), MapError> {
        let found = self.own.keys().collect::<Result<BTreeSet<_>, _>>()?;
        for address in wanted.difference(&found) {
            self.own.insert(address, 1, 0)?;
        }
        for address in found.difference(wanted) {
            gone(self.own.remove(address))?;
        }
        Ok(())
    }

    fn tell(&mut self, bits: u64) -> Result<(), MapError> {
        let lasts = u64::try_from(LASTS.as_nanos()).unwrap_or(u64::MAX);
        self.told.set(1, monotonic().saturating_add(lasts), 0)?;
        self.told.set(0, bits, 0)
    }
}

/// The bits of interfaces by which packets may come that are given to pods. One that shares its bit with an
/// interface by which they may not has none.
fn bits(links: &[Link], may_lead: impl Fn(&Link) -> bool) -> u64 {
    let (mut may, mut may_not) = (0, 0);
    // Packets of others come up through the one that they belong to.
    for link in links.iter().filter(|link| link.master.is_none()) {
        let bit = 1 << (link.index & 63);
        if may_lead(link) {
            may |= bit;
        } else {
            may_not |= bit;
        }
    }
    may & !may_not
}

/// Not bridges: what comes from pods is seldom for another one behind another bridge, and would be asked for
/// each time.
fn may_lead(link: &Link) -> bool {
    link.mac.is_some() && link.kind.as_deref() != Some("bridge") && !is_strict(&link.name)
}

fn is_strict(link: &str) -> bool {
    // The larger value of the two holds, and 2 is not strict.
    let said = ["all", link].map(|of| {
        let key = Key::ipv4_conf(of, "rp_filter").ok()?;
        sysctl::read(&key).ok()
    });
    let [Some(all), Some(own)] = said else {
        return true;
    };
    all.max(own) == STRICT
}

/// Whether netfilter has rules for packets that the node sends on: nftables, or the older iptables.
fn are_forwarded_filtered() -> Result<bool, Error> {
    let mut socket = NftSocket::open().map_err(Error::Tables)?;
    for family in [Family::Ip, Family::Ip6, Family::Inet] {
        let chains = socket.hooked_chains(family).map_err(Error::Tables)?;
        let mut chains = chains.iter().filter(|chain| chain.sees_forwarded());
        if chains.any(|chain| chain.rules > 0 || !chain.accepts) {
            return Ok(true);
        }
    }
    for names in ["ip_tables_names", "ip6_tables_names"] {
        if has_tables(&format!("/proc/thread-self/net/{names}"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_tables(names: &str) -> Result<bool, Error> {
    match fs::read(names) {
        Ok(names) => Ok(!names.is_empty()),
        // The kernel doesn't have it, or nobody has used it.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(pins::failed("list of tables", names.as_ref())(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ebpf::interfaces::tests::link;

    #[test]
    fn an_interface_that_shares_its_bit_with_another_kind_has_none() {
        let links = [
            link(2, "eth0", None, true),
            link(3, "eth1", None, true),
            link(67, "cni0", None, true),
            link(66, "veth1", Some(67), true),
        ];
        assert_eq!(bits(&links, |link| link.name.starts_with("eth")), 1 << 2);
        assert_eq!(bits(&links[..2], |_| true), 0b1100);
        assert_eq!(bits(&links, |_| false), 0);
    }
}
