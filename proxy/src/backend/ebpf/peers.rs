//! Pods behind a bridge: the program gives packets to their interfaces at once, in their network namespaces
//! (`bpf_redirect_peer`), unless something on the way that the packets would take wants to see them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use aya::programs::{SchedClassifier, TcAttachType};
use causeway_ebpf_abi::{PeerKey, maps};
use nodekit::Errno;
use nodekit::nft::{Family, NftSocket};
use nodekit::route::{Forwarding, Handle, Link, Side};

use super::entries::Entry;
use super::probe::knows_no_tcx;
use super::sockets::{failed, gone, take};
use super::straight::Straight;
use super::trouble::Trouble;
use super::{Error, Options, pins};

/// Who is behind which end of a virtual pair.
type Ends = BTreeMap<PeerKey, u32>;

/// What the program knows of them.
pub(super) struct Peers {
    map: HashMap<MapData, Entry<PeerKey>, u32>,
    straight: Straight,
    /// [`Options::peers`].
    wanted: bool,
    trouble: Trouble,
}

impl Peers {
    pub(super) fn take(ebpf: &mut Ebpf, options: &Options) -> Result<Self, Error> {
        Ok(Self {
            map: take(ebpf, maps::PEERS)?,
            straight: Straight::take(ebpf, options)?,
            wanted: options.peers,
            trouble: Trouble::default(),
        })
    }

    /// Looks who is where, and says so to the program, whose number is `program`. If that can't be seen, it
    /// knows nobody, and packets take the longer way.
    pub(super) fn follow(&mut self, program: u32) {
        let result = self.try_to_follow(program);
        let lost = "packets take the longer way to pods";
        let found = "it is known again where pods are";
        self.trouble.note(result, lost, found);
    }

    fn try_to_follow(&mut self, program: u32) -> Result<(), Error> {
        let found = if self.wanted {
            look()
        } else {
            Ok(Seen::default())
        };
        let (seen, result) = match found {
            Ok(seen) => (seen, Ok(())),
            Err(error) => (Seen::default(), Err(error)),
        };
        self.set(&seen.ends).map_err(failed(maps::PEERS))?;
        let nobody = seen.ends.is_empty();
        let links = if nobody { &[][..] } else { &seen.links };
        self.straight.follow(links, program);
        result
    }

    fn set(&mut self, wanted: &Ends) -> Result<(), MapError> {
        let entries = self.map.iter();
        let entries = entries.map(|entry| entry.map(|(Entry(key), end)| (key, end)));
        let found = entries.collect::<Result<Ends, MapError>>()?;
        for key in found.keys().filter(|key| !wanted.contains_key(key)) {
            gone(self.map.remove(&Entry(*key)))?;
        }
        for (key, end) in wanted {
            if found.get(key) != Some(end) {
                self.map.insert(Entry(*key), end, 0)?;
            }
        }
        Ok(())
    }
}

/// What was found: all links, and who is behind some of them.
#[derive(Default)]
struct Seen {
    links: Vec<Link>,
    ends: Ends,
}

fn look() -> Result<Seen, Error> {
    let mut handle = Handle::open().map_err(Error::Interfaces)?;
    let links = handle.links().map_err(Error::Interfaces)?;
    let known = handle.forwarding().map_err(Error::Interfaces)?;
    let mut ends = ends(&links, &known);
    let mut tables = NftSocket::open().map_err(Error::Tables)?;
    if ends.is_empty() || are_bridges_filtered(&mut tables)? {
        return Ok(Seen::default());
    }
    let hooked = handle.hooked_links().map_err(Error::Interfaces)?;
    let passed = ends.iter().flat_map(|(key, end)| [key.interface, *end]);
    let passed: BTreeSet<u32> = passed.collect();
    let mut watched = BTreeSet::new();
    for link in links.iter().filter(|link| passed.contains(&link.index)) {
        let hooked = hooked.contains(&link.index);
        if has_programs(&link.name) || hooked && has_filters(&mut handle, link.index)? {
            watched.insert(link.index);
        }
    }
    ends.retain(|key, end| !watched.contains(&key.interface) && !watched.contains(end));
    Ok(Seen { links, ends })
}

/// The pods of which bridges know behind which port they are; not where packets wait in a queue on their
/// way, or belong to a VLAN.
fn ends(links: &[Link], known: &[Forwarding]) -> Ends {
    let at_once = |link: &&Link| link.qdisc.as_deref() == Some("noqueue");
    let links = links.iter().filter(at_once);
    let links: BTreeMap<u32, &Link> = links.map(|link| (link.index, link)).collect();
    let end = |one: &Forwarding| {
        let (port, bridge) = (links.get(&one.port)?, links.get(&one.bridge)?);
        let leads = port.port_enabled && leads_elsewhere(port);
        let plain = port.master == Some(bridge.index) && bridge.vlan_filtering != Some(true);
        let key = PeerKey {
            interface: bridge.index,
            octets: one.mac.0,
            zero: [0; 2],
        };
        (leads && plain).then_some((key, port.index))
    };
    known.iter().filter_map(end).collect()
}

