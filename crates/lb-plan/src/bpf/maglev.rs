//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer",
//! NSDI 2016, section 3.4): a table from a client's hash to a backend. Whoever knows the same backends
//! has the same table, whatever the order in which they came; and one backend more or less leaves
//! almost all other places of the table as they were.

use causeway_ebpf_abi::{Backend, Row};

/// Sizes of a table: primes, so that each step through it meets every place (those that Cilium
/// takes, too).
pub const SIZES: [u32; 10] = [
    251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071,
];

/// What all nodes have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Places of a table, one of [`SIZES`]: about a hundred for each backend keep the shares even,
    /// and what moves small.
    pub size: u32,
    /// Another seed, other tables.
    pub seed: u64,
    /// So many frontends have a table; the others' clients get any backend.
    pub limit: usize,
}

impl Maglev {
    /// As many tables as are had by default.
    pub const LIMIT: usize = 512;
    /// The table's size by default.
    pub const SIZE: u32 = 16_381;
}

impl Default for Maglev {
    fn default() -> Self {
        Self {
            size: Self::SIZE,
            seed: 0,
            limit: Self::LIMIT,
        }
    }
}

impl Maglev {
    /// Whether so many backends can have a table.
    pub const fn takes(&self, backends: usize) -> bool {
        0 < backends && backends <= self.size as usize && backends <= u16::MAX as usize
    }

    /// How many tables there may be: not more than leave room for a new one beside each.
    pub fn tables(&self) -> usize {
        let rows = self.size.div_ceil(Row::PLACES).max(1);
        let room = Row::ALL / 2 / rows;
        self.limit.min(room as usize)
    }

    /// For each place, the index of its backend among `backends`, which are all different and not
    /// more than [`Maglev::takes`].
    pub fn table(&self, backends: &[Backend]) -> Vec<u16> {
        let mut turns: Vec<(Backend, u16)> = backends.iter().copied().zip(0..).collect();
        // In their own order, whatever the one in which they were said.
        turns.sort_unstable();
        let mut walks: Vec<Walk> = turns.iter().map(|(one, _)| self.walk(one)).collect();
        let mut table = vec![None; self.size as usize];
        let mut free = table.len();
        while free > 0 && !walks.is_empty() {
            for (walk, (_, index)) in walks.iter_mut().zip(&turns) {
                if free == 0 {
                    break;
                }
                // Its next place that nobody has: a walk meets all of them.
                while let Some(Some(_)) = table.get(walk.place as usize) {
                    walk.step(self.size);
                }
                if let Some(place) = table.get_mut(walk.place as usize) {
                    *place = Some(*index);
                }
                free -= 1;
            }
        }
        table.into_iter().flatten().collect()
    }

    fn walk(&self, backend: &Backend) -> Walk {
        let [high, low] = [0, 1].map(|number| hash(self.seed, number, backend));
        let size = u64::from(self.size);
        // Both are below the size, which is 32 bits.
        let below = |number: u64| u32::try_from(number).unwrap_or(0);
        Walk {
            place: below(high % size),
            skip: below(low % (size - 1) + 1),
        }
    }
}

/// The places that a backend would like to have, one after the other.
struct Walk {
    place: u32,
    skip: u32,
}

impl Walk {
    const fn step(&mut self, size: u32) {
        self.place = (self.place + self.skip) % size;
    }
}

/// FNV-1a over the bytes, and the end of MurmurHash3 so that every bit counts in every other: the
/// same on every machine, and in every release.
fn hash(seed: u64, number: u8, backend: &Backend) -> u64 {
    let seed = seed.to_le_bytes().into_iter().chain([number]);
    let bytes = backend
        .address
        .into_iter()
        .chain(backend.port.to_be_bytes());
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in seed.chain(bytes) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests;
