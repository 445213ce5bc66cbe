//! The map of networks from which packets may come.

use std::collections::{BTreeMap, BTreeSet};

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use causeway_ebpf_abi::{PodNetwork, Source, SourceRange, maps};

use super::Error;
use super::entries::Entry;
use super::pinned::Pinned;
use super::sockets::{failed, gone, take};

/// The map, as aya has it.
pub(super) type Ranges = LpmTrie<MapData, Entry<Source>, u32>;

/// See the module.
pub(super) struct Sources(Ranges);

impl Sources {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        take(ebpf, maps::SOURCES).map(Self)
    }

    pub(super) fn open(pinned: &Pinned) -> Result<Self, Error> {
        pinned.any(maps::SOURCES).map(Self)
    }

    /// What is in there.
    pub(super) fn all(&self) -> Result<BTreeSet<SourceRange>, Error> {
        let found: Result<_, MapError> = self.0.keys().map(|key| key.map(range)).collect();
        found.map_err(failed(maps::SOURCES))
    }

    /// What is in there, by list.
    pub(super) fn lists(&self) -> Result<BTreeMap<u32, Vec<PodNetwork>>, Error> {
        let mut lists: BTreeMap<u32, Vec<PodNetwork>> = BTreeMap::new();
        for range in self.all()? {
            let list = lists.entry(range.source.list).or_default();
            list.push(range.network());
        }
        Ok(lists)
    }

    pub(super) fn add(&mut self, range: &SourceRange) -> Result<(), Error> {
        let added = self.0.insert(&key(range), 1, 0);
        added.map_err(failed(maps::SOURCES))
    }

    pub(super) fn remove(&mut self, range: &SourceRange) -> Result<(), Error> {
        gone(self.0.remove(&key(range))).map_err(failed(maps::SOURCES))
    }
}

const fn key(range: &SourceRange) -> Key<Entry<Source>> {
    Key::new(range.length, Entry(range.source))
}

fn range(key: Key<Entry<Source>>) -> SourceRange {
    let Entry(source) = key.data();
    SourceRange {
        length: key.prefix_len(),
        source,
    }
}
