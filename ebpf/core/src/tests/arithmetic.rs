//! Checksums against their computation from all of the bytes.

use std::vec;
use std::vec::Vec;

use causeway_ebpf_abi::{Tuple, mapped};
use proptest::prelude::*;

use crate::checksum::{difference, finish, fold, sum, updated};
use crate::may_be_unfinished;
use crate::packet::{Family, Flow, TCP, UDP};
use crate::refusal;
use crate::rewrite::{Addresses, ports_difference, transport_checksum};

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
        (flow.tuple.protocol, flow.next) = (header[9], header[9]);
        flow.tuple.source = address(12);
        flow.tuple.destination = address(16);
        let (source, destination) = (mapped(source), mapped(destination));
        let addresses = Addresses::of(&flow, &source, &destination);
        let end = addresses.v4().map(u32::to_ne_bytes);
        header[8..20].copy_from_slice(end.as_flattened());
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

/// A TCP or UDP packet's sum of the pseudo header, and its own bytes with what `checksum` says.
fn transport(flow: &Flow, ports: [u8; 4], payload: &[u8], checksum: u16) -> (u16, Vec<u8>) {
    let skip = if flow.family == Family::V6 { 0 } else { 12 };
    let at = if flow.tuple.protocol == UDP { 6 } else { 16 };
    let mut bytes = vec![0; at];
    bytes[..4].copy_from_slice(&ports);
    bytes.extend(checksum.to_ne_bytes());
    bytes.extend(payload);
    let length = u8::try_from(bytes.len()).unwrap();
    let pseudo = [
        &flow.tuple.source[skip..],
        &flow.tuple.destination[skip..],
        &[0, flow.tuple.protocol, 0, length],
    ];
    (!self::checksum(&pseudo.concat()), bytes)
}

proptest! {
    #[test]
    fn a_rewritten_packet_keeps_a_checksum_that_is_right(
        from: [[u8; 16]; 2], to: [[u8; 16]; 2], ports: [[u8; 4]; 2],
        payload in prop::collection::vec(any::<u8>(), 0..60), v6: bool, udp: bool,
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let short = |address: [u8; 16]| if v6 { address } else {
            let [a, b, c, d, ..] = address;
            mapped([a, b, c, d])
        };
        let flow = |addresses: [[u8; 16]; 2], ports: [u8; 4]| {
            let [source, destination] = addresses.map(short);
            let [a, b, c, d] = ports;
            let (source_port, destination_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let protocol = if udp { UDP } else { TCP };
            let tuple = Tuple { source, destination, source_port, destination_port, protocol, zero: [0; 3] };
            Flow { tuple, family, transport: 40, ..Flow::EMPTY }
        };
        let (mut before, after) = (flow(from, ports[0]), flow(to, ports[1]));
        let (pseudo, unfinished) = transport(&before, ports[0], &payload, 0);
        before.length = 40 + u16::try_from(unfinished.len()).unwrap();
        prop_assert!(may_be_unfinished(&before, pseudo));
        let whole = |pseudo: u16, bytes: &[u8]| checksum(&[&pseudo.to_ne_bytes()[..], bytes].concat());
        let finished = match whole(pseudo, &unfinished) {
            0 if udp => 0xffff,
            sum => sum,
        };
        // What is covered may be such that it is no difference whether it is finished.
        prop_assert_eq!(may_be_unfinished(&before, finished), same(finished, pseudo));

        let addresses = Addresses::of(&before, &after.tuple.source, &after.tuple.destination);
        let difference = addresses.difference(family);
        let ports_difference = ports_difference(&before.tuple, &after.tuple);
        let protocol = before.tuple.protocol;
        let written = transport_checksum(protocol, finished, difference, ports_difference);
        let (pseudo, bytes) = transport(&after, ports[1], &payload, written);
        prop_assert!(same(whole(pseudo, &bytes), 0));
        prop_assert!(!udp || written != 0);
        prop_assert!(!udp || transport_checksum(UDP, 0, difference, ports_difference) == 0);
    }
}

/// In one's complement there are two zeros.
fn same(one: u16, other: u16) -> bool {
    one == other || fold(u64::from(one) + 0xffff) == fold(u64::from(other) + 0xffff)
}
