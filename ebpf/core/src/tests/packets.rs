//! What becomes of packets.

use std::collections::BTreeSet;
use std::vec::Vec;

use causeway_ebpf_abi::{
    Address, Backend, Counter, Frontend, FrontendKey, Hop, Settings, Track, Tuple,
    UNSERVED_DROPPED, UNSERVED_REFUSED, mapped,
};
use proptest::prelude::*;

use crate::packet::{Flow, TCP, UDP};
use crate::{Verdict, Work, answer_to};
use world::World;

mod direct;
mod fragments;
mod straight;
mod told;
mod turning;
mod world;

extern crate std;

/// Where clients come in.
const OUTSIDE: u32 = 2;
/// Where pods are.
const INSIDE: u32 = 3;
const SECOND: u64 = 1_000_000_000;
const VIP: Address = mapped([192, 0, 2, 1]);
const CLIENT: Address = mapped([203, 0, 113, 5]);
const NODE: Address = mapped([10, 244, 1, 1]);

fn pod(number: u8) -> Backend {
    Backend {
        address: mapped([10, 244, 1, number + 2]),
        port: 8080,
        place: 0,
    }
}

fn packet(protocol: u8, flags: u8) -> Flow {
    Flow {
        tuple: Tuple {
            source: CLIENT,
            destination: VIP,
            source_port: 40_000,
            destination_port: 80,
            protocol,
            zero: [0; 3],
        },
        length: 60,
        hops: 64,
        flags,
        ..Flow::EMPTY
    }
}

/// A packet of TCP or UDP with this tuple.
fn of(tuple: Tuple, flags: u8) -> Flow {
    Flow {
        tuple,
        ..packet(tuple.protocol, flags)
    }
}

fn syn() -> Flow {
    packet(TCP, Flow::SYN)
}

#[test]
fn a_packet_that_begins_nothing_known_is_left() {
    let world = World::with(0, 1);
    for flags in [Flow::ACK, Flow::SYN | Flow::ACK, Flow::RST, Flow::FIN] {
        assert_eq!(world.takes(&packet(TCP, flags)).0, Verdict::Pass);
    }
    let mut elsewhere = syn();
    elsewhere.tuple.destination_port = 81;
    assert_eq!(world.takes(&elsewhere).0, Verdict::Pass);
    assert_eq!(
        world.takes_at(9, &syn()).0,
        Verdict::Pass,
        "no interface of ours"
    );
    assert!(world.tracks.borrow().is_empty());
    assert!(world.counted.borrow().is_empty());
}

#[test]
fn the_way_is_asked_for_once_a_second_and_for_what_may_be_too_large() {
    let world = World::with(0, 1);
    let way_back = world.translates(&syn()).reversed();
    let asked = || world.ways.replace(0);
    assert_eq!(asked(), 1);
    let forth = packet(TCP, Flow::ACK);
    let large = Flow {
        length: 1_501,
        ..forth
    };
    for (second, flow, expected) in [
        (0, forth, 0),
        (0, of(way_back, Flow::SYN | Flow::ACK), 1),
        (0, of(way_back, Flow::ACK), 0),
        (0, large, 1),
        (0, forth, 0),
        (2, forth, 1),
        (2, forth, 0),
        (2, of(way_back, Flow::ACK), 1),
    ] {
        world.now.set(second * SECOND);
        world.translates(&flow);
        assert_eq!(asked(), expected, "{second} {flow:?}");
    }
    // What changed meanwhile is heeded then.
    world.narrow.set(true);
    assert_eq!(world.takes(&forth).0, Verdict::Translate);
    assert_eq!(world.takes(&large).0, Verdict::TooBig);
    world.now.set(4 * SECOND);
    assert_eq!(world.takes(&forth).0, Verdict::TooBig);
}

#[test]
fn who_is_not_let_in_meets_silence_and_whoever_is_goes_on() {
    for backends in [0, 1] {
        let mut world = World::with(0, backends);
        for frontend in world.frontends.values_mut() {
            frontend.sources = 5;
        }
        assert_eq!(world.takes(&syn()).0, Verdict::Drop);
        assert_eq!(world.counted(Counter::SourceRefused), 1);
        assert!(world.tracks.borrow().is_empty());
        let served = if backends == 0 {
            Verdict::Refuse
        } else {
            Verdict::Translate
        };
        world.sources.insert(5, CLIENT);
        assert_eq!(world.takes(&syn()).0, served);
        // A connection is not asked again.
        world.sources.clear();
        let later = packet(TCP, Flow::ACK);
        let followed = world.takes(&later).0;
        assert_eq!(followed == Verdict::Translate, backends == 1);
        assert_eq!(world.counted(Counter::SourceRefused), 1);
    }
}

#[test]
fn a_repeated_first_packet_keeps_its_backend() {
    let world = World::with(Frontend::MASQUERADE_OTHERS, 50);
    let first = world.translates(&syn());
    for second in [1, 3, 7, 15] {
        world.now.set(second * SECOND);
        assert_eq!(world.translates(&syn()), first);
    }
    assert_eq!(world.counted(Counter::Translated), 1);
    assert_eq!(world.tracks.borrow().len(), 2);
}

