//! The prefilter's bits: those of every frontend, and of every network of Services. A bit is there
//! before what it stands for; of what went, it may stay for a while.

use std::collections::BTreeMap;

use causeway_ebpf_abi::prefilter::{AIM_WORDS, Block, Folded, aim, network};
use causeway_ebpf_abi::{Address, FrontendKey, MAPPED, PodNetwork};

/// Bits that may have lost their meaning until it is looked which ones have.
const STALE: usize = 1_024;
/// A network of more blocks than that is every address.
const BLOCKS: u32 = 256;
/// The prefix of IPv4-mapped addresses, in bits.
const MAPPED_BITS: u32 = 96;

/// A word of the map, and what it shall be.
pub type Word = (u32, u64);

/// The words of the map, as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aims {
    words: Vec<u64>,
    stale: usize,
}

impl Aims {
    /// What was found in the map.
    pub fn adopt(words: impl IntoIterator<Item = u64>) -> Self {
        let mut words: Vec<u64> = words.into_iter().collect();
        words.resize(AIM_WORDS as usize, 0);
        Self { words, stale: 0 }
    }

    /// What has to be written before there is a frontend with this key.
    pub fn frontend(&self, key: &FrontendKey) -> Option<Word> {
        let bit = aim(Folded::of(&key.address), key.port, key.protocol);
        self.lacking(bit)
    }

    /// What has to be written before there is this network.
    pub fn network(&self, network: &PodNetwork) -> Vec<Word> {
        let Some(bits) = bits_of(network) else {
            return self.until(&[u64::MAX; AIM_WORDS as usize]);
        };
        let mut words: BTreeMap<u32, u64> = BTreeMap::new();
        for (word, bit) in bits {
            if let Some((_, value)) = self.lacking((word, bit)) {
                *words.entry(word).or_default() |= value;
            }
        }
        words.into_iter().collect()
    }

    /// This is in the map now.
    pub fn commit(&mut self, (word, value): Word) {
        if let Some(place) = self.words.get_mut(word as usize) {
            *place = value;
        }
    }

    /// A frontend or a network went.
    pub const fn forget(&mut self) {
        self.stale += 1;
    }

    /// Whether it is time to ask for [`Aims::settle`].
    pub const fn is_due(&self) -> bool {
        self.stale >= STALE
    }

    /// What has to be written so that only these have bits.
    pub fn settle<'a>(
        &mut self,
        frontends: impl IntoIterator<Item = &'a FrontendKey>,
        networks: impl IntoIterator<Item = &'a PodNetwork>,
    ) -> Vec<Word> {
        let mut wanted = Self::adopt([]);
        for key in frontends {
            let word = wanted.frontend(key);
            word.into_iter().for_each(|word| wanted.commit(word));
        }
        for network in networks {
            let words = wanted.network(network);
            words.into_iter().for_each(|word| wanted.commit(word));
        }
        self.stale = 0;
        self.until(&wanted.words)
    }

    fn lacking(&self, (word, bit): (u32, u64)) -> Option<Word> {
        let now = self.words.get(word as usize)?;
        (now & bit == 0).then_some((word, now | bit))
    }

    fn until(&self, wanted: &[u64]) -> Vec<Word> {
        let both = (0..).zip(self.words.iter().zip(wanted));
        let changed = both.filter(|(_, (now, then))| now != then);
        changed.map(|(word, (_, then))| (word, *then)).collect()
    }
}

/// The bits of a network's blocks; `None`: all that there are.
fn bits_of(net: &PodNetwork) -> Option<impl Iterator<Item = (u32, u64)>> {
    let v4 = net.length >= MAPPED_BITS && net.address.starts_with(&MAPPED);
    let (length, block) = if v4 {
        (net.length - MAPPED_BITS, Block::V4)
    } else {
        (net.length, Block::V6)
    };
    let bits = block.saturating_sub(length);
    if bits > BLOCKS.ilog2() {
        return None;
    }
    let address = net.address;
    Some((0..1 << bits).map(move |number| network(Block::of(&plus(address, number, v4)))))
}

