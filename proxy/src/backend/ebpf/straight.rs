//! Packets that no Service is concerned with, which may be given to pods behind a bridge as well, past all
//! that the node's stack has for packets that it sends on: by which interfaces they may come. Whether
//! somebody there may want to see them is looked after by a thread of its own, which hears of changes and
//! says to the program that nobody does, again and again.

mod passed;
mod watcher;

use std::collections::BTreeSet;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use causeway_ebpf_abi::{Address, maps};
use lb_plan::bpf::address;
use nodekit::route::{Handle, Link};

use super::entries::monotonic;
use super::sockets::{failed, gone, take};
use super::trouble::Trouble;
use super::{Error, Options};
use watcher::Watcher;

/// So long the program goes by what it was told last: as the daemon is gone, or can't see.
const LASTS: Duration = Duration::from_secs(10);

/// What the program knows of it.
pub(super) struct Straight {
    own: HashMap<MapData, Address, u32>,
    /// [`Options::host_routing`].
    wanted: bool,
    /// [`Options::sweep`].
    period: Duration,
    /// Until there is a watcher.
    told: Option<Told>,
    watcher: Option<Watcher>,
    trouble: Trouble,
}

impl Straight {
    pub(super) fn take(ebpf: &mut Ebpf, options: &Options) -> Result<Self, Error> {
        Ok(Self {
            own: take(ebpf, maps::OWN)?,
            wanted: options.host_routing,
            period: options.sweep,
            told: Some(Told(take(ebpf, maps::STRAIGHT)?)),
            watcher: None,
            trouble: Trouble::default(),
        })
    }

    /// Follows what changed. `links` are all of the node, or none where there is no pod that packets could be
    /// given to; `program` is the kernel's number of the one on packets.
    pub(super) fn follow(&mut self, links: &[Link], program: u32) {
        let ways = if self.wanted { ways(links) } else { Vec::new() };
        let result = self.try_to_follow(ways, program);
        let lost = "packets that no Service is concerned with take the stack";
        let found = "they go straight to pods again, if nobody wants to see them";
        self.trouble.note(result, lost, found);
    }

    fn try_to_follow(&mut self, ways: Vec<Way>, program: u32) -> Result<(), Error> {
        let known = if ways.is_empty() { Ok(()) } else { self.look() };
        // Nobody's address is taken for somebody else's.
        let ways = if known.is_ok() { ways } else { Vec::new() };
        match (&self.watcher, &mut self.told) {
            (Some(watcher), _) => watcher.hand(ways)?,
            (None, Some(told)) if ways.is_empty() => told.tell(0)?,
            (None, told) => {
                self.watcher = Some(Watcher::start(told, ways, program, self.period)?);
            }
        }
        known
    }

    fn look(&mut self) -> Result<(), Error> {
        let mut handle = Handle::open().map_err(Error::Interfaces)?;
        let here = handle.addresses(None).map_err(Error::Interfaces)?;
        let here = here.iter().map(|one| address(one.address.ip()));
        self.set_own(&here.collect()).map_err(failed(maps::OWN))
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
}

/// What the program is told: by which interfaces packets may come, and how long that is good for.
struct Told(Array<MapData, u64>);

impl Told {
    fn tell(&mut self, bits: u64) -> Result<(), Error> {
        let lasts = u64::try_from(LASTS.as_nanos()).unwrap_or(u64::MAX);
        let until = monotonic().saturating_add(lasts);
        let told = self.0.set(1, until, 0);
        told.and_then(|()| self.0.set(0, bits, 0))
            .map_err(failed(maps::STRAIGHT))
    }
}

/// An interface by which packets come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    index: u32,
    name: String,
    /// It is of a kind by which packets for pods come.
    may_lead: bool,
}

/// Packets of others come up through the one that they belong to. Bridges don't lead: what comes from pods is
/// seldom for another one behind another bridge, and would be asked for each time.
fn ways(links: &[Link]) -> Vec<Way> {
    let links = links.iter().filter(|link| link.master.is_none());
    let way = |link: &Link| Way {
        index: link.index,
        name: link.name.clone(),
        may_lead: link.mac.is_some() && link.kind.as_deref() != Some("bridge"),
    };
    links.map(way).collect()
}

/// The bits of interfaces by which packets may come that are given to pods. One that shares its bit with an
/// interface by which they may not has none.
fn bits(ways: &[Way], mut leads: impl FnMut(&Way) -> bool) -> u64 {
    let (mut may, mut may_not) = (0, 0);
    for way in ways {
        let bit = 1 << (way.index & 63);
        if way.may_lead && leads(way) {
            may |= bit;
        } else {
            may_not |= bit;
        }
    }
    may & !may_not
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
            link(4, "tun0", None, false),
            Link {
                kind: Some("bridge".to_owned()),
                ..link(67, "cni0", None, true)
            },
            link(66, "veth1", Some(67), true),
        ];
        let all = ways(&links);
        assert_eq!(bits(&all, |_| true), 1 << 2);
        assert_eq!(bits(&all[..2], |_| true), 0b1100);
        assert_eq!(bits(&all[..2], |way| way.name == "eth1"), 0b1000);
    }
}
