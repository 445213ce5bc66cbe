//! The prefilter's maps: bits of what packets may aim at, and marks of connections.

use std::fmt;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use causeway_ebpf_abi::prefilter::{AIM_WORDS, FIRST_GENERATION, mark_of};
use causeway_ebpf_abi::{FrontendKey, PodNetwork, Tuple, maps};
use lb_plan::bpf::{Aims, Word};

use super::sockets::{failed, take};
use super::{Error, pins};

/// What packets may aim at.
pub(super) struct Bits {
    map: Array<MapData, u64>,
    aims: Aims,
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bits").finish_non_exhaustive()
    }
}

impl Bits {
    pub(super) fn adopt(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map: Array<_, u64> = take(ebpf, maps::AIMS)?;
        let words: Result<Vec<u64>, _> = (0..AIM_WORDS).map(|word| map.get(&word, 0)).collect();
        let aims = Aims::adopt(words.map_err(failed(maps::AIMS))?);
        Ok(Self { map, aims })
    }

    /// There will be this frontend.
    pub(super) fn frontend(&mut self, key: &FrontendKey) -> Result<(), Error> {
        let word = self.aims.frontend(key);
        self.write(word)
    }

    /// There will be this network.
    pub(super) fn network(&mut self, network: &PodNetwork) -> Result<(), Error> {
        let words = self.aims.network(network);
        self.write(words)
    }

    /// A frontend or a network went.
    pub(super) const fn forget(&mut self) {
        self.aims.forget();
    }

    /// Whether enough of them went.
    pub(super) const fn is_due(&self) -> bool {
        self.aims.is_due()
    }

    /// These are all that there are.
    pub(super) fn settle<'a>(
        &mut self,
        frontends: impl IntoIterator<Item = &'a FrontendKey>,
        networks: impl IntoIterator<Item = &'a PodNetwork>,
    ) -> Result<(), Error> {
        let words = self.aims.settle(frontends, networks);
        self.write(words)
    }

    fn write(&mut self, words: impl IntoIterator<Item = Word>) -> Result<(), Error> {
        for (word, value) in words {
            let written = self.map.set(word, value, 0);
            written.map_err(failed(maps::AIMS))?;
            self.aims.commit((word, value));
        }
        Ok(())
    }
}

/// The marks of connections. One at a time may count generations.
pub(super) struct Marks {
    cells: Array<MapData, u32>,
    generation: Array<MapData, u32>,
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").finish_non_exhaustive()
    }
}

impl Marks {
    /// A view of its own of the pinned maps. From the first one on, marks count.
    pub(super) fn open(pins: &Path) -> Result<Self, Error> {
        let mut marks = Self {
            cells: open(pins, maps::MARKS)?,
            generation: open(pins, maps::GENERATION)?,
        };
        if marks.now()? == 0 {
            marks.set(FIRST_GENERATION)?;
        }
        Ok(marks)
    }

    /// The generation now.
    pub(super) fn now(&self) -> Result<u32, Error> {
        let now = self.generation.get(&0, 0);
        now.map_err(failed(maps::GENERATION))
    }

    /// The connection is there still.
    pub(super) fn mark(&mut self, tuple: &Tuple, generation: u32) -> Result<(), Error> {
        let marked = self.cells.set(mark_of(tuple), generation, 0);
        marked.map_err(failed(maps::MARKS))
    }

    /// From now on, it is the next generation.
    pub(super) fn end(&mut self, generation: u32) -> Result<(), Error> {
        self.set(generation.wrapping_add(1))
    }

    fn set(&mut self, generation: u32) -> Result<(), Error> {
        let written = self.generation.set(0, generation, 0);
        written.map_err(failed(maps::GENERATION))
    }
}

fn open<V: aya::Pod>(pins: &Path, name: &'static str) -> Result<Array<MapData, V>, Error> {
    let data = MapData::from_pin(pins::map_pin(pins, name)).and_then(Map::from_map_data);
    data.and_then(Array::try_from).map_err(failed(name))
}
