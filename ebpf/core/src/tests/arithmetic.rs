//! Checksums against their computation from all of the bytes.

use std::vec::Vec;

use causeway_ebpf_abi::{Tuple, mapped};
use proptest::prelude::*;

use crate::checksum::{difference, finish, fold, sum, updated};
use crate::packet::{Family, Flow, TCP};
use crate::refusal;
use crate::rewrite::Addresses;

extern crate std;

/// The checksum as RFC 1071 has it, word by word.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let word = |pair: &[u8]| u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let mut all: u64 = words.map(word).sum();
    while all > 0xffff {
        all = (all & 0xffff) + (all >> 16);
    }
    !u16::try_from(all).unwrap()
}

proptest! {
    #[test]
    fn a_sum_is_that_of_its_words(bytes: [u8; 32]) {
        prop_assert_eq!(finish(sum(&bytes)), checksum(&bytes));
    }

    #[test]
    fn a_changed_checksum_is_that_of_what_changed(old: [u8; 16], new: [u8; 16], rest: [u8; 4]) {
        let whole = |bytes: [u8; 16]| [&bytes[..], &rest, &[1]].concat();
        let (before, after) = (checksum(&whole(old)), checksum(&whole(new)));
        prop_assert_eq!(updated(before, difference(&old, &new)), after);
    }

    #[test]
    fn a_rewritten_ipv4_header_has_its_own_checksum(
        mut header: [u8; 20], source: [u8; 4], destination: [u8; 4],
    ) {
        header[10..12].fill(0);
        let before = checksum(&header);
        header[10..12].copy_from_slice(&before.to_ne_bytes());
        let address = |at: usize| mapped([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let mut flow = Flow { checksum: before, hops: header[8], ..Flow::EMPTY };
        flow.tuple.protocol = header[9];
        flow.tuple.source = address(12);
        flow.tuple.destination = address(16);
        let (source, destination) = (mapped(source), mapped(destination));
        let addresses = Addresses::of(&flow, &source, &destination);
        header[8..20].copy_from_slice(&addresses.v4());
        prop_assert_eq!(checksum(&header), 0);
        prop_assert_eq!(header[8], flow.hops.wrapping_sub(1));
    }

    /// What the kernel does where a checksum is left to be finished changes nothing.
    #[test]
    fn a_refusal_is_right_as_it_is_and_when_it_is_finished(
        source: [u8; 16], destination: [u8; 16], ports: [u16; 2], sequence: u32,
        quote: [u8; 28], v6: bool,
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let short = |address: [u8; 16]| if v6 { address } else {
            let [a, b, c, d, ..] = address;
            mapped([a, b, c, d])
        };
        let asked = Tuple {
            source: short(source),
            destination: short(destination),
            source_port: ports[0],
            destination_port: ports[1],
            protocol: TCP,
            zero: [0; 3],
        };
        let pseudo = |protocol: u8, bytes: u8| {
            let skip = if v6 { 0 } else { 12 };
            let mut all = [&asked.source[skip..], &asked.destination[skip..]].concat();
            all.extend([0, bytes, 0, protocol]);
            all
        };
        let reset = refusal::reset(&asked, family, sequence);
        let with_pseudo = [&pseudo(TCP, 20)[..], &reset].concat();
        prop_assert_eq!(checksum(&with_pseudo), 0);
        let finished = checksum(&reset);
        prop_assert!(same(finished, u16::from_ne_bytes([reset[16], reset[17]])));

        let header = refusal::unreachable(&asked, family, sum(&quote), 28);
        let message = [&header[..], &quote].concat();
        let mut all = if v6 { pseudo(58, 36) } else { Vec::new() };
        all.extend(&message);
        prop_assert_eq!(checksum(&all), 0);
        let finished = checksum(&message);
        prop_assert!(same(finished, u16::from_ne_bytes([header[6], header[7]])));

        let header = refusal::too_big(&asked, family, 1_300, sum(&quote), 28);
        let mut all = if v6 { pseudo(58, 36) } else { Vec::new() };
        all.extend(&header);
        all.extend(&quote);
        prop_assert_eq!(checksum(&all), 0);
        prop_assert_eq!(&header[4..], &1_300_u32.to_be_bytes());
        let [mut udp @ .., _, _] = quote.first_chunk::<10>().copied().unwrap();
        udp[6..].fill(0);
        let finished = refusal::finished_quote(sum(&udp));
        udp[6..].copy_from_slice(&finished.to_ne_bytes());
        prop_assert!(same(checksum(&udp), finished));

        let v4 = refusal::v4_header(&asked, TCP, 20);
        prop_assert_eq!(checksum(&v4), 0);
    }
}

/// In one's complement there are two zeros.
fn same(one: u16, other: u16) -> bool {
    one == other || fold(u64::from(one) + 0xffff) == fold(u64::from(other) + 0xffff)
}