/// The address so many blocks behind this one.
fn plus(address: Address, blocks: u32, v4: bool) -> Address {
    let behind = if v4 {
        128 - MAPPED_BITS - Block::V4
    } else {
        128 - Block::V6
    };
    (u128::from_be_bytes(address) + (u128::from(blocks) << behind)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bpf::{address, network as key_of};

    fn key(ip: &str, port: u16) -> FrontendKey {
        FrontendKey {
            address: address(ip.parse().unwrap()),
            port,
            protocol: 6,
            view: FrontendKey::INSIDE,
        }
    }

    fn is_set(aims: &Aims, (word, bit): (u32, u64)) -> bool {
        aims.words[word as usize] & bit != 0
    }

    fn commit(aims: &mut Aims, words: impl IntoIterator<Item = Word>) {
        for word in words {
            aims.commit(word);
        }
    }

    #[test]
    fn a_frontend_has_its_bit_until_it_went_and_all_was_settled() {
        let mut aims = Aims::adopt([]);
        let keys = [key("10.96.0.10", 80), key("fd00:96::10", 80)];
        for one in &keys {
            let word = aims.frontend(one);
            aims.commit(word.unwrap());
            assert_eq!(aims.frontend(one), None, "once");
        }
        let bits = keys.map(|one| aim(Folded::of(&one.address), one.port, one.protocol));
        assert!(bits.iter().all(|bit| is_set(&aims, *bit)));
        for _ in 0..STALE {
            assert!(!aims.is_due());
            aims.forget();
        }
        assert!(aims.is_due());
        let words = aims.settle(&keys[1..], []);
        commit(&mut aims, words);
        assert!(!aims.is_due());
        assert_eq!(bits.map(|bit| is_set(&aims, bit)), [false, true]);
    }

    #[test]
    fn a_network_has_the_bits_of_all_its_blocks() {
        for (net, blocks, inside) in [
            ("10.96.0.0/12", 16, &["10.96.0.1", "10.111.255.254"][..]),
            ("10.96.0.0/20", 1, &["10.96.15.1"]),
            ("10.96.0.10/32", 1, &["10.96.0.10"]),
            ("fd00:96::/108", 1, &["fd00:96::f:ffff"]),
            ("fd00:96::/60", 16, &["fd00:96:0:f::1", "fd00:96::1"]),
            ("0.0.0.0/0", 0, &["203.0.113.1", "0.0.0.0"]),
            ("::/0", 0, &["2001:db8::1"]),
        ] {
            let mut aims = Aims::adopt([]);
            let words = aims.network(&key_of(net.parse().unwrap()));
            commit(&mut aims, words);
            for ip in inside {
                let block = Block::of(&address(ip.parse().unwrap()));
                assert!(is_set(&aims, network(block)), "{ip} of {net}");
            }
            let bits: u32 = aims.words.iter().map(|word| word.count_ones()).sum();
            let expected = if blocks == 0 { AIM_WORDS * 64 } else { blocks };
            assert_eq!(bits, expected, "{net}");
        }
    }

    proptest! {
        /// What is settled is what was there all along.
        #[test]
        fn settled_is_what_is_left(
            keys in prop::collection::btree_set((any::<[u8; 16]>(), any::<u16>()), 1..50),
        ) {
            let keys: Vec<_> = keys.into_iter().map(|(address, port)| FrontendKey {
                address,
                port,
                protocol: 17,
                view: FrontendKey::INSIDE,
            }).collect();
            let mut one_by_one = Aims::adopt([]);
            for key in &keys {
                let word = one_by_one.frontend(key);
                commit(&mut one_by_one, word);
            }
            prop_assert_eq!(one_by_one.settle(&keys, []), vec![]);
            let words = one_by_one.settle([], []);
            commit(&mut one_by_one, words);
            prop_assert_eq!(one_by_one, Aims::adopt([]));
        }
    }
}