/// Whether the other end is in another network namespace: the kernel drops what is given to one of the same
/// (`skb_do_redirect`, net/core/filter.c).
fn leads_elsewhere(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth") && link.peer_netnsid.is_some()
}

/// Whether somebody may want to see what bridges send: nftables, by tables of bridges or of single
/// interfaces, or ebtables.
pub(super) fn are_bridges_filtered(tables: &mut NftSocket) -> Result<bool, Error> {
    let tables = tables.tables(None).map_err(Error::Tables)?;
    let filters = |family| matches!(family, Family::Bridge | Family::Netdev);
    Ok(tables.iter().any(|table| filters(table.family)) || has_ebtables()?)
}

/// Its tables are modules of their own, each there once it was used.
fn has_ebtables() -> Result<bool, Error> {
    const MODULES: &str = "/proc/modules";
    match fs::read_to_string(MODULES) {
        Ok(modules) => Ok(modules.lines().any(|module| module.starts_with("ebtable_"))),
        // A kernel that takes none.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(pins::failed("list of modules", MODULES.as_ref())(error)),
    }
}

/// Whether filters see what a link sends (clsact).
fn has_filters(handle: &mut Handle, link: u32) -> Result<bool, Error> {
    match handle.filters(link, Side::Outgoing) {
        // It is gone, and so is who was behind it.
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(true),
        other => Ok(!other.map_err(Error::Interfaces)?.is_empty()),
    }
}

/// Whether a program sees what an interface sends (TCX); so it may be where the kernel does not say.
fn has_programs(name: &str) -> bool {
    match SchedClassifier::query_tcx(name, TcAttachType::Egress) {
        Ok((_, programs)) => !programs.is_empty(),
        Err(error) => !knows_no_tcx(&error),
    }
}

#[cfg(test)]
mod tests {
    use nodekit::route::Mac;

    use super::*;
    use crate::backend::ebpf::interfaces::tests::link;

    const BRIDGE: u32 = 2;
    const PORT: u32 = 3;

    fn bridge() -> Link {
        Link {
            kind: Some("bridge".to_owned()),
            qdisc: Some("noqueue".to_owned()),
            ..link(BRIDGE, "cni0", None, true)
        }
    }

    fn port() -> Link {
        Link {
            kind: Some("veth".to_owned()),
            qdisc: Some("noqueue".to_owned()),
            peer_netnsid: Some(0),
            port_enabled: true,
            ..link(PORT, "veth1", Some(BRIDGE), true)
        }
    }

    fn known(links: &[Link]) -> Vec<(PeerKey, u32)> {
        let behind_port = Forwarding {
            bridge: BRIDGE,
            mac: Mac([1, 2, 3, 4, 5, 6]),
            port: PORT,
        };
        ends(links, &[behind_port]).into_iter().collect()
    }

    const KEY: PeerKey = PeerKey {
        interface: BRIDGE,
        octets: [1, 2, 3, 4, 5, 6],
        zero: [0; 2],
    };

    #[test]
    fn pods_are_behind_plain_ports_of_bridges() {
        assert_eq!(known(&[bridge(), port()]), [(KEY, PORT)]);
        let others: [fn(&mut Link); 5] = [
            // The other end is in the same network namespace.
            |port| port.peer_netnsid = None,
            |port| port.kind = Some("tun".to_owned()),
            |port| port.port_enabled = false,
            // It left the bridge a moment ago.
            |port| port.master = None,
            |port| port.qdisc = Some("tbf".to_owned()),
        ];
        for (number, change) in others.into_iter().enumerate() {
            let mut port = port();
            change(&mut port);
            assert_eq!(known(&[bridge(), port]), [], "{number}");
        }
        assert_eq!(known(&[bridge()]), []);
    }

    #[test]
    fn bridges_have_neither_queues_nor_vlans() {
        let known = |change: fn(&mut Link)| {
            let mut bridge = bridge();
            change(&mut bridge);
            known(&[bridge, port()])
        };
        assert_eq!(known(|bridge| bridge.qdisc = Some("htb".to_owned())), []);
        assert_eq!(known(|bridge| bridge.vlan_filtering = Some(true)), []);
        let plain = known(|bridge| bridge.vlan_filtering = Some(false));
        assert_eq!(plain, [(KEY, PORT)]);
    }
}