#[test]
fn the_same_port_begins_anew_when_the_connection_is_over() {
    let ends = [
        (true, Flow::FIN | Flow::ACK),
        (true, Flow::RST),
        (false, Flow::FIN | Flow::ACK),
        (false, Flow::RST | Flow::ACK),
    ];
    for (forth, flags) in ends {
        let world = World::with(0, 50);
        let first = world.translates(&syn());
        let last = if forth {
            packet(TCP, flags)
        } else {
            of(first.reversed(), flags)
        };
        world.takes_at(if forth { OUTSIDE } else { INSIDE }, &last);
        assert_ne!(world.translates(&syn()), first);
        assert_eq!(world.counted(Counter::Translated), 2);
        assert_eq!(world.tracks.borrow().len(), 2, "the old one is forgotten");
    }
}

#[test]
fn a_flow_of_datagrams_lasts_longer_when_it_is_answered() {
    for (answered, lasts) in [(false, 30), (true, 180)] {
        let world = World::with(0, 50);
        let datagram = packet(UDP, 0);
        let first = world.translates(&datagram);
        if answered {
            let answer = of(first.reversed(), 0);
            assert_eq!(world.takes_at(INSIDE, &answer).1, datagram.tuple.reversed());
        }
        world.now.set(lasts * SECOND);
        assert_eq!(world.translates(&datagram), first);
        world.now.set(2 * lasts * SECOND + 1);
        assert_ne!(world.translates(&datagram), first);
        assert_eq!(world.counted(Counter::Translated), 2);
    }
}

#[test]
fn whoever_loses_a_race_follows_the_winner() {
    let world = World::with(Frontend::MASQUERADE_OTHERS, 50);
    let winners = Tuple {
        source: NODE,
        source_port: 61_234,
        destination: pod(7).address,
        destination_port: 8080,
        ..syn().tuple
    };
    let track = Track {
        seen: 0,
        packets: 1,
        bytes: 60,
        counted_packets: 0,
        counted_bytes: 0,
        becomes: winners,
        flags: 0,
        service: 0,
        hop: Hop::NONE,
        zero: 0,
    };
    *world.other_processor.borrow_mut() = Some((syn().tuple, track));
    assert_eq!(world.translates(&syn()), winners);
    assert_eq!(world.counted(Counter::Translated), 0);
    assert_eq!(
        world.tracks.borrow().len(),
        1,
        "nothing of the loser's is left"
    );
}

#[test]
fn connections_from_one_port_to_two_frontends_of_one_backend_are_told_apart() {
    let mut world = World::with(0, 1);
    let other = FrontendKey {
        address: VIP,
        port: 81,
        protocol: TCP,
        view: FrontendKey::INSIDE,
    };
    let same = *world.frontends.values().next().unwrap();
    world.frontends.insert(other, same);
    let first = world.translates(&syn());
    let mut second = syn();
    second.tuple.destination_port = 81;
    let becomes = world.translates(&second);
    assert_eq!((first.source, becomes.source), (CLIENT, CLIENT));
    assert_eq!(first.source_port, 40_000);
    assert!(becomes.source_port >= Settings::DEFAULT.first_port);
}

#[test]
fn a_port_is_anothers_as_soon_as_its_connection_is_over() {
    let (fin, rst) = (Some(Flow::FIN), Some(Flow::RST));
    let over = [(fin, fin), (rst, None), (None, rst)];
    let not_yet = [(fin, None), (None, fin), (None, None)];
    for (ends, is_over) in [(over, true), (not_yet, false)] {
        for (forth, back) in ends {
            let world = World::with(Frontend::MASQUERADE_OTHERS, 1);
            let mut ports = BTreeSet::new();
            let mut client = syn();
            let all = usize::from(u16::MAX - Settings::DEFAULT.first_port) + 1;
            while ports.len() < all {
                if let (Verdict::Translate, becomes) = world.takes(&client) {
                    assert!(ports.insert(becomes.source_port));
                    if let Some(flag) = forth {
                        world.takes(&of(client.tuple, flag | Flow::ACK));
                    }
                    if let Some(flag) = back {
                        world.takes(&of(becomes.reversed(), flag | Flow::ACK));
                    }
                }
                client.tuple.source_port = client.tuple.source_port.wrapping_add(1);
            }
            assert_eq!(world.takes(&client).0, Verdict::Drop, "the last packets");
            world.now.set(SECOND);
            let found = world.takes(&client).0 == Verdict::Translate;
            assert_eq!(found, is_over, "{forth:?} {back:?}");
            assert_eq!(world.tracks.borrow().len(), 2 * all);
        }
    }
}

#[test]
fn whoever_sees_other_endpoints_gets_those() {
    let mut world = World::with(Frontend::OUTSIDE_DIFFERS, 1);
    world.serve(FrontendKey::OUTSIDE, Frontend::MASQUERADE_OTHERS, 0);
    assert_eq!(world.takes(&syn()).0, Verdict::Refuse);
    let mut from_a_pod = syn();
    from_a_pod.tuple.source = mapped([10, 244, 9, 9]);
    assert_eq!(world.takes(&from_a_pod).0, Verdict::Translate);
}

