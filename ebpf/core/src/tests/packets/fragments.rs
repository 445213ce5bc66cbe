//! Fragments: what is read of them, and that they go where the first one goes.

use std::vec::Vec;

use causeway_ebpf_abi::{Counter, Datagram, Frontend, Track};

use super::world::World;
use super::{INSIDE, NODE, OUTSIDE, of, packet, syn};
use crate::Verdict;
use crate::packet::{Family, Flow, Found, Part, TCP, UDP, parse, quoted};
use crate::tests::prefilter::Bytes;

extern crate std;

/// A header that says such a place, and ports behind it.
fn fragment(family: Family, protocol: u8, offset: u16, more: bool) -> Bytes {
    let mut bytes = Vec::new();
    match family {
        Family::V4 => {
            let [high, low] = ((offset / 8) | (u16::from(more) << 13)).to_be_bytes();
            bytes.extend([0x45, 0, 0, 60, 0x12, 0x34, high, low, 64, protocol, 0, 0]);
            bytes.extend([203, 0, 113, 5, 192, 0, 2, 1]);
        }
        Family::V6 => {
            let [high, low] = (offset | u16::from(more)).to_be_bytes();
            bytes.extend([0x60, 0, 0, 0, 0, 48, 44, 64]);
            bytes.extend([0x20; 16]);
            bytes.extend([0x30; 16]);
            bytes.extend([protocol, 0, high, low, 0x12, 0x34, 0x56, 0x78]);
        }
    }
    bytes.extend([
        0x9c,
        0x40,
        0,
        80,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0x50,
        Flow::SYN,
        0,
        0,
    ]);
    Bytes(bytes)
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn a_header_says_which_part_it_is() {
    let parts = [
        (0, false, Part::Whole, Found::Flow),
        (0, true, Part::First, Found::Flow),
        (8, true, Part::Later, Found::Fragment),
        (65_528, false, Part::Later, Found::Fragment),
    ];
    for family in FAMILIES {
        for (offset, more, part, found) in parts {
            for protocol in [TCP, UDP] {
                let mut flow = Flow::EMPTY;
                let bytes = fragment(family, protocol, offset, more);
                assert_eq!(parse(&bytes, family, &mut flow), found);
                assert_eq!((flow.part, flow.tuple.protocol), (part, protocol));
                let [transport, next] = match family {
                    Family::V4 => [20, protocol.into()],
                    Family::V6 => [48, 44],
                };
                assert_eq!([flow.transport, flow.next.into()], [transport, next]);
                let number = [0x1234, 0x1234_5678][family as usize];
                assert_eq!(flow.identification, number);
                assert_eq!(flow.begins(), found == Found::Flow);
                let ports = if flow.has_ports() {
                    (40_000, 80)
                } else {
                    (0, 0)
                };
                assert_eq!((flow.tuple.source_port, flow.tuple.destination_port), ports);
            }
        }
    }
}

#[test]
fn fragments_of_others_are_no_concern_of_ours() {
    for (family, icmp) in [(Family::V4, 1), (Family::V6, 58)] {
        for (offset, more) in [(0, true), (8, false)] {
            for protocol in [icmp, 47, 132] {
                let bytes = fragment(family, protocol, offset, more);
                let found = parse(&bytes, family, &mut { Flow::EMPTY });
                assert_eq!(found, Found::Other, "{protocol}");
            }
        }
    }
    // Another header in between, as which a second one of a fragment counts.
    for behind in [0, 43, 44, 60] {
        let bytes = fragment(Family::V6, behind, 0, true);
        let found = parse(&bytes, Family::V6, &mut { Flow::EMPTY });
        assert_eq!(found, Found::Extension);
    }
}

#[test]
fn an_error_about_a_first_fragment_says_whose_it_was() {
    for (family, icmp, kind) in [(Family::V4, 1, 3), (Family::V6, 58, 2)] {
        for (offset, known) in [(0, true), (8, false)] {
            let about = fragment(family, UDP, offset, true);
            let mut error = Flow {
                family,
                transport: 40,
                ..Flow::EMPTY
            };
            error.tuple.protocol = icmp;
            let message = [kind, 0, 0, 0, 0, 0, 0, 0];
            let bytes = [&[0; 40][..], &message, &about.0].concat();
            let mut read = Flow::EMPTY;
            assert_eq!(quoted(&Bytes(bytes), &error, &mut read), known);
            assert_eq!(read.tuple.source_port == 40_000, known);
        }
    }
}

/// A part of the datagram with this number.
fn part(flow: Flow, part: Part, identification: u32) -> Flow {
    let mut flow = Flow {
        part,
        identification,
        ..flow
    };
    if part == Part::Later {
        (flow.tuple.source_port, flow.tuple.destination_port) = (0, 0);
        flow.flags = 0;
    }
    flow
}

#[test]
fn later_fragments_go_where_the_first_one_goes() {
    for whole in [packet(UDP, 0), syn()] {
        let world = World::with(Frontend::MASQUERADE_OTHERS, 50);
        let mut other = whole;
        other.tuple.source_port += 1;
        let becomes = world.translates(&part(whole, Part::First, 7));
        let others = world.translates(&part(other, Part::First, 8));
        assert_eq!((becomes.source, others.source), (NODE, NODE));
        for (number, expected) in [(7, becomes), (8, others), (7, becomes)] {
            let later = part(whole, Part::Later, number);
            assert_eq!(world.takes(&later), (Verdict::Translate, expected));
        }
        // And so do those of the answer.
        let answer = of(becomes.reversed(), Flow::ACK);
        for (place, verdict) in [
            (Part::Later, Verdict::Pass),
            (Part::First, Verdict::Translate),
        ] {
            let answer = part(answer, place, 7);
            assert_eq!(world.takes_at(INSIDE, &answer).0, verdict);
        }
        let (verdict, back) = world.takes_at(INSIDE, &part(answer, Part::Later, 7));
        assert_eq!(
            (verdict, back),
            (Verdict::Translate, whole.tuple.reversed())
        );
        assert_eq!(world.counted(Counter::Translated), 2);
        assert_eq!(world.counted(Counter::FragmentDropped), 0);
        let packets = |of: &Flow| world.tracks.borrow()[&of.tuple].packets;
        assert_eq!((packets(&whole), packets(&other)), (3, 2));
    }
}

#[test]
fn a_later_fragment_begins_nothing() {
    let world = World::with(0, 1);
    assert_eq!(
        world.takes(&part(packet(UDP, 0), Part::Later, 7)).0,
        Verdict::Pass
    );
    assert!(world.tracks.borrow().is_empty());
    assert!(world.told.borrow().is_empty());
}

#[test]
fn where_the_first_one_ended_the_others_end() {
    for (flags, backends, verdict) in [(Frontend::DROP, 1, Verdict::Drop), (0, 0, Verdict::Refuse)]
    {
        let world = World::with(flags, backends);
        let datagram = packet(UDP, 0);
        assert_eq!(world.takes(&part(datagram, Part::First, 7)).0, verdict);
        for _ in 0..2 {
            let later = part(datagram, Part::Later, 7);
            assert_eq!(world.takes(&later).0, Verdict::Drop);
        }
        assert_eq!(world.counted(Counter::FragmentDropped), 2);
        assert!(world.tracks.borrow().is_empty());
    }
}

#[test]
fn a_number_is_another_datagrams_as_soon_as_its_first_fragment_comes() {
    let world = World::with(0, 1);
    let ours = packet(UDP, 0);
    let mut foreign = ours;
    foreign.tuple.destination_port = 81;
    let later = part(ours, Part::Later, 7);
    world.translates(&part(ours, Part::First, 7));
    assert_eq!(world.takes(&later).0, Verdict::Translate);
    assert_eq!(world.takes(&part(foreign, Part::First, 7)).0, Verdict::Pass);
    assert_eq!(world.takes(&later).0, Verdict::Pass);
    assert!(world.ports.borrow().is_empty());
    world.translates(&part(ours, Part::First, 7));
    assert_eq!(world.takes(&later).0, Verdict::Translate);
}

#[test]
fn another_sender_receiver_number_or_protocol_is_another_datagram() {
    let world = World::with(0, 1);
    let first = part(packet(UDP, 0), Part::First, 7);
    world.translates(&first);
    let later = part(first, Part::Later, 7);
    let others: [fn(&mut Flow); 4] = [
        |flow| flow.tuple.source[15] += 1,
        |flow| flow.tuple.destination[15] += 1,
        |flow| flow.identification += 1,
        |flow| flow.tuple.protocol = TCP,
    ];
    for change in others {
        let mut other = later;
        change(&mut other);
        assert_eq!(world.takes(&other).0, Verdict::Pass);
    }
    assert_eq!(world.takes(&later).0, Verdict::Translate);
    let key = Datagram {
        source: first.tuple.source,
        destination: first.tuple.destination,
        identification: 7,
        protocol: UDP,
        zero: [0; 3],
    };
    assert!(world.ports.borrow().keys().eq([&key]));
}

/// A client that is answered by the endpoint's node itself went on when it sent another packet, and
/// not when it sent the rest of one.
#[test]
fn the_rest_of_a_packet_is_no_answer_to_one() {
    let world = World::with(0, 1);
    let first = part(syn(), Part::First, 7);
    world.translates(&first);
    let flags = || world.tracks.borrow()[&first.tuple].flags;
    let track = |flags| {
        world
            .tracks
            .borrow_mut()
            .get_mut(&first.tuple)
            .unwrap()
            .flags = flags;
    };
    track(Track::direct(64));
    world.takes_at(OUTSIDE, &part(first, Part::Later, 7));
    assert_eq!(flags() & Track::ANSWERED, 0);
    world.takes_at(OUTSIDE, &packet(TCP, Flow::ACK));
    assert_eq!(flags() & Track::ANSWERED, Track::ANSWERED);
}
