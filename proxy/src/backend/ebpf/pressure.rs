//! How full the maps are. The kernel doesn't say, so their keys are counted when somebody asks.

use std::path::Path;

use aya::Pod;
use aya::maps::{LpmTrie, MapData, PerCpuHashMap};
use causeway_ebpf_abi::{
    Address, Affinity, AffinityKey, Backend, ClientKey, Connected, Datagram, FlowKey, Frontend,
    FrontendKey, Interface, MemberKey, Original, PortName, Ports, ReverseKey, Row, RowKey, SlotKey,
    Source, Track, Traffic, TrafficKey, Tuple, maps,
};

use super::Error;
use super::entries::Entry;
use super::pinned::Pinned;

/// How full one map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    /// Its name.
    pub map: &'static str,
    /// Entries that it has.
    pub entries: u64,
    /// Entries that it takes.
    pub max: u64,
}

/// All maps that grow.
pub(super) struct Pressure(Vec<Counted>);

struct Counted {
    map: &'static str,
    max: u32,
    count: Box<dyn Fn(u32) -> usize + Send + Sync>,
}

impl Pressure {
    /// Of the maps that are pinned in `pins`.
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        let pinned = Pinned::open(pins)?;
        let p = &pinned;
        Ok(Self(vec![
            hash::<Entry<FrontendKey>, Entry<Frontend>>(p, maps::FRONTENDS)?,
            hash::<Entry<SlotKey>, Entry<Backend>>(p, maps::BACKENDS)?,
            hash::<Entry<MemberKey>, u32>(p, maps::MEMBERS)?,
            hash::<Entry<RowKey>, Entry<Row>>(p, maps::ROWS)?,
            hash::<Entry<AffinityKey>, Entry<Affinity>>(p, maps::AFFINITY)?,
            hash::<Entry<FlowKey>, Entry<Backend>>(p, maps::FLOWS)?,
            hash::<Entry<ReverseKey>, Entry<Original>>(p, maps::REVERSE)?,
            hash::<u32, Entry<Interface>>(p, maps::INTERFACES)?,
            hash::<u32, Entry<PortName>>(p, maps::SERVICES)?,
            traffic(p)?,
            hash::<Entry<TrafficKey>, Entry<Traffic>>(p, maps::SETTLED)?,
            networks::<Address>(p, maps::PODS)?,
            networks::<Address>(p, maps::UNSERVED)?,
            networks::<Entry<Source>>(p, maps::SOURCES)?,
            hash::<Entry<Tuple>, Entry<Track>>(p, maps::TRACKS)?,
            hash::<Entry<ClientKey>, Entry<Affinity>>(p, maps::CLIENTS)?,
            hash::<Entry<Datagram>, Entry<Ports>>(p, maps::FRAGMENTS)?,
            hash::<u64, Entry<Connected>>(p, maps::CONNECTED_UDP)?,
            hash::<u64, Entry<Connected>>(p, maps::CONNECTED_TCP)?,
        ]))
    }

    /// As it is now, more or less: entries come and go meanwhile.
    pub(super) fn read(&self) -> impl Iterator<Item = MapFill> {
        self.0.iter().map(|one| MapFill {
            map: one.map,
            entries: (one.count)(one.max) as u64,
            max: one.max.into(),
        })
    }
}

fn hash<K: Pod + Send + Sync, V: Pod + Send + Sync>(
    pinned: &Pinned,
    name: &'static str,
) -> Result<Counted, Error> {
    let map = pinned.map::<K, V>(name)?;
    Ok(Counted {
        map: name,
        max: pinned.max_entries(name)?,
        // A walk begins anew where its place is taken away.
        count: Box::new(move |max| map.keys().take(max as usize).flatten().count()),
    })
}

fn traffic(pinned: &Pinned) -> Result<Counted, Error> {
    let name = maps::TRAFFIC;
    let map: PerCpuHashMap<MapData, Entry<TrafficKey>, Entry<Traffic>> = pinned.any(name)?;
    Ok(Counted {
        map: name,
        max: pinned.max_entries(name)?,
        count: Box::new(move |max| map.keys().take(max as usize).flatten().count()),
    })
}

fn networks<K: Pod + Send + Sync>(pinned: &Pinned, name: &'static str) -> Result<Counted, Error> {
    let map: LpmTrie<MapData, K, u32> = pinned.any(name)?;
    Ok(Counted {
        map: name,
        max: pinned.max_entries(name)?,
        count: Box::new(move |max| map.keys().take(max as usize).flatten().count()),
    })
}