#[test]
fn what_nobody_serves_is_left_refused_or_dropped() {
    let mut world = World::default();
    assert_eq!(world.takes(&syn()).0, Verdict::Pass);
    for (what, verdict) in [
        (UNSERVED_REFUSED, Verdict::Refuse),
        (UNSERVED_DROPPED, Verdict::Drop),
    ] {
        world.unserved.insert(VIP, what);
        assert_eq!(world.takes(&syn()).0, verdict);
        assert_eq!(world.takes_at(9, &syn()).0, Verdict::Pass);
    }
}

#[test]
fn nothing_half_done_stays_where_there_is_no_room_or_no_way() {
    for room in [0, 1] {
        let mut world = World::with(0, 1);
        world.room = Some(room);
        assert_eq!(world.takes(&syn()).0, Verdict::Drop);
        assert_eq!(world.counted(Counter::Untracked), 1);
        assert!(world.tracks.borrow().is_empty());
    }
    let world = World::with(0, 1);
    world.narrow.set(true);
    assert_eq!(world.takes(&syn()).0, Verdict::TooBig);
    assert_eq!(world.counted(Counter::TooBig), 1);
    world.lost.set(true);
    assert_eq!(world.takes(&syn()).0, Verdict::Pass);
    assert_eq!(world.counted(Counter::NotForwarded), 1);
    assert!(world.tracks.borrow().is_empty());
}

#[test]
fn sources_that_cannot_be_are_left_to_the_stack() {
    let world = World::with(0, 1);
    for first in [0, 127, 224, 255] {
        let mut martian = syn();
        martian.tuple.source = mapped([first, 0, 0, 1]);
        assert_eq!(world.takes(&martian).0, Verdict::Pass);
    }
}

proptest! {
    /// The table's place depends on the client and the port that it aims at, and on nothing that two
    /// nodes do not have in common.
    #[test]
    fn a_table_says_who_gets_a_client(source_port: u16, last: u8, named in 0_u8..3, places in 1_u32..70_000) {
        let mut world = World::with(0, 3);
        world.named = named.into();
        for frontend in world.frontends.values_mut() {
            (frontend.table, frontend.places) = (9, places);
        }
        let mut flow = syn();
        flow.tuple.source_port = source_port;
        flow.tuple.source = mapped([203, 0, 113, last]);
        prop_assert_eq!(world.translates(&flow).destination, pod(named).address);
        let (table, place) = world.asked.get();
        prop_assert_eq!(table, 9);
        prop_assert!(place < places);

        let mut other = World::with(0, 3);
        other.random.set(77);
        let mut elsewhere = flow;
        elsewhere.tuple.destination = mapped([192, 0, 2, 99]);
        let all: Vec<_> = std::mem::take(&mut world.frontends).into_iter().collect();
        other.frontends = all.into_iter().map(|(mut key, mut frontend)| {
            key.address = elsewhere.tuple.destination;
            frontend.table = 4;
            (key, frontend)
        }).collect();
        other.translates(&elsewhere);
        prop_assert_eq!(other.asked.get(), (4, place));
    }

    /// Whoever connects, the answer comes back to it from where it aimed at, and so does an error
    /// about what it sent.
    #[test]
    fn an_answer_is_the_way_back(
        clients in prop::collection::btree_set((1_u8..=223, any::<u8>(), 1_u16..), 1..40),
        masquerade: bool,
        udp: bool,
        random: u32,
    ) {
        let flags = if masquerade { Frontend::MASQUERADE_OTHERS } else { 0 };
        let world = World::with(flags, 3);
        world.random.set(random);
        let clients = clients.into_iter().filter(|(first, ..)| *first != 127 && *first != 10);
        let flows: Vec<Flow> = clients.map(|(first, last, port)| {
            let mut flow = if udp { packet(UDP, 0) } else { syn() };
            flow.tuple.source = mapped([first, 0, 0, last]);
            flow.tuple.source_port = port;
            flow
        }).collect();
        let translated: Vec<Tuple> = flows.iter().map(|flow| world.translates(flow)).collect();
        for (flow, becomes) in flows.iter().zip(&translated) {
            let expected = if masquerade { NODE } else { flow.tuple.source };
            prop_assert_eq!(becomes.source, expected);
            let answer = of(becomes.reversed(), Flow::SYN | Flow::ACK);
            let (verdict, back) = world.takes_at(INSIDE, &answer);
            prop_assert_eq!((verdict, back), (Verdict::Translate, flow.tuple.reversed()));
            let mut told = Work::EMPTY;
            prop_assert!(answer_to(&world, &of(*becomes, 0), &mut told));
            prop_assert_eq!(told.becomes, flow.tuple.reversed());
        }
        prop_assert_eq!(world.tracks.borrow().len(), 2 * flows.len());
    }
}
