//! The prefilter against what it spares: it says yes wherever the longer way does something.

use std::collections::BTreeMap;
use std::vec::Vec;

use causeway_ebpf_abi::prefilter::{
    Block, FIRST_GENERATION, Folded, GENERATIONS, aim, mark_of, network,
};
use causeway_ebpf_abi::{Address, Tuple, mapped};
use proptest::prelude::*;

use crate::packet::{Family, Flow, Found, Packet, TCP, UDP, parse};
use crate::prefilter::{Prefilter, may_concern_v4, may_concern_v6};

extern crate std;

#[derive(Default)]
struct Tables {
    generation: u32,
    marks: BTreeMap<u32, u32>,
    aims: BTreeMap<u32, u64>,
}

impl Prefilter for Tables {
    fn generation(&self) -> u32 {
        self.generation
    }
    fn mark(&self, cell: u32) -> u32 {
        self.marks.get(&cell).copied().unwrap_or(0)
    }
    fn aims(&self, word: u32) -> u64 {
        self.aims.get(&word).copied().unwrap_or(0)
    }
}

impl Tables {
    fn new() -> Self {
        Self {
            generation: FIRST_GENERATION,
            ..Self::default()
        }
    }

    fn set(&mut self, (word, bit): (u32, u64)) {
        *self.aims.entry(word).or_default() |= bit;
    }
}

/// A packet from the IP header on.
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Packet for Bytes {
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0; N];
        let bytes = self.0.get(offset as usize..)?.as_chunks::<4>().0;
        for (place, word) in words.iter_mut().enumerate() {
            *word = u32::from_ne_bytes(*bytes.get(place)?);
        }
        Some(words)
    }
    fn read_to<const N: usize>(&self, offset: u32, place: &mut [u8; N]) -> bool {
        let bytes = self.0.get(offset as usize..offset as usize + N);
        bytes.is_some_and(|bytes| {
            place.copy_from_slice(bytes);
            true
        })
    }
}

impl Bytes {
    fn of(tuple: &Tuple, flags: u8) -> Self {
        let ports = [tuple.source_port, tuple.destination_port].map(u16::to_be_bytes);
        let mut bytes = Vec::new();
        if let ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, a, b, c, d], [.., e, f, g, h]) =
            (tuple.source, tuple.destination)
        {
            bytes.extend([0x45, 0, 0, 60, 0, 7, 0x40, 0, 64, tuple.protocol, 0, 0]);
            bytes.extend([a, b, c, d, e, f, g, h]);
        } else {
            bytes.extend([0x60, 0, 0, 0, 0, 20, tuple.protocol, 64]);
            bytes.extend(tuple.source);
            bytes.extend(tuple.destination);
        }
        bytes.extend(ports.concat());
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0]);
        Self(bytes)
    }

    fn family(&self) -> Family {
        if self.0.first().is_some_and(|first| first >> 4 == 4) {
            Family::V4
        } else {
            Family::V6
        }
    }

    fn may_concern(&self, tables: &Tables) -> bool {
        match self.family() {
            Family::V4 => may_concern_v4(tables, &self.words(0).unwrap()),
            Family::V6 => may_concern_v6(tables, &self.words(0).unwrap()),
        }
    }
}

fn tuple(protocol: u8) -> Tuple {
    Tuple {
        source: mapped([203, 0, 113, 5]),
        destination: mapped([10, 96, 0, 10]),
        source_port: 40_000,
        destination_port: 80,
        protocol,
        zero: [0; 3],
    }
}

#[test]
fn nothing_concerns_us_where_there_is_nothing() {
    let tables = Tables::new();
    for protocol in [TCP, UDP] {
        assert!(!Bytes::of(&tuple(protocol), Flow::SYN).may_concern(&tables));
    }
    // Before anybody said what generation it is, everything may.
    assert!(Bytes::of(&tuple(TCP), Flow::SYN).may_concern(&Tables::default()));
}

#[test]
fn a_mark_counts_for_some_generations() {
    let mut tables = Tables::new();
    let packet = Bytes::of(&tuple(TCP), Flow::ACK);
    tables.marks.insert(mark_of(&tuple(TCP)), tables.generation);
    for _ in 0..=GENERATIONS {
        assert!(packet.may_concern(&tables));
        tables.generation += 1;
    }
    assert!(!packet.may_concern(&tables));
}

#[test]
fn what_is_neither_tcp_nor_udp_or_has_no_ports_may_concern_us() {
    let tables = Tables::new();
    let good = Bytes::of(&tuple(TCP), Flow::ACK);
    for (place, byte) in [(0, 0x46), (6, 0x20), (7, 1), (9, 1), (9, 47)] {
        let mut odd = good.0.clone();
        odd[place] = byte;
        assert!(Bytes(odd).may_concern(&tables), "{place}: {byte}");
    }
}

fn addresses() -> impl Strategy<Value = [Address; 2]> {
    prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|both| both.map(mapped)),
        any::<[[u8; 16]; 2]>().prop_filter("IPv4-mapped", |both| {
            both.iter()
                .all(|one| !one.starts_with(&causeway_ebpf_abi::MAPPED))
        }),
    ]
}

proptest! {
    /// A packet is parsed, and its mark and its bits are found where those who mark and write look
    /// for them.
    #[test]
    fn marks_and_bits_are_found(
        [source, destination] in addresses(),
        source_port: u16,
        destination_port: u16,
        udp: bool,
        begins: bool,
    ) {
        let protocol = if udp { UDP } else { TCP };
        let tuple = Tuple {
            source, destination, source_port, destination_port, protocol, zero: [0; 3],
        };
        let packet = Bytes::of(&tuple, if begins { Flow::SYN } else { Flow::ACK });
        let mut flow = Flow::EMPTY;
        prop_assert_eq!(parse(&packet, packet.family(), &mut flow), Found::Flow);
        prop_assert_eq!(flow.tuple, tuple);
        prop_assert!(!packet.may_concern(&Tables::new()));

        let mut tables = Tables::new();
        tables.marks.insert(mark_of(&flow.tuple), FIRST_GENERATION);
        prop_assert!(packet.may_concern(&tables));

        let mut tables = Tables::new();
        tables.set(aim(Folded::of(&destination), destination_port, protocol));
        prop_assert_eq!(packet.may_concern(&tables), flow.begins());

        let mut tables = Tables::new();
        tables.set(network(Block::of(&destination)));
        prop_assert_eq!(packet.may_concern(&tables), flow.begins());
    }
}
